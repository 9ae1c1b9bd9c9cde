"""The tables beside the models: columns that are missing or stricter, and what else changes what is written."""

from __future__ import annotations

from exchange.database import locks
from exchange.format.errors import Problem, printable
from exchange.operating.doctor.finding import Finding, Findings, Level, of_problem, ok
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables.loader.fitness import indistinct, missing_columns, unfit, unwritable


def _broken(stream: str, problem: Problem) -> Finding:
    return of_problem("columns", problem, Level.FAULT, subject=stream)


def check_columns(_settings: Settings, site: Site) -> Findings:
    """Compare each stream's model with its table; what is received there is written, and may be refused or changed."""
    findings: list[Finding] = []
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            for stream in channel.streams:
                problems = missing_columns(connection, stream)
                if channel.target == site.network:
                    problems += unwritable(connection, stream)
                    findings += (of_problem("columns", one) for one in unfit(connection, stream))
                else:
                    findings += (of_problem("columns", one) for one in indistinct(connection, stream))
                findings += (_broken(stream.name, one) for one in problems)
    yield from findings
    if not findings:
        yield ok("columns", "every table has the columns of its model, and takes what the model allows")
    streams = (stream for channel in site.channels for stream in channel.streams)
    computed = [f"{stream.name}.{printable(one.name)}" for stream in streams for one in stream.computed]
    if computed:
        yield ok("columns", f"each side's database makes these itself, so they don't cross: {', '.join(computed)}")
