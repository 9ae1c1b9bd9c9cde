# ruff: noqa: INP001 - a script beside the files it writes, no part of a package
"""Writes env.example from the settings class: ``python -m deploy.env_example > deploy/env.example``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from exchange.settings import Variable, variables

_HEAD = """\
# Settings of one side of the exchange, written from the settings class by deploy/env_example.py.
# Copy it to .env (or name the copy in EXCHANGE_ENV_FILE), set the required ones, take the # from others you
# change: they show their defaults. The file may hold passwords: keep it 0600.
"""


def render() -> str:
    """Give the whole file."""
    return _HEAD + "".join(_entry(variable) for variable in variables())


def _entry(variable: Variable) -> str:
    return "\n" + "".join(f"{line}\n" for line in _lines(variable))


def _lines(variable: Variable) -> Iterator[str]:
    yield from textwrap.wrap(
        f"{variable.description} Expected: {variable.expected}.",
        108,
        initial_indent="# ",
        subsequent_indent="# ",
    )
    if variable.default is None:
        yield f"{variable.name}="
    else:
        yield f"#{variable.name}={variable.default}"


if __name__ == "__main__":
    sys.stdout.write(render())
