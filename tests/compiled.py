"""What costs more than most tests and is the same each time: SQL and schemas compiled, the tree of commands."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import typer.testing
from sqlalchemy import Engine, create_engine

from exchange.channels import schemas
from exchange.database import engine as database_engine
from exchange.reference import passwords


class _Compiled(dict[Any, Any]):
    """What SQLAlchemy compiled, by the dialect's name rather than by each engine's own dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((key[0].name, *key[1:]), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__((key[0].name, *key[1:]), compiled)


_compiled = _Compiled()


def _create_engine(*words: Any, **options: Any) -> Engine:
    """Make an engine as SQLAlchemy does, with one cache of compiled statements for all."""
    engine = create_engine(*words, **options)
    engine.update_execution_options(compiled_cache=_compiled)
    return engine


_Judge = schemas._Judge

HASH_COST = passwords._COST
"""What a password's hash costs where no test runs."""


@functools.cache
def _judge(schema: str, under: str, sensitive: frozenset[str]) -> schemas._Judge:
    return _Judge(json.loads(schema), under, sensitive)


def _make_judge(schema: Mapping[str, Any], under: str, sensitive: frozenset[str]) -> schemas._Judge:
    """Give the one judge of a schema, which keeps nothing of what it judged."""
    return _judge(json.dumps(schema), under, sensitive)


def share() -> None:
    """Have each engine of this process and each run of its command line use what others before it made.

    The passwords of these tests are nobody's: what a hash costs is for the one test that asks for it.
    """
    passwords._COST = 2**4
    schemas._Judge = _make_judge  # type: ignore[assignment,misc]
    database_engine.create_engine = _create_engine  # type: ignore[attr-defined]
    typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]
