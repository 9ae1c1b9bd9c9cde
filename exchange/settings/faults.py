"""What is wrong with the settings, and what variables are called."""

from __future__ import annotations

PREFIX = "EXCHANGE_"
ENV_FILE = "EXCHANGE_ENV_FILE"

SECRET = "a text that is no such URL (not shown: it may hold a password)"  # noqa: S105 - words, not a secret
"""What is said to be found in place of a URL."""


class SettingsFaults(Exception):  # noqa: N818 - it carries the faults
    """What is wrong with the settings: ``faults``, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def variable_name(field: str) -> str:
    """Name the variable of a field."""
    return PREFIX + field.upper()
