"""What a spreadsheet would compute instead of showing it, and the apostrophe that keeps it from doing so."""

from __future__ import annotations

import re
from typing import Final

_BEGINNINGS: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""The last four are the full-width twins of the others."""

_BLANKS: Final = " \t\r\n\v\f\u00a0\u3000"
"""What a spreadsheet passes over before it looks."""

SUSPECT: Final = frozenset([*_BEGINNINGS, *_BLANKS])
"""With what a text begins that may be a formula; any other text is none."""

_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)*")


def is_formula(text: str) -> bool:
    """Say whether a spreadsheet may compute a text, or drop its tab or return; a signed number is only a number."""
    if text[:1] in {"\t", "\r"}:
        return True
    return text.lstrip(_BLANKS).startswith(_BEGINNINGS) and not _NUMBER.fullmatch(text)


def defused(text: str) -> str:
    """Give a text as a spreadsheet shows it and does nothing else with it."""
    return "'" + text if is_formula(text) else text
