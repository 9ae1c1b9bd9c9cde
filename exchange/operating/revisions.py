"""Whether a database has the tables of this version: by the names of the migrations alone, so that a glance is enough.

A revision is a branch and a number (``core_0017``); the numbers of a branch are its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.format.errors import printable

CORE = "core"
REFERENCE = "reference"
VERSION_TABLE = "exchange_alembic_version"

_VERSION = sa.table(VERSION_TABLE, sa.column("version_num"))


class UnknownRevision(Exception):  # noqa: N818 - an answer to a person
    """No version of this program made the revision that a database is at; the text is one sentence."""


def location() -> Path:
    """Where the migrations lie: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_data" / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


@cache
def _newest() -> dict[str, int]:
    """Give the number of the newest revision of each branch."""
    found: dict[str, int] = {}
    for file in (location() / "versions").glob("*_[0-9][0-9][0-9][0-9]_*.py"):
        branch, number = _parsed("_".join(file.stem.split("_")[:2]))
        found[branch] = max(found.get(branch, 0), number)
    return found


def _parsed(revision: str) -> tuple[str, int]:
    branch, _, number = revision.rpartition("_")
    return branch, int(number) if number.isdecimal() else 0


def read_revisions(connection: Connection) -> tuple[str, ...]:
    """Give the revisions that the database is at; none for one that was never migrated.

    Reads in the caller's transaction.
    """
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return ()
    return tuple(sorted(connection.scalars(sa.select(_VERSION.c.version_num))))


def later_revisions(revisions: Sequence[str]) -> tuple[str, ...]:
    """Give those of a database's revisions that a later version of this program made, whose tables this one works on.

    Between neighbours one only adds (ARCHITECTURE.md, "Migrations"). Raises UnknownRevision for one that is neither
    ours nor later.
    """
    newest = _newest()
    later = []
    for one in revisions:
        branch, number = _parsed(one)
        if branch not in newest or number < 1:
            raise UnknownRevision(
                f"the database is at revision {printable(one, 80)}, which no version of this program made; nothing was"
                " done"
            )
        if number > newest[branch]:
            later.append(one)
    return tuple(later)


def is_behind(revisions: Sequence[str], branches: Sequence[str]) -> bool:
    """Say whether a database at ``revisions`` lacks any of these branches' tables. Raises UnknownRevision."""
    later_revisions(revisions)
    have = dict(map(_parsed, revisions))
    return any(have.get(one, 0) < _newest()[one] for one in branches)
