"""Two sides of which one has trouble of each kind, with hostile text wherever text comes from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from exchange.channels import Channel, Stream
from exchange.database.engine import now
from exchange.database.tables import IntakeState, event
from exchange.settings import Settings
from exchange.testing.sides import Sides, create_tables, two_sides
from tests.intake.ledger_rows import add_file, add_part

MARKUP = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=1>{{7*7}}"
HOSTILE = f"{MARKUP}\u202egnp\u2066\u200b\x1b]0;owned\x07\x1b[31m"
RAW = ("<script>window", "<img src=x", "\u202e", "\u2066", "\u200b", "\x1b", "\x07")
"""What of it no page may have as it is."""
SHOWABLE = MARKUP
"""The same for what has to be printable."""


class Base(DeclarativeBase):
    """The application's tables."""


class Note(Base):
    """A note, all of whose columns somebody else wrote."""

    __tablename__ = "note"
    code: Mapped[str] = mapped_column(String(200), primary_key=True)
    words: Mapped[str] = mapped_column(Text)
    more: Mapped[Any] = mapped_column(sa.JSON)


channels = [Channel("notes", source="plant", target="office", streams=[Stream(Note)])]
APP = "tests.console.trouble:channels"


def make_tables(connection: Connection, network: str) -> None:
    """Make them, stricter at the office: what says "refuse" is refused there."""
    if network == "office":
        connection.execute(
            sa.text(
                "CREATE TABLE note (code VARCHAR(200) PRIMARY KEY, words TEXT NOT NULL"
                " CONSTRAINT words_of_ours CHECK (words NOT LIKE '%refuse%'), more JSON)"
            )
        )
    create_tables(channels)(connection, network)


@contextmanager
def troubled(folder: Path, urls: Mapping[str, str] | None = None) -> Iterator[tuple[Sides, Settings]]:
    """Give both sides and the settings of the office, which has letters, gaps, quarantine, an audit and more.

    ``urls`` are those of an empty database for each, SQLite files in the folder unless they are given.
    """
    with two_sides(folder, channels, urls, make_tables=make_tables) as sides:
        plant, office = sides["plant"], sides["office"]
        _send(sides, *(note(f"{HOSTILE} {number}", "refuse") for number in range(10)), note("good", "well"))
        _send(sides, note("second", HOSTILE))
        _send(sides, *(note(f"{number} {HOSTILE}", "refuse") for number in range(20)))
        _lose_one(sides)
        _drop_files(sides["office"].engine)
        _plant_files(office.exchange.settings.incoming)
        sides.cross()
        office.exchange.pause("notes", SHOWABLE, who=SHOWABLE[:90])
        office.exchange.resume("notes", SHOWABLE, who=SHOWABLE[:90])
        first = office.exchange.dead_letters.list(limit=1).letters[0].id
        office.exchange.dead_letters.discard(SHOWABLE, [first], who="nora")
        with Session(plant.engine) as session, session.begin():
            session.add(note("pending", HOSTILE))
        settings = office.exchange.settings.model_copy(update={"app": APP})
        office.exchange.close()
        plant.exchange.close()
        yield sides, settings


def _drop_files(engine: Engine) -> None:
    """Let people have dropped files that go on, wait and were refused, with bad rows."""
    of_somebody = {"file": HOSTILE, "place": HOSTILE, "who": HOSTILE[:200], "message": HOSTILE, "bytes": 1000}
    written = json.dumps({"kind": "csv", "header": [HOSTILE, "x"], "columns": ["code", None], "delimiter": ";"})
    with engine.begin() as connection:
        for state in IntakeState:
            number = add_file(connection, state, **of_somebody, format=written, rows_read=10, started_at=now())
            add_part(connection, number, 0, 0, 500, 500)
            add_part(connection, number, 1, 500, 600, None)
            told = {"subject": "intake", "subject_id": number, "at": now(), "to_state": state, "cause": HOSTILE}
            connection.execute(sa.insert(event).values({**told, "who": "me"}))


def note(code: str, words: str) -> Note:
    """Make one."""
    return Note(code=code[:200], words=f"{words} {HOSTILE}", more={HOSTILE: [HOSTILE, {"more": HOSTILE}]})


def _send(sides: Sides, *rows: Note) -> None:
    with Session(sides["plant"].engine) as session, session.begin():
        for row in rows:
            session.merge(row)
    sides.cross()


def _lose_one(sides: Sides) -> None:
    """Have a batch of the plant be lost, and the one after it wait."""
    plant = sides["plant"]
    with Session(plant.engine) as session, session.begin():
        session.add(note("lost", "gone"))
    plant.exchange.export()
    for path in plant.exchange.settings.outgoing.glob("notes-*"):
        path.unlink()
    for path in (plant.exchange.settings.home / "sealed").rglob("notes-*"):
        path.unlink()
    _send(sides, note("after", "waits"))


def _plant_files(incoming: Path) -> None:
    """Lay files there that no side wrote."""
    for name in (
        "<script>alert(1)<",
        "notes-000000000000-0000000001.manifest.jsonl",
        f"a{HOSTILE[:40]}b".replace("/", "-"),
    ):
        (incoming / name.replace("\x00", "")).write_text(HOSTILE)
