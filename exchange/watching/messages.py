"""What people are told, worded: a subject of one line, and a text that reads at 72 columns.

What came from outside is escaped before it gets here, in the findings. No message has a row's value that a finding has
not.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from exchange.database import clock
from exchange.format.errors import printable
from exchange.format.moments import in_words, lasting
from exchange.watching.alarms import News

WIDTH = 72
MOST_IN_ONE = 20
"""So many alarms a message tells of whole; of more it has the names."""

_HEADS = {"new": "", "worse": "worse: ", "still": "still: ", "gone": "well again: "}


@dataclass(frozen=True)
class Message:
    """What is told to one or several targets: a ``title`` of one line, ``text``, ``html`` where there is some.

    ``alarms`` is the same for programs; ``level`` is the worst one, or ``ok``.
    """

    title: str
    text: str
    level: str
    html: str = ""
    alarms: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> str:
        """Write it as the outbox keeps it."""
        return json.dumps(
            {"title": self.title, "text": self.text, "level": self.level, "html": self.html, "alarms": self.alarms}
        )

    @classmethod
    def of_json(cls, text: str) -> Message:
        """Read it as the outbox has it."""
        said = json.loads(text)
        return cls(said["title"], said["text"], said["level"], said["html"], tuple(said["alarms"]))


def of_news(network: str, news: Sequence[News], moment: datetime) -> Message:
    """Word what was found at one look, in one message; there is something to tell."""
    standing = [one for one in news if one.what != "gone"]
    level = max((one.standing.level for one in standing), key=("warning", "fault").index, default="ok")
    lines = [*_heads(network, news), ""]
    for one in news[:MOST_IN_ONE]:
        lines += [*_paragraph(one, moment), ""]
    if len(news) > MOST_IN_ONE:
        names = ", ".join(_HEADS[one.what] + one.standing.name for one in news[MOST_IN_ONE:])
        lines += [*wrapped(f"and {len(news) - MOST_IN_ONE} more: {printable(names, 2000)}"), ""]
    lines += wrapped("`exchange alarms` lists what stands; `exchange alarms silence` has it untold for a while.")
    title = f"[{network}] {_title(news)}"
    return Message(title, "\n".join(lines) + "\n", level, alarms=tuple(one.as_dict() for one in news))


def of_trial(network: str, who: str) -> Message:
    """Word a trial."""
    said = f"This is a trial that {who} asked for on network {network} (`exchange alarms test`). Nothing is wrong."
    return Message(f"[{network}] a trial: nothing is wrong", "\n".join(wrapped(said)) + "\n", "ok")


def _title(news: Sequence[News]) -> str:
    first = news[0]
    shown = first.standing.name if first.what == "gone" else f"{first.standing.level}: {first.standing.name}"
    more = f" and {len(news) - 1} more" if len(news) > 1 else ""
    return printable(f"{_HEADS[first.what]}{shown}{more}", 150)


def _heads(network: str, news: Iterable[News]) -> list[str]:
    number = Counter(one.what for one in news)
    words = {"new": "new", "worse": "worse than before", "still": "still there", "gone": "gone"}
    return wrapped(
        f"Alarms of network {network}: {', '.join(f'{number[w]} {said}' for w, said in words.items() if number[w])}."
    )


def _paragraph(news: News, moment: datetime) -> Iterator[str]:
    one = news.standing
    yield from wrapped(f"{_HEADS[news.what]}{one.level.upper() if one.stands else one.level} {one.name}")
    began = one.since or one.first_at
    age = clock.since(began, one.gone_at or moment)
    lasted = lasting(age) if age < _ENDLESS else "an unknown time"
    if news.what == "gone":
        yield from indented(f"it was: {one.message}")
        yield from indented(f"it lasted {lasted}")
    else:
        yield from indented(one.message)
        yield from indented(f"since {in_words(began)} ({lasted})")
        if one.remedy:
            yield from indented(f"what to do: {one.remedy}")
        if one.command:
            yield f"  $ {one.command}"
    if news.held_back:
        yield from indented(f"it came and went {news.held_back} times of which nobody was told")


_ENDLESS = timedelta.max


def wrapped(text: str, indent: str = "") -> list[str]:
    """Give text in lines of 72 columns; no word is cut."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def indented(text: str) -> list[str]:
    """Give the same two columns in."""
    return wrapped(text, "  ")
