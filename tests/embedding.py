"""The examples of deploy/EMBED.md, run as they stand: each by a process of its own, beside one application."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from exchange.testing.sides import TestedSide, two_sides
from tests.readme.session import read_sessions

SOURCE = Path(__file__).parents[1]
RUN_SECONDS = 90.0

EMBEDDED = read_sessions((SOURCE / "deploy" / "EMBED.md").read_text())["embedded"].files


@contextmanager
def embedded_plant(folder: Path, *names: str) -> Iterator[TestedSide]:
    """Give the plant of the page's application, with a row that is to be sent, and those files in the folder."""
    for name in ("shop.py", *names):
        (folder / name).write_text(EMBEDDED[name])
    spec = importlib.util.spec_from_file_location("embedded_shop", folder / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    with two_sides(folder, shop.channels) as sides:
        with Session(sides["plant"].engine) as session, session.begin():
            session.add(shop.Item(id=1, name="press"))
        yield sides["plant"]


def environment(plant: TestedSide, folder: Path) -> dict[str, str]:
    """Give the variables that a process of the plant's has."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
    return clean | {
        "EXCHANGE_NETWORK": "plant",
        "EXCHANGE_PEER": "office",
        "EXCHANGE_HOME": str(plant.exchange.settings.home),
        "EXCHANGE_DATABASE_URL": plant.database_url,
        "EXCHANGE_APP": "shop:channels",
        "PYTHONPATH": f"{folder}{os.pathsep}{SOURCE}",
    }


def run_embedded(
    python: Path, program: str, plant: TestedSide, folder: Path, **variables: str
) -> tuple[dict[str, Any], str]:
    """Run a program in the page's application; give what it prints at its end, and its log."""
    done = subprocess.run(
        [str(python), "-c", program],
        env=environment(plant, folder) | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr
