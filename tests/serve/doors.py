"""A side where users ask over HTTP, with some users in its directory, served in this process; and whoever asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.database import make_engine
from exchange.link.home import take_over
from exchange.operating.assemble import assemble
from exchange.operating.prepare import prepare
from exchange.reference.models import ProfileType, User
from exchange.requesters import sign_in
from exchange.settings import Settings
from tests.console.served import Answer, Browser, console
from tests.databases import Databases

GOOD = "correct horse battery"
PREFIX = "/api/v1"


def settings_of(home: Path, **more: Any) -> Settings:
    """Give the settings of a side of the network that asks."""
    return Settings(
        network="request", peer="response", home=home, outgoing=home / "outgoing", incoming=home / "incoming", **more
    )


def lend_side(databases: Databases, kind: str, home: Path, **more: Any) -> Settings:
    """Make a side as ``make_side`` does, on either kind of database; on SQLite by copying one that was made once."""
    if kind == "postgresql":
        return make_side(home, database_url=databases.fresh(kind), **more)
    databases.templates.copy_folder("door", _make_once, home)
    made = settings_of(home, **more)
    site = assemble(made)
    take_over(site)
    site.engine.dispose()
    return made


def make_side(home: Path, **more: Any) -> Settings:
    """Make a side of the network that asks, with the users ada and bob and an inactive one in its directory."""
    made = settings_of(home, **more)
    prepare(made).engine.dispose()
    engine = make_engine(made.database_url)
    with Session(engine) as session, session.begin():
        many, few = ProfileType(name="many", daily_limit=10_000, priority=5), ProfileType(name="few", daily_limit=2)
        for name, profile, active in (("ada", many, True), ("bob", few, True), ("eve", many, False)):
            session.add(User(name=name, email=f"{name}@example.org", profile_type=profile, active=active))
    for name in ("ada", "bob", "eve"):
        sign_in.set_password(engine, name, GOOD)
    engine.dispose()
    return made


def switch(engine: Engine, name: str, **values: Any) -> None:
    """Change a user's row, as the directory's next batch does."""
    with engine.begin() as connection:
        connection.execute(sa.update(User).where(User.name == name).values(**values))


@dataclass
class Client:
    """Whoever asks a door, with what is shown as a bearer."""

    browser: Browser
    shown: str = ""
    refresh_token: str = ""

    def ask(self, method: str, path: str, said: Any = None, **headers: str) -> tuple[Answer, Any]:
        """Ask, and give the answer with what its JSON says; ``said`` may be text as it is."""
        body = said if isinstance(said, str) or said is None else json.dumps(said)
        if self.shown:
            headers = {"Authorization": f"Bearer {self.shown}", **headers}
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.browser.ask(method, f"{PREFIX}{path}", body, shown)
        return answer, json.loads(answer.body)

    def sign_in(self, name: str, password: str = GOOD) -> Client:
        """Sign in, and give whoever is from then on."""
        answer, found = Client(self.browser).ask("POST", "/sign-in", {"name": name, "password": password})
        assert answer.status == 200, found
        return Client(self.browser, found["access_token"], found["refresh_token"])

    def showing(self, shown: str) -> Client:
        """Give one who shows something else."""
        return Client(self.browser, shown)


@contextmanager
def door(settings: Settings) -> Iterator[Client]:
    """Serve a side to a stranger until the block ends."""
    with console(settings, None) as browser:
        yield Client(browser)


def _make_once(empty: Path) -> None:
    make_side(empty)
