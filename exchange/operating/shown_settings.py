"""The settings as people may see them: each with its value, where that is from, and no secret."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from exchange.format.as_dict import AsDict
from exchange.settings import NEEDS_RESTART, Settings, variable_name, variables

HIDDEN = "(not shown)"


class Source(StrEnum):
    """Where a setting's value is from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


@dataclass(frozen=True)
class ShownSetting(AsDict):
    """One setting: its variable, its value without what is secret of it, and when a change of it holds."""

    name: str
    value: str
    source: Source
    needs_restart: bool
    description: str
    expected: str


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """Give all settings as they hold in this process, in the order of their page."""
    secrets = sorted(filter(None, settings.passwords), key=len, reverse=True)
    told = zip(Settings.model_fields, variables(), strict=True)
    return [
        ShownSetting(
            variable.name,
            _value(settings, field, secrets),
            _source(settings, field),
            field in NEEDS_RESTART,
            variable.description,
            variable.expected,
        )
        for field, variable in told
    ]


def _value(settings: Settings, field: str, secrets: Iterable[str]) -> str:
    value = getattr(settings, field)
    if value is None:
        return ""
    if field == "database_url":
        return settings.shown_database_url
    if field == "notify":  # its addresses hold secrets, their names do not
        return ", ".join(f"{one.name} ({one.scheme})" for one in settings.notify_targets)
    if field == "notify_alive":  # the address is the secret
        return HIDDEN
    said = f"{value:04o}" if field.endswith("_mode") else str(value).lower() if isinstance(value, bool) else str(value)
    for secret in secrets:
        said = said.replace(secret, HIDDEN)
    return said.partition("?")[0] if field == "broker_url" else said


def _source(settings: Settings, field: str) -> Source:
    if field not in settings.model_fields_set:
        return Source.DEFAULT
    return Source.ENVIRONMENT if os.environ.get(variable_name(field)) else Source.FILE
