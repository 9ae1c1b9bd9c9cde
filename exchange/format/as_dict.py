"""Values as scripts see them: in ``--json``, in results of tasks and in logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from typing import Any


class AsDict:
    """A dataclass whose fields, in their order, are what scripts rely on."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on, as JSON has them."""
        return fields_as_json(self)


def as_json(value: Any) -> Any:
    """Give what JSON has for a value: what its own ``as_dict`` gives, of an enum its value, of a moment ISO 8601."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    match value:
        case Enum():
            return value.value
        case date():
            return value.isoformat()
        case Mapping():
            return {name: as_json(one) for name, one in value.items()}
        case list() | tuple():
            return [one if type(one) in _AS_IT_IS else as_json(one) for one in value]
        case _:
            return fields_as_json(value) if is_dataclass(value) else value


_AS_IT_IS = frozenset({int, str, float, bool, type(None)})
"""Most of what lists have: a digest alone has hundreds."""


def fields_as_json(value: Any) -> dict[str, Any]:
    """Give the fields of a dataclass, in their order, as ``as_json`` gives each."""
    return {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
