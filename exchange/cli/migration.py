"""What a migration would do, and the way back from one: ``exchange migrate --plan`` and ``--down``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from exchange.cli import output
from exchange.cli.runtime import Refused, fail, settings
from exchange.format.moments import lasting

if TYPE_CHECKING:
    from exchange.operating.migration_plan import Lost, PlannedStatement


def tell_plan(*, as_json: bool) -> None:
    """Print each statement, and below it what it locks, whether it rewrites the table and about how long it takes."""
    from exchange.operating.assemble import assemble, branches
    from exchange.operating.migration_plan import plan_upgrade

    current = settings()
    site = assemble(current, keyless=True)
    try:
        planned = plan_upgrade(site.engine, branches(current), current.network)
    finally:
        site.engine.dispose()
    if as_json:
        for one in planned:
            output.emit(one.as_dict())
        return
    if not planned:
        output.say("nothing is to be done: the database has the tables of this version")
        return
    revision = ""
    for one in planned:
        if one.revision != revision:
            revision = one.revision
            output.tell(f"-- {revision}")
        for line in one.sql.splitlines():
            output.tell(line.rstrip().replace("\t", "  "))
        output.tell(f"--   {_worded(one)}")
    took = lasting(timedelta(seconds=sum(one.seconds for one in planned)))
    output.say(f"{len(planned)} statements in one transaction, about {took}; each lock is held until its end")
    output.say(
        "a lock that others hold is waited for EXCHANGE_LOCK_SECONDS; then nothing is done, and it says who it is"
    )


def _worded(one: PlannedStatement) -> str:
    if one.lock is None:
        return f"nobody waits for it{f': {one.table} is new' if one.table else ''}"
    what = "writes it anew" if one.rewrites else "does not rewrite it"
    about = "a moment" if one.seconds < 1 else f"about {lasting(timedelta(seconds=one.seconds))}"
    return f"locks {one.table} ({one.rows:,} rows): {one.lock}; {what}; {about}"


def go_back(revision: str, *, only_plan: bool, yes: bool, as_json: bool) -> None:
    """Say what is lost on the way back to a revision, ask, and go back."""
    from alembic.util import CommandError

    from exchange.database.errors import transient_errors
    from exchange.operating import migrate
    from exchange.operating.assemble import assemble
    from exchange.operating.migration_plan import plan_downgrade

    current = settings()
    site = assemble(current, keyless=True)
    try:
        lost = plan_downgrade(site.engine, current.network, revision)
        if as_json:
            for one in lost:
                output.emit(one.as_dict())
        else:
            _tell_lost(revision, lost)
        if only_plan:
            return
        if not yes and not sys.stdin.isatty():
            raise Refused("--down: expected --yes where nobody can be asked; nothing was done")
        if not yes and not typer.confirm("go back?", err=True):
            fail()
        try:
            with transient_errors():
                migrate.downgrade(site.engine, network=current.network, revision=revision)
                at = migrate.applied_revisions(site.engine)
        except (CommandError, RuntimeError) as error:
            raise Refused(f"the database can't be taken back: {error}; nothing was done") from error
    finally:
        site.engine.dispose()
    output.say(f"the database is at {', '.join(at)}; `exchange migrate` brings it up again, empty of what was lost")


def _tell_lost(revision: str, lost: list[Lost]) -> None:
    if not lost:
        output.say(f"nothing is lost on the way back to {revision}")
    for one in lost:
        what = f"table {one.table}: {one.rows:,} rows" if one.column is None else None
        output.tell(f"lost: {what or f'column {one.column} of {one.table}: of {one.rows:,} rows'}")
