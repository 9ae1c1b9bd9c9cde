"""What all pages have in common: their templates, the words for moments and numbers, and where they lead."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from exchange import __version__
from exchange.database import clock
from exchange.format.errors import printable
from exchange.format.moments import in_words, lasting
from exchange.people.roles import Role
from exchange.serve.console import charts, picture

HERE = Path(__file__).parent
STATIC = HERE / "static"
MOST_CHARACTERS = 20_000
"""So much of a single text is shown; that more is left out is said."""

_KIBI = 1024
_MOST_DIGITS = 10_000


@dataclass(frozen=True)
class Link:
    """A page in the menu: the key after ``g`` that opens it, and who sees it there."""

    path: str
    words: str
    key: str
    least: Role = Role.VIEWER


MENU = (
    (
        "Link",
        (
            Link("/", "Overview", "o"),
            Link("/live", "Live", "l"),
            Link("/peer", "Far side", "f"),
            Link("/batches", "Batches", "b"),
            Link("/dead-letters", "Dead letters", "d"),
            Link("/quarantine", "Quarantine", "q"),
            Link("/gaps", "Gaps", "g"),
            Link("/pending", "Pending", "n"),
            Link("/versions", "Versions", "v"),
            Link("/agreement", "Agreement", "a"),
        ),
    ),
    (
        "This side",
        (
            Link("/health", "Health", "h"),
            Link("/channels", "Channels", "c"),
            Link("/files", "Files", "i"),
            Link("/schedule", "Schedule", "s"),
            Link("/epochs", "Epochs", "e"),
            Link("/keys", "Keys", "k"),
            Link("/settings", "Settings", "t"),
        ),
    ),
    (
        "People",
        (
            Link("/proposals", "Proposals", "p"),
            Link("/audit", "Audit", "u"),
            Link("/people", "Users", "r", Role.ADMINISTRATOR),
        ),
    ),
)
"""What leads where; a page that is not made yet is not in it."""

BADGES = {
    **dict.fromkeys(("loading",), "accent"),
    **dict.fromkeys(
        ("applied", "loaded", "acknowledged", "runs", "ok", "arrived", "resolved", "agrees", "equal"), "ok"
    ),
    **dict.fromkeys(("waiting", "held", "parked", "warning", "paused", "off", "paused there", "missing"), "warning"),
    **dict.fromkeys(("quarantined", "rejected", "refused", "fault", "disagrees", "differs", "lost"), "fault"),
    **dict.fromkeys(("sealed", "published", "pending", "running", "loading"), "accent"),
}
"""The colour of a state; the word itself always stands there, too."""


def moment(at: datetime | None) -> Markup:
    """Give a moment with its age, for people and for programs."""
    if at is None:
        return Markup('<span class="soft">never</span>')
    since = clock.now() - at
    said = f"{lasting(since)} ago" if since >= timedelta() else f"in {lasting(-since)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), in_words(at), said)


def clock_time(at: datetime | None) -> Markup:
    """Give a moment as its date and time, in UTC."""
    if at is None:
        return Markup('<span class="soft">never</span>')
    return Markup('<time datetime="{}" class="nowrap">{}</time>').format(at.isoformat(), in_words(at))


def age(time: timedelta | float | None) -> str:
    """Give a length of time, of seconds or as such."""
    if time is None:
        return ""
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    return f"{seconds:.2g} s" if 0 < seconds < 1 else lasting(timedelta(seconds=seconds))


def number(value: float | None) -> str:
    """Give a number with its thousands set apart; nothing for none."""
    return "" if value is None else f"{value:,}".replace(",", "\u202f")


def size(bytes_: float | None) -> str:
    """Give a size in bytes in the unit that leaves up to four digits."""
    if bytes_ is None:
        return ""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if bytes_ < _MOST_DIGITS:
            return f"{number(round(bytes_))} {unit}"
        bytes_ /= _KIBI
    return f"{number(round(bytes_))} TiB"


def text(value: object) -> str:
    """Give a value from elsewhere as text that shows what is in it: what turns, hides or moves text is written out."""
    said = value if isinstance(value, str) else _json(value)
    lines = said[:MOST_CHARACTERS].split("\n")
    shown = "\n".join(printable(line, MOST_CHARACTERS) for line in lines)
    left = len(said) - MOST_CHARACTERS
    return f"{shown}\n... and {number(left)} characters more" if left > 0 else shown


def sentence(said: str) -> Markup:
    """Give a sentence with the commands in it, which stand between backticks, as such."""
    parts = text(said).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(one) if n % 2 else escape(one) for n, one in enumerate(parts)
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def compact(value: object, most: int = 200) -> str:
    """Give a value from elsewhere on one line of at most so many characters."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), most)


def badge(state: object, words: str | None = None) -> Markup:
    """Give a state as a word in its colour."""
    colour = BADGES.get(str(state), "")
    return Markup('<span class="badge {}">{}</span>').format(colour, words or str(state))


def address(path: str, given: Iterable[tuple[str, str]], **changed: object) -> str:
    """Give the address of a page with its filters as they are, but for those that change; None leaves one out."""
    kept = [(name, value) for name, value in given if name not in changed and value]
    more = [(name, str(value)) for name, value in changed.items() if value not in (None, "")]
    return f"{path}?{urlencode([*kept, *more])}" if kept or more else path


@cache
def templates() -> Environment:
    """Give the templates: whatever is put into one is escaped, and a name that is missing is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "moment": moment,
        "clock": clock_time,
        "age": age,
        "number": number,
        "size": size,
        "text": text,
        "compact": compact,
        "sentence": sentence,
    }
    found.globals |= {
        "badge": badge,
        "address": address,
        "charts": charts,
        "picture": picture,
        "MENU": MENU,
        "version": __version__,
    }
    return found


def rendered(template: str, context: dict[str, Any]) -> str:
    """Give a template filled."""
    return templates().get_template(template).render(context)
