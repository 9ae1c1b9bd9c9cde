"""What a piece of work asks of the database and of the file system, counted; no clock is read.

The databases themselves say how they find rows: PostgreSQL's auto_explain tells of every statement that ran,
triggers' and COPY's too; SQLite shows the program that it makes of one. Temporary tables, settings, statistics
and kept plans are what they are at that moment.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.files.shared_folders import MARKER

PLENTY = 1_000
"""From how many rows on reading without a condition counts as reading a whole table: rows that PostgreSQL read, or
that a statement lets SQLite read."""

_HELD = {MARKER, "token"}
_FILE_EVENTS = ("open", "os.listdir", "os.rename", "os.remove", "os.mkdir")
_ABOUT_NO_ROW = re.compile(r"WHERE (1 = 0|0 = 1)")
_GIVES_A_ROW = {
    "IfPos",
    "Rowid",
    "Column",
    "Variable",
    "Integer",
    "Copy",
    "SCopy",
    "ResultRow",
    "Yield",
    "DecrJumpZero",
}
_OPENS = {"OpenRead", "OpenWrite", "ReopenIdx"}
_watching: list[Watched] = []


@dataclass
class Watched:
    """What was seen."""

    statements: int = 0
    steps: int = 0
    """What the database went through: instructions on SQLite, rows looked at on PostgreSQL, but for its catalogue."""
    files: Counter[str] = field(default_factory=Counter)
    """How often files were opened, moved and so on."""
    listed: list[str] = field(default_factory=list)
    """The folders that were listed."""
    held: Counter[str] = field(default_factory=Counter)
    """How often folders were opened, and what says of a shared one that it is the right one; no file of a batch."""
    indexes: set[str] = field(default_factory=set)
    """The indexes in which something was looked up."""
    whole: list[tuple[str, str]] = field(default_factory=list)
    """Tables that were read from end to end, by their rows or by an index, and the statement that did it."""

    begun: list[tuple[str, str]] = field(default_factory=list)
    """Those that were read from an end of theirs, to the other one or not as far."""

    @property
    def cost(self) -> tuple[int, int, dict[str, int], list[str], dict[str, int]]:
        """All that is counted, to be compared."""
        return (self.statements, self.steps, dict(self.files), self.listed, dict(self.held))

    def step(self) -> None:
        """Count an instruction."""
        self.steps += 1

    def read_whole(self, *tables: str) -> list[tuple[str, str]]:
        """Give the statements that read one of these tables from end to end."""
        return [one for one in self.whole if one[0] in tables]


@contextmanager
def watched(engine: Engine) -> Iterator[Watched]:
    """Watch what is done with new connections of an engine, and with files, until the end of the block."""
    seen = Watched()
    sqlite_like = engine.dialect.name == "sqlite"
    prepare = _prepare_sqlite if sqlite_like else _prepare_postgresql

    def connect(driver: Any, _record: object) -> None:
        prepare(driver, seen)

    def execute(connection: Connection, _cursor: object, statement: str, parameters: Any, *rest: Any) -> None:
        seen.statements += 1
        if sqlite_like:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            many = bool(rest[-1]) and isinstance(parameters[0], (tuple, dict))  # or many rows in one statement
            _explain_sqlite(driver, statement, parameters[0] if many else parameters, seen)

    listeners: dict[str, Callable[..., Any]] = {"connect": connect, "before_cursor_execute": execute}
    engine.dispose()
    for name, listener in listeners.items():
        sa.event.listen(engine, name, listener)
    with engine.connect():
        pass  # what it takes to connect is not counted
    seen.statements = seen.steps = 0
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
        for name, listener in listeners.items():
            sa.event.remove(engine, name, listener)
        engine.dispose()


def _note_file(event: str, arguments: tuple[Any, ...]) -> None:
    for seen in _watching:
        if event == "os.scandir":
            seen.listed.append(_named(arguments[0]).name)
        elif event == "open" and (arguments[2] & os.O_DIRECTORY or _named(arguments[0]).name in _HELD):
            seen.held[event] += 1
        elif event in _FILE_EVENTS:
            seen.files[event] += 1


def _named(place: Any) -> Path:
    """Give a file's path, also where it is named by a descriptor."""
    return Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else Path(os.fsdecode(place))


sys.addaudithook(_note_file)


def _prepare_postgresql(driver: Any, seen: Watched) -> None:
    def told(diagnostic: Any) -> None:
        _, mark, plan = diagnostic.message_primary.partition("plan:\n")
        if mark:
            _read_plan(json.loads(plan), seen)

    driver.execute("LOAD 'auto_explain'")
    for name, value in {
        "log_min_duration": "0",
        "log_format": "json",
        "log_level": "notice",
        "log_analyze": "on",
        "log_timing": "off",
        "log_nested_statements": "on",
    }.items():
        driver.execute(f"SET auto_explain.{name} = {value}")
    driver.commit()
    driver.add_notice_handler(told)


def _read_plan(told: dict[str, Any], seen: Watched) -> None:
    nodes = [told["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        looked_up = {"Index Cond", "Recheck Cond", "TID Cond"} & node.keys()
        if "Index Name" in node and looked_up:
            seen.indexes.add(node["Index Name"])
        if "Relation Name" in node and "Scan" in node["Node Type"]:
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows = round((node["Actual Rows"] + removed) * node["Actual Loops"])
            # How the catalogue is read changes with what others did to it, and its size with no history.
            seen.steps += 0 if node["Relation Name"].startswith("pg_") else rows
            if not looked_up:
                seen.begun.append((node["Relation Name"], told["Query Text"]))
                if rows > PLENTY:
                    seen.whole.append((node["Relation Name"], told["Query Text"]))


def _prepare_sqlite(driver: sqlite3.Connection, seen: Watched) -> None:
    driver.set_progress_handler(seen.step, 1)


def _program(
    driver: sqlite3.Connection, statement: str, parameters: Any, seen: Watched
) -> tuple[list[Any], dict[tuple[int, int], tuple[str, str]]]:
    """Give a statement's program, and the name and the table of each b-tree that it opens; no step of this counts."""
    driver.set_progress_handler(None, 1)
    try:
        program = driver.execute(f"EXPLAIN {statement}", parameters).fetchall()
        places = ",".join({str(place) for _, opcode, _, place, *_ in program if opcode in _OPENS})
        named = "SELECT rootpage, name, tbl_name FROM {}.sqlite_master WHERE rootpage IN ({})"
        names = {
            (number, place): (name, table)
            for number, schema in enumerate(("main", "temp"))
            for place, name, table in driver.execute(named.format(schema, places))
        }
    finally:
        driver.set_progress_handler(seen.step, 1)
    return program, names


def _explain_sqlite(driver: sqlite3.Connection, statement: str, parameters: Any, seen: Watched) -> None:
    """Read which b-trees a statement's program opens, in which it seeks, and which it rewinds to their start."""
    if _ABOUT_NO_ROW.search(statement):  # what it opens it never steps through
        return
    program, names = _program(driver, statement, parameters, seen)
    opened: dict[int, tuple[str, str]] = {}
    for address, opcode, cursor, place, database, *_ in program:
        if opcode in _OPENS and (database, place) in names:
            opened[cursor] = names[database, place]
        elif cursor in opened and opcode in {"SeekGE", "SeekGT", "SeekLE", "SeekLT", "NotFound", "Found"}:
            seen.indexes.add(opened[cursor][0])
        elif cursor in opened and opcode in {"Rewind", "Last", "Count"}:
            seen.begun.append((opened[cursor][1], statement))
            if opcode == "Count" or not _ends_soon(program, address, parameters):
                seen.whole.append((opened[cursor][1], statement))


def _ends_soon(program: list[Any], start: int, parameters: Any) -> bool:
    """Whether the loop behind a rewind goes through few rows: it looks for none, and counts down a small limit.

    Only such a loop is believed in which each step gives a row, or leaves one out for the offset.
    """
    cursor = program[start][2]
    end = next((row[0] for row in program[start:] if row[1] in {"Next", "Prev"} and row[2] == cursor), start)
    body = program[start + 1 : end]
    counted = [row[2] for row in body if row[1] == "DecrJumpZero"]
    if len(counted) != 1 or not {row[1] for row in body} <= _GIVES_A_ROW:
        return False
    counted += [row[2] for row in body if row[1] == "IfPos"]
    most = [_value_of(program, register, parameters) for register in counted]
    return min(most) >= 0 and sum(most) <= PLENTY


def _value_of(program: list[Any], register: int, parameters: Any) -> int:
    """Give the number that a program puts into a register at its beginning; -1 if there is no such."""
    loads = [row for row in program if row[1] in {"Variable", "Integer"} and row[3] == register]
    if len(loads) != 1:
        return -1
    _, opcode, number, *_ = loads[0]
    return int(number if opcode == "Integer" else parameters[number - 1])
