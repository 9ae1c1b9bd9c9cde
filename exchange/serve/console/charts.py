"""Drawings, as SVG made here: with classes and attributes alone, as a strict policy allows no styles within a page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def bars(
    values: Sequence[float],
    *,
    words: str,
    kind: str = "",
    width: int = 150,
    height: int = 28,
    most: float | None = None,
) -> Markup:
    """Draw numbers as bars, the oldest first; ``words`` says the same to whoever hears the page.

    ``most`` is what the full height stands for, the greatest number unless it is given. What is not 0 is to be seen.
    """
    top = most or max(values, default=0) or 1
    step = width / max(len(values), 1)
    parts = [
        Markup('<rect class="ground" x="{}" y="0" width="{}" height="{}"/>').format(
            _at(index * step), _at(step * 0.8), height
        )
        if not value
        else Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>').format(
            kind, _at(index * step), _at(height - tall), _at(step * 0.8), _at(tall)
        )
        for index, value in enumerate(values)
        for tall in [max(height * min(value / top, 1), 1.5)]
    ]
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{words}">'
        "<title>{words}</title>{parts}</svg>"
    ).format(w=width, h=height, words=words, parts=Markup("").join(parts))


def share(value: float, *, words: str, kind: str = "", width: int = 150, height: int = 10) -> Markup:
    """Draw a share of a whole, from 0 to 1."""
    part = width * min(max(value, 0), 1)
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{words}"><title>{words}</title>'
        '<rect class="ground" width="{w}" height="{h}" rx="3"/>'
        '<rect class="bar {kind}" width="{part}" height="{h}" rx="3"/></svg>'
    ).format(w=width, h=height, words=words, kind=kind, part=_at(part))


def text(x: float, y: float, words: object, kind: str = "", *, size: int = 13, anchor: str = "start") -> Markup:
    """Write words into a drawing."""
    return Markup('<text x="{}" y="{}" class="{}" font-size="{}" text-anchor="{}">{}</text>').format(
        _at(x), _at(y), kind, size, anchor, escape(words)
    )


def _at(value: float) -> str:
    """Give a coordinate with as many digits as anybody sees."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
