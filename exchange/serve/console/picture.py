"""The link as a picture: a box for each place where rows can be, in the colour of how it is, and an arrow each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from exchange.operating.doctor.finding import Level
from exchange.serve.console.charts import text

_LINE = 17
_SIGNS = {Level.OK: "✓", Level.WARNING: "!", Level.FAULT: "!!"}
_WORDS = {Level.OK: "well", Level.WARNING: "worth a look", Level.FAULT: "needs a person"}


@dataclass(frozen=True)
class Box:
    """One place: its title, what is there (the first line is the strong one), how it is, and the page that tells more.

    ``bars`` are what went by in each hour of a day, in the colour of ``way``.
    """

    title: str
    lines: tuple[str, ...]
    level: Level
    page: str
    bars: Sequence[int] = ()
    way: str = ""

    @property
    def words(self) -> str:
        """Say all of it for whoever hears the page."""
        return f"{self.title}, {_WORDS[self.level]}: {', '.join(self.lines)}"


class _Place(NamedTuple):
    x: float
    y: float
    width: float
    height: float


class _Form(NamedTuple):
    """Where everything is in one form of the picture: the arrows out and in are drawn first, the boxes over them."""

    kind: str
    width: int
    height: int
    boxes: Mapping[str, _Place]
    out: str
    back: str


WIDE = _Form(
    "wide",
    1000,
    262,
    {
        "here": _Place(1, 1, 214, 260),
        "outgoing": _Place(262, 1, 226, 122),
        "incoming": _Place(262, 139, 226, 122),
        "carrier": _Place(535, 1, 198, 260),
        "far": _Place(780, 1, 219, 260),
    },
    "M215 62H259m-8 -5l8 5l-8 5M488 62H532m-8 -5l8 5l-8 5M733 62H777m-8 -5l8 5l-8 5",
    "M262 200H218m8 -5l-8 5l8 5M535 200H491m8 -5l-8 5l8 5M780 200H736m8 -5l-8 5l8 5",
)
STACKED = _Form(
    "stacked",
    340,
    586,
    {
        "here": _Place(1, 1, 338, 112),
        "outgoing": _Place(1, 147, 164, 124),
        "incoming": _Place(175, 147, 164, 124),
        "carrier": _Place(1, 305, 338, 112),
        "far": _Place(1, 451, 338, 132),
    },
    "M83 113V144m-5 -8l5 8l5 -8M83 271V302m-5 -8l5 8l5 -8M83 417V448m-5 -8l5 8l5 -8",
    "M257 147V116m-5 8l5 -8l5 8M257 305V274m-5 8l5 -8l5 8M257 451V420m-5 8l5 -8l5 8",
)


def draw(boxes: Mapping[str, Box], form: _Form, words: str) -> Markup:
    """Draw the link in one of its two forms."""
    arrows = Markup('<path class="path out" d="{}"/><path class="path in" d="{}"/>').format(form.out, form.back)
    drawn = Markup("").join(_box(boxes[name], place) for name, place in form.boxes.items())
    return Markup(
        '<svg class="link {}" viewBox="0 0 {w} {h}" role="group" aria-label="{}"><title>{}</title>{}{}</svg>'
    ).format(form.kind, words, words, arrows, drawn, w=form.width, h=form.height)


def _box(box: Box, at: _Place) -> Markup:
    x, y = at.x + 12, at.y + 22
    lines = [text(x, y, box.title, "soft strong", size=13)]
    lines += [text(x, y + 24, said, "strong", size=17) for said in box.lines[:1]]
    lines += [text(x, y + 27 + _LINE * number, said) for number, said in enumerate(box.lines[1:], start=1)]
    sign = text(at.x + at.width - 11, y, _SIGNS[box.level], f"strong text-{box.level}", size=15, anchor="end")
    bars = _bars(box, x, at.y + at.height - 8, at.width - 24)
    return Markup(
        '<a href="{}" aria-label="{}"><rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="8"/>{}{}{}</a>'
    ).format(box.page, box.words, box.level, *at, sign, Markup("").join(lines), bars)


def _bars(box: Box, x: float, bottom: float, width: float) -> Markup:
    top, step, tall = max(box.bars, default=0) or 1, width / max(len(box.bars), 1), 22
    return Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            f"bar {box.way}" if value else "ground", x + n * step, bottom - high, step * 0.8, high
        )
        for n, value in enumerate(box.bars)
        for high in [max(tall * value / top, 2)]
    )
