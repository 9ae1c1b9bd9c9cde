"""The tasks in another application's Celery: its queues, serializer and tasks are its own, and ours are judged."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from exchange.database import tables
from exchange.files.pid_lock import held
from exchange.testing.sides import TestedSide
from tests.embedding import embedded_plant, environment, run_embedded

from .conftest import START_SECONDS, Side, until

pytestmark = pytest.mark.processes

PROGRAM = """
import json, sys, threading
from celery import signals
from celery.contrib.testing.worker import start_worker
from celery_app import after_import, app

app.conf.update(broker_url="memory://", task_serializer="pickle", accept_content=["pickle", "json"])
app.conf.broker_transport_options = {"visibility_timeout": 100, "polling_interval": 0.01}

done, ended, began = [], {}, threading.Condition()

@app.task(name="shop.double")
def double(number):
    done.append(number.real * 2)
    return number

@signals.task_postrun.connect
def note(task_id=None, task=None, retval=None, **_):
    with began:
        ended[task_id] = (task.name, retval if isinstance(retval, dict) else str(retval))
        began.notify_all()

def wait(*ids):
    with began:
        assert began.wait_for(lambda: set(ids) <= ended.keys(), 60), ended
    return [ended[one] for one in ids]

app.set_default()
with start_worker(app, pool="solo", queues=["celery", "exchange"], perform_ping_check=False, loglevel="WARNING"):
    ids = [
        double.delay(complex(4, 1)).id,  # no JSON has it
        app.send_task("exchange.export", kwargs={"spread": True}, headers={"exchange_tick": True}).id,
        app.tasks["exchange.export"].delay(channel="items", reason="the day is over").id,
        app.send_task("exchange.reconcile", kwargs={"chanel": "items"}).id,
    ]
    with app.connection_for_write() as connection:
        for number, headers in (("s1", {}), ("s2", {"exchange_call": {"who": "me"}})):
            connection.Producer().publish(
                [[], {"channel": "items"}, {}], routing_key="exchange", serializer="json",
                headers={"task": "exchange.export", "id": number, **headers},
            )
    wait(*ids, "s1", "s2")
    (asked,) = wait(after_import.delay(1).id)
    wait(asked[1])
print(json.dumps({"done": done, "ended": ended, "order": ids}))
"""


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[TestedSide]:
    """Give the plant of the page's application, with a row that is to be sent; its files are in ``tmp_path``."""
    with embedded_plant(tmp_path, "celery_app.py") as side:
        yield side


def audited(plant: TestedSide) -> list[tuple[str, str, Any]]:
    acts = sa.select(tables.audit.c.action, tables.audit.c.who, tables.audit.c.why)
    with plant.engine.connect() as connection:
        rows = connection.execute(acts.where(tables.audit.c.concludes.is_(None)).order_by(tables.audit.c.id))
        return [(row.action, "me" if row.who != "unknown" else row.who, row.why) for row in rows]


CHEAP = """
import json, sqlalchemy
from exchange.tasks import use_engine
from celery_app import after_import, app
from exchange.celery.judge import Judge
from exchange.settings import load_settings

app.conf.update(broker_url="memory://", task_serializer="pickle", accept_content=["pickle", "json"])
app.set_default()
app.tasks["exchange.export"].delay(channel="items")
after_import.delay(complex(1, 1))
with app.connection_for_read() as connection:
    ours, theirs = (connection.default_channel.basic_get(name) for name in ("exchange", "celery"))
    found = {"theirs": [theirs.content_type, sorted(one for one in theirs.headers if one.startswith("exchange"))]}
    found["ours"] = [ours.content_type, "exchange_call" in ours.headers, Judge(load_settings()).judge(ours)]
lent = sqlalchemy.create_engine(load_settings().database_url)
taken = []
sqlalchemy.event.listen(lent, "checkout", lambda *_: taken.append(1))
use_engine(lambda: lent)
app.conf.task_always_eager = True
found["eager"] = app.tasks["exchange.export"].delay().get()
found["lent"] = len(taken) > 1 and not lent.pool.checkedout()
found["beat"] = {name: entry["task"] for name, entry in app.conf.beat_schedule.items()}
print(json.dumps(found))
"""


def test_an_application_has_our_tasks_signed_as_json_beside_its_own_and_runs_them_eagerly_in_its_tests(
    tmp_path: Path, plant: TestedSide, forked_python: Path
) -> None:
    found, _ = run_embedded(forked_python, CHEAP, plant, tmp_path)
    assert found["theirs"] == ["application/x-python-serialize", []]
    assert found["ours"] == ["application/json", True, "exchange.export"]
    assert [batch["records"] for batch in found["eager"]["batches"]] == [1]
    assert found["lent"]
    assert found["beat"] == {
        "office-retries": "exchange.work_retries",
        **{f"office-{name}": f"exchange.{name}" for name in ("export", "import", "prune", "reconcile", "intake")},
    }


@pytest.mark.thorough
def test_an_applications_worker_runs_our_tasks_judges_them_alone_and_needs_no_result_backend(
    tmp_path: Path, plant: TestedSide, forked_python: Path
) -> None:
    found, log = run_embedded(forked_python, PROGRAM, plant, tmp_path)
    _, tick, by_hand, wrong = (found["ended"][one] for one in found["order"])
    assert found["done"] == [8]
    assert [batch["records"] for batch in tick[1]["batches"]] == [1]
    assert by_hand[1]["message"] == "nothing to export"
    assert "expected channel, incoming" in wrong[1]
    assert [found["ended"][one][0] for one in ("s1", "s2")] == ["exchange.refused"] * 2
    assert audited(plant) == [
        ("export", "me", "the day is over"),
        *[("export", "unknown", None)] * 2,
        ("export", "me", "the day is over"),
    ]
    assert "a visibility_timeout of 100 seconds gives a task to a second worker" in log


@pytest.mark.thorough
@pytest.mark.valkey
def test_beat_and_a_forking_worker_of_an_application_do_the_work_and_doctor_sees_them(
    tmp_path: Path, plant: TestedSide, valkey_url: str
) -> None:
    settings = plant.exchange.settings
    more = {"CELERY_BROKER_URL": valkey_url, "EXCHANGE_EXPORT_EVERY": "1", "EXCHANGE_IMPORT_EVERY": "1"}
    side = Side(settings.home, tmp_path, environment(plant, tmp_path) | more, Path(sys.executable))
    try:
        app = ("-m", "celery", "-A", "celery_app")
        worker, log = side.start("worker", *app, "worker", "-Q", "celery,exchange", "-c", "2", "--loglevel", "INFO")
        beat, _ = side.start("beat", *app, "beat", "-s", str(tmp_path / "schedule"))
        until(lambda: any(name.name.startswith("items") for name in settings.outgoing.iterdir()))
        until(lambda: held(settings.worker_lock, by_others=True) and held(settings.beat_lock))
        until(lambda: plant.exchange.absences() == [])
        for process in (beat, worker):
            process.send_signal(signal.SIGTERM)
        assert worker.wait(START_SECONDS) == 0, log.read_text()
        assert audited(plant) == []
        with redis.Redis.from_url(valkey_url) as client:
            assert client.keys("celery-task-meta-*") == []
    finally:
        side.stop()
