"""What costs more than most tests and is the same each time: SQL compiled, the tree of commands made of functions."""

from __future__ import annotations

import functools
from typing import Any

import typer.testing
from sqlalchemy import Engine, create_engine

from exchange.database import engine as database_engine


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


def share() -> None:
    """Have each engine of this process and each run of its command line use what others before it made."""
    database_engine.create_engine = _create_engine  # type: ignore[attr-defined]
    typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]
