"""The settings read from the environment and a file, and each variable as people see it."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from exchange.files.ownership import WrongOwner, read_ours
from exchange.format.errors import printable
from exchange.settings.faults import ENV_FILE, PREFIX, SettingsFaults, variable_name
from exchange.settings.model import Settings, expected

_TYPO_LIKENESS = 0.75
OTHER_VARIABLES = {ENV_FILE, f"{PREFIX}SERVICE_HOST", f"{PREFIX}SERVICE_PORT"}
"""Variables that are no settings: ours, and those that Kubernetes gives where a service is named after us."""


@dataclass(frozen=True)
class Variable:
    """One setting as people see it, for ``env.example``. ``default`` is None for a required one."""

    name: str
    description: str
    expected: str
    default: str | None


def load_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """Read and check all settings; ``given`` values, by the names of their fields, go before.

    Raises SettingsFaults with every fault.
    """
    given = given or {}
    faults: list[str] = []
    content = _read_env_file(faults)
    faults += misspelt(set(os.environ) | set(content))
    known = ", ".join(Settings.model_fields)
    faults += [
        f"{printable(name)}: expected a setting ({known}), found none of this name"
        for name in given.keys() - Settings.model_fields.keys()
    ]
    try:
        settings = Settings(**{**_texts(content), **given})
    except ValidationError as error:
        faults += [_sentence(fault) for fault in error.errors(include_url=False)]
        raise SettingsFaults(faults) from None
    if faults:
        raise SettingsFaults(faults)
    return settings


def variables() -> Iterator[Variable]:
    """List every variable in the order of the class."""
    for name, field in Settings.model_fields.items():
        required = field.is_required()
        yield Variable(
            variable_name(name),
            field.description or "",
            expected(name),
            None if required else _written(field.default, name),
        )


def misspelt(names: set[str]) -> list[str]:
    """Say which variables look like a misspelt setting; one that resembles none is not ours to judge."""
    known = {variable_name(name).removeprefix(PREFIX) for name in Settings.model_fields}
    faults = []
    for name in sorted(names):
        ours, _, rest = name.upper().partition(PREFIX)
        if ours or rest in known or name.upper() in OTHER_VARIABLES:
            continue
        # Without the prefix, or everything would look alike.
        if likely := difflib.get_close_matches(rest, known, n=1, cutoff=_TYPO_LIKENESS):
            faults.append(f"{printable(name)}: expected a setting, found none of this name; {PREFIX}{likely[0]}?")
    return faults


def settings_file() -> Path:
    """Say which file the settings are read from, if it is there."""
    return Path(os.environ.get(ENV_FILE) or ".env").absolute()


def _read_env_file(faults: list[str]) -> dict[str, str | None]:
    named = os.environ.get(ENV_FILE)
    file = Path(named) if named else Path(".env")
    shown = printable(str(file))
    try:
        content = read_ours(file)
        if content is not None:
            return dotenv_values(stream=io.StringIO(content.decode()))
        if named:
            faults.append(f"{ENV_FILE}: expected a file of NAME=value lines, found none at {shown}")
    except WrongOwner as fault:
        faults.append(str(fault))
    except OSError as error:
        faults.append(f"{shown}: expected a file of NAME=value lines, but {error.strerror}")
    except UnicodeError:
        faults.append(f"{shown}: expected a file of NAME=value lines, but it is not UTF-8")
    return {}


def _texts(content: dict[str, str | None]) -> dict[str, Any]:
    """Give each field that is set its text: a variable goes before a line of the file, an empty one is an unset one."""
    texts = {name.upper(): text for source in (content, os.environ) for name, text in source.items() if text}
    names = {field: variable_name(field) for field in Settings.model_fields}
    return {field: texts[name] for field, name in names.items() if name in texts}


def _sentence(fault: Any) -> str:
    field = str(fault["loc"][0])
    name = variable_name(field)
    if fault["type"] == "missing":
        return f"{name} is not set: expected {expected(field)}; set it, or let `exchange init` write a .env"
    if fault["type"] == "value_error":
        return f"{name}: {fault['ctx']['error']}"
    return f"{name}: expected {expected(field)}, found {printable(repr(fault['input']))}"


def _written(default: object, field: str) -> str:
    if default is None or default == Path():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:04o}" if field.endswith("_mode") else str(default)
