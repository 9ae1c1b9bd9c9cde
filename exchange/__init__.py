"""Exchange files between two networks that must stay apart: signed batches, applied exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exchange.api import Exchange

__all__ = ["Exchange", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what programs use when it is asked for: no command's start may wait for it."""
    if name != "Exchange":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from exchange.api import Exchange  # noqa: PLC0415 - its whole point

    return Exchange
