"""The rooms of ``exchange/``, bottom up, read from the imports: an arrow only ever points down."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "exchange"


class Room(NamedTuple):
    """A folder or a file of the package. Rooms of one floor know nothing of each other."""

    floor: int
    name: str
    reason: str


ROOMS = (
    Room(0, "__init__", "the version, which files name as their writer; it hands on what programs import from here"),
    Room(1, "format", "pure: bytes in, checked values out; what one side writes the other reads with it alone"),
    Room(1, "tracing", "spans of what is done; it knows nothing of it, and every workflow tells"),
    Room(
        1, "testing", "servers and a carrier for anybody's tests: they handle files and know nothing of what is in them"
    ),
    Room(
        2,
        "database",
        "this side's own state: engine, locks, tables, ledger, audit; it knows no declaration and no batch file",
    ),
    Room(3, "files", "folders, spool, keys: bytes at rest; a lock names its holder as the database's locks do"),
    Room(3, "limits", "what a side writes, accepts and waits for at most; the settings take their defaults from it"),
    Room(4, "progress", "how far long work has come, as numbers and in words; every workflow tells, every door shows"),
    Room(4, "settings", "what a person set; it asks who may write the file that says so, and opens nothing else"),
    Room(4, "channels", "what an application declares, and how its values are written; it opens no database"),
    Room(4, "results", "what a run did, as values: every workflow gives them, every door shows them"),
    Room(5, "site", "one side as the workflows see it: database, spool, keys, channels and limits in one value"),
    Room(5, "reading", "people's files as a stream's values: it is given an open file and knows no database"),
    Room(6, "tables", "the application's tables: changes read from them, rows written into them"),
    Room(6, "reference", "an application as users write theirs: it may use what is below, and only doors know of it"),
    Room(6, "people", "who may do what: users, sessions, tokens, proposals; it knows no batch and no record"),
    Room(7, "dead_letters", "rows that did not take effect: retrying one loads it into its table"),
    Room(7, "alembic", "capture and tables for an application's own migrations"),
    Room(7, "requesters", "who asks over HTTP: it joins the directory of the reference application and our passwords"),
    Room(8, "link", "gaps, receipts, requests, epochs: what both ways share, so it lies below both"),
    Room(9, "outgoing", "changes become batches; it never reads a batch that came"),
    Room(9, "intake", "people's files become rows: dropped, claimed, loaded; it knows no batch"),
    Room(9, "incoming", "batches become rows; it never writes one that goes"),
    Room(
        10,
        "operating",
        "a side set up, examined and tidied, both ways: it may look at either, and nothing runs it but a door",
    ),
    Room(11, "watching", "what a side tells of itself unasked: health, metrics, alarms, reports; of what doctor finds"),
    Room(12, "api", "what programs call, and the doors above: a workflow with what belongs to it, and the audit"),
    Room(
        13,
        "testing.sides",
        "two whole sides for anybody's tests: what programs call, used as a program does, and the fixtures of that",
    ),
    Room(13, "celery", "the alarm clock: nothing below needs it in order to be right"),
    Room(14, "tasks", "the tasks for another application's Celery, which imports it by this name"),
    Room(14, "testing.fixtures", "the same as pytest has it"),
    Room(14, "serve", "the same over HTTP"),
    Room(15, "cli", "commands: they call one workflow and show what it gave; `nudge` and the trial runs start Celery"),
    Room(16, "__main__", "`python -m exchange`: the command"),
)

# The format can be proven from bytes alone if it touches nothing else.
NOT_IN_THE_FORMAT = {"sqlalchemy", "celery", "kombu", "pydantic", "pathlib", "os", "time", "typer"}
# A workflow is right without a broker, a terminal or variables in its environment.
NOT_IN_A_WORKFLOW = {"celery", "kombu", "billiard", "redis", "typer", "rich"}
DOORS = {"settings", "operating", "celery", "tasks", "cli", "__main__"}
# Imported when somebody asks for it by name, never by what is below.
HANDED_ON = {("__init__", "api")}
# `requesters` lets users of its directory in over HTTP, and is what `serve` asks.
KNOW_THE_REFERENCE = {"reference", "operating", "celery", "cli", "requesters"}
# What users' tests import from one place stands above what it uses; the others of that room lie at the bottom.
ROOMS_IN_A_ROOM = {"testing.sides", "testing.fixtures"}
AT_A_GLANCE = 8


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Name a module below the package; the package of a room has the room's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def room_of(name: str) -> str:
    return name if name in ROOMS_IN_A_ROOM else name.partition(".")[0]


@cache
def imports(path: Path) -> frozenset[str]:
    """Name every module that a file imports: at its top, inside a function or for the type checker alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} names a module by where it is itself"
            assert node.module is not None
            package = {alias.name: PACKAGE.parent.joinpath(*node.module.split("."), alias.name) for alias in node.names}
            for name, there in package.items():
                is_module = there.is_dir() or there.with_suffix(".py").is_file()
                found.add(f"{node.module}.{name}" if is_module else node.module)
    return frozenset(found)


def ours(path: Path) -> set[str]:
    """Name the modules below the package that a file imports."""
    return {name.removeprefix("exchange").lstrip(".") or "__init__" for name in imports(path) if is_ours(name)}


def is_ours(name: str) -> bool:
    return room_of(name) == "exchange"


FLOORS = {room.name: room.floor for room in ROOMS}


def test_every_room_stands_in_the_table_once_with_a_reason() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} | ROOMS_IN_A_ROOM

    assert Counter(room.name for room in ROOMS) == Counter(rooms)
    assert all(room.reason for room in ROOMS)
    assert [room.floor for room in ROOMS] == sorted(room.floor for room in ROOMS)


def test_a_module_imports_only_from_its_own_room_and_from_floors_below() -> None:
    up = set()
    for own, path in ((name_of(path), path) for path in modules()):
        others = {name: room_of(name) for name in ours(path)}
        floor = FLOORS[room_of(own)]
        up |= {(own, name) for name, other in others.items() if other != room_of(own) and FLOORS[other] >= floor}

    assert up == HANDED_ON


def test_a_module_imports_no_library_that_its_room_does_without() -> None:
    too_many = {}
    for path in modules():
        room = room_of(name_of(path))
        without = NOT_IN_THE_FORMAT if room == "format" else set() if room in DOORS else NOT_IN_A_WORKFLOW
        too_many[name_of(path)] = without & {room_of(name) for name in imports(path) if not is_ours(name)}

    assert {name: libraries for name, libraries in too_many.items() if libraries} == {}


def test_only_doors_and_the_reference_itself_know_the_reference_application() -> None:
    know = {room_of(name_of(path)) for path in modules() if "reference" in {room_of(name) for name in ours(path)}}

    assert know <= KNOW_THE_REFERENCE


def test_what_ruff_does_not_ask_a_docstring_of_has_one_too_unless_it_is_seen_whole_at_a_glance() -> None:
    """Functions inside others, and methods of private classes; what a codec has is told of by its base."""
    silent = set()
    for path in modules():
        for node in () if path.parent.name == "codecs" else ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node) is None:
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                silent |= {f"{name_of(path)}.{node.name}: {lines} lines"} if lines > AT_A_GLANCE else set()

    assert silent == set()


def test_what_a_module_gives_on_is_there() -> None:
    gives_on = [name_of(path) for path in modules() if "__all__" in path.read_text()]
    given = {name: importlib.import_module(f"exchange.{name}".removesuffix(".__init__")) for name in gives_on}

    assert given
    assert {
        f"{name}.{what}" for name, there in given.items() for what in there.__all__ if not hasattr(there, what)
    } == set()
