"""The exchange within web frameworks, as deploy/EMBED.md shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.embedding import EMBEDDED, embedded_plant, run_embedded

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

FASTAPI = """
import asyncio, json
from fastapi_app import app

def call(method, path):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
    asyncio.run(app(scope | {"client": None, "server": None}, receive, send))
    return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent))

print(json.dumps({"added": call("POST", "/items/lathe"), "status": call("GET", "/status")}))
"""

FLASK = """
import json
from flask_app import app

client = app.test_client()
form = {"reason": "it is gone", "who": "ada"}
print(json.dumps({"letters": client.get("/dead-letters").json,
                  "none": client.post("/dead-letters/7/discard", data=form).status_code}))
"""

DJANGO = """
import json, os, subprocess, sys
import django
from django.conf import settings
from django.core.management import call_command

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["WAREHOUSE"]}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["warehouse"], USE_TZ=True,
                   DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()
call_command("migrate", "warehouse", "0001", verbosity=0)
subprocess.run([sys.executable, "-m", "exchange", "migrate"], check=True, stdout=sys.stderr)
call_command("migrate", verbosity=0)

from warehouse.models import Item
Item.objects.create(name="press")

from exchange import Exchange
with Exchange.from_settings() as exchange:
    print(json.dumps(exchange.export("items").as_dict()))
"""


MODELS = """
from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=40)
"""

FIRST = """
from django.db import migrations, models

key = models.BigAutoField(primary_key=True, serialize=False)
name = models.CharField(max_length=40)


class Migration(migrations.Migration):
    operations = [migrations.CreateModel("Item", [("id", key), ("name", name)])]
"""


def test_fastapi_exports_on_the_applications_own_engine_and_shows_the_status(tmp_path: Path) -> None:
    with embedded_plant(tmp_path, "fastapi_app.py") as plant:
        found, _ = run_embedded(Path(sys.executable), FASTAPI, plant, tmp_path)
    (code, added), (_, status) = found["added"], found["status"]
    assert code == 200
    assert sum(batch["records"] for batch in added["batches"]) == 2
    assert status["network"] == "plant"


def test_flask_shows_dead_letters_and_discards_in_the_name_of_who_asks(tmp_path: Path) -> None:
    with embedded_plant(tmp_path, "flask_app.py") as plant:
        found, _ = run_embedded(Path(sys.executable), FLASK, plant, tmp_path)
    assert found == {"letters": [], "none": 404}


def test_django_tables_are_reflected_captured_by_its_migrations_and_sent(tmp_path: Path) -> None:
    with embedded_plant(tmp_path) as plant:
        for name in ("warehouse/channels.py", "warehouse/migrations/0002_capture.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(EMBEDDED[name])
        for name in ("warehouse/__init__.py", "warehouse/migrations/__init__.py"):
            (tmp_path / name).touch()
        (tmp_path / "warehouse" / "models.py").write_text(MODELS)
        (tmp_path / "warehouse" / "migrations" / "0001_initial.py").write_text(FIRST)
        database = tmp_path / "warehouse.db"
        variables = {"EXCHANGE_DATABASE_URL": f"sqlite:///{database}", "EXCHANGE_APP": "warehouse.channels:channels"}
        found, _ = run_embedded(Path(sys.executable), DJANGO, plant, tmp_path, WAREHOUSE=str(database), **variables)
    assert [(batch["channel"], batch["records"]) for batch in found["batches"]] == [("items", 1)]


def test_no_example_is_longer_than_thirty_lines() -> None:
    assert {name: len(code.splitlines()) for name, code in EMBEDDED.items() if len(code.splitlines()) > 30} == {}
