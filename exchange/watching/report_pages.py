"""A report as people read it: as text at 72 columns, and as HTML for mail.

The plots of the HTML are cells of tables with a height: those show in every mail program, where SVG does not, and
pictures that come along are blocked or lost on many ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from html import escape

from exchange.database.tables import Direction
from exchange.format.errors import printable
from exchange.format.moments import lasting
from exchange.watching.messages import Message, indented, wrapped
from exchange.watching.report import Crossed, Report
from exchange.watching.samples import Disk

_NAME, _THOUSAND, _HUNDRED, _TEN = 17, 1000, 100, 10
_STEPS = " ▁▂▃▄▅▆▇█"


def as_message(report: Report) -> Message:
    """Give a report as it is sent."""
    faults = sum(one.level == "fault" for one in report.standing)
    warnings = len(report.standing) - faults
    level = "fault" if faults else "warning" if warnings else "ok"
    title = f"[{report.network}] {report.name}: {_how(report)}"
    return Message(title, as_text(report), level, as_html(report))


def as_text(report: Report) -> str:
    """Give a report as text of 72 columns."""
    return "\n".join(line.rstrip() for line in _text(report)) + "\n"


def _text(report: Report) -> Iterator[str]:
    yield from wrapped(_head(report))
    yield ""
    yield from wrapped(f"{_how(report)[0].upper()}{_how(report)[1:]}.")
    for one in report.standing:
        yield from indented(f"{one.level} {one.name}: {one.message}")
        if one.command:
            yield f"  $ {one.command}"
    yield ""
    yield "WHAT CROSSED"
    yield from _crossed(report)
    yield from indented(_meaning(report))
    yield ""
    yield "RECORDS"
    for way in Direction:
        heights = report.bars[way.value]
        yield f"  {_way(way):5} |{_bars([height / (max(heights) or 1) for height in heights])}| most {max(heights):,}"
    yield from indented(f"each bar {lasting((report.until - report.since) / len(report.bars['out']))}, oldest first")
    yield ""
    yield from _parked(report)
    yield ""
    yield from wrapped(_agreement(report))
    yield ""
    yield "DISK"
    for disk in report.disks:
        yield from indented(_disk(disk))
        yield f"  used  |{_bars(report.used[disk.place])}|"


def _crossed(report: Report) -> Iterator[str]:
    yield f"{'':{_NAME}}   batches     records      bytes    median   95 of 100"
    for way in Direction:
        yield f"{_way(way)} {report.peer}"
        for one in report.crossed:
            if one.direction is way:
                yield from _crossed_line(one)


def _crossed_line(one: Crossed) -> Iterator[str]:
    name = f"  {one.channel}"
    if len(name) > _NAME:
        yield name
        name = ""
    yield (
        f"{name:{_NAME}} {one.batches:9,} {one.records:11,} {_bytes(one.bytes):>10} {_time(one.median_seconds):>9}"
        f" {_time(one.most_seconds):>11}"
    )


def _parked(report: Report) -> Iterator[str]:
    if not report.parked:
        yield "PARKED  no dead letter"
        return
    yield from wrapped(f"PARKED  {report.parked:,} dead letters, the oldest since {_day(report.parked_since)}")
    for one in report.causes:
        yield from indented(f"{one.letters:,} {one.error}, {one.where}")
        yield from wrapped(f"e.g. {one.example}: {printable(one.message, 200)}", "    ")
    yield "  $ exchange dead-letters"


def as_html(report: Report) -> str:
    """Give a report as a page without scripts, styles of its own or anything that is fetched."""
    colour = {"fault": "#b3261e", "warning": "#9a6700"}
    worst = "fault" if any(one.level == "fault" for one in report.standing) else "warning"
    how = f'<p style="margin:8px 0;font-size:16px;color:{colour[worst] if report.standing else "#1a7f37"}">'
    parts = [
        f'<p style="margin:0;color:#57606a">{escape(_head(report))}</p>{how}<b>{escape(_how(report))}</b></p>',
        *(
            f'<p style="margin:4px 0 4px 16px"><b style="color:{colour[one.level]}">{one.level} {escape(one.name)}</b>'
            f"<br>{escape(one.message)}" + (f"<br><code>{escape(one.command)}</code>" if one.command else "") + "</p>"
            for one in report.standing
        ),
        _title("What crossed"),
        _block(_crossed(report)),
        _note(_meaning(report)),
        _title("Records"),
        *(
            _plot(f"{_way(way)} {report.peer}", report.bars[way.value], f"most {max(report.bars[way.value]):,}")
            for way in Direction
        ),
        _note(f"each bar {lasting((report.until - report.since) / len(report.bars['out']))}, oldest first"),
        _title("Parked"),
        _parked_html(report),
        _title("Agreement"),
        f"<p>{escape(_agreement(report).removeprefix('AGREEMENT  '))}</p>",
        _title("Disk"),
        *(
            f"<p>{escape(_disk(disk))}</p>{_plot('used', report.used[disk.place], '', whole=1.0)}"
            for disk in report.disks
        ),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>exchange</title></head>'
        '<body style="margin:0;padding:16px;background:#ffffff;color:#1f2328;'
        'font-family:Helvetica,Arial,sans-serif;font-size:14px;line-height:1.4">'
        '<div style="max-width:640px">' + "".join(parts) + "</div></body></html>"
    )


def _title(text: str) -> str:
    return f'<h3 style="margin:20px 0 6px;font-size:15px;border-bottom:1px solid #d0d7de">{text}</h3>'


def _note(text: str) -> str:
    return f'<p style="margin:4px 0;color:#57606a;font-size:12px">{escape(text)}</p>'


def _block(lines: Iterable[str]) -> str:
    """Give lines as they are: what makes text of a page keeps those, and of a table none."""
    style = "margin:4px 0;font-family:Menlo,Consolas,monospace;font-size:12px;line-height:1.5"
    return f'<pre style="{style}">{escape(chr(10).join(lines))}</pre>'


def _plot(name: str, heights: Sequence[float], more: str, whole: float | None = None) -> str:
    """Draw bars as cells: each has one below as high as its share of the highest one, or of ``whole``."""
    top = whole or max(heights, default=0) or 1
    bars = "".join(
        '<td valign="bottom" style="padding:0 1px">'
        f'<div style="width:14px;height:{max(round(height / top * 48), 1)}px;background:#0969da;font-size:0">'
        "</div></td>"
        for height in heights
    )
    return (
        f'<table cellpadding="0" cellspacing="0" style="margin:4px 0"><tr style="height:50px">'
        f'<td valign="bottom" style="width:110px;color:#57606a">{escape(name)}</td>{bars}'
        f'<td valign="bottom" style="padding-left:8px;color:#57606a">{escape(more)}</td></tr></table>'
    )


def _parked_html(report: Report) -> str:
    if not report.parked:
        return "<p>no dead letter</p>"
    lines = "".join(
        f"<li>{one.letters:,} {escape(one.error)}, {escape(one.where)}<br>"
        f'<span style="color:#57606a">{escape(printable(one.message, 200))}</span></li>'
        for one in report.causes
    )
    said = f"{report.parked:,} dead letters, the oldest since {_day(report.parked_since)}"
    return f"<p>{escape(said)}</p><ul>{lines}</ul><code>exchange dead-letters</code>"


# The words of both


def _head(report: Report) -> str:
    return (
        f"Report of network {report.network}, {lasting(report.until - report.since)} until"
        f" {report.until.astimezone():%Y-%m-%d %H:%M %Z}"
    )


def _how(report: Report) -> str:
    if not report.standing:
        return "all is well, no alarm stands"
    number = len(report.standing)
    return f"{number} alarm{'s' if number > 1 else ''} stand{'' if number > 1 else 's'}"


def _way(way: Direction) -> str:
    return "to" if way is Direction.OUT else "from"


def _meaning(report: Report) -> str:
    to = "published, as nothing comes back" if report.one_way else "acknowledged"
    cut = "; of more batches than were looked at" if report.cut else ""
    return f"from sealed to {to}; from sealed there to applied here, by both clocks{cut}"


def _agreement(report: Report) -> str:
    if not report.agreement:
        return "AGREEMENT  nothing was compared yet"
    said = ", ".join(f"{number} {state}" for state, number in sorted(report.agreement.items()))
    which = f": {', '.join(report.differing)}" if report.differing else ""
    return f"AGREEMENT  streams: {said}{which}"


def _disk(disk: Disk) -> str:
    said = f"{disk.place}: {disk.used_share:.0%} used, {_bytes(disk.free)} free"
    if disk.over is None:
        return f"{said}; no forecast yet, it takes a day of samples"
    over = lasting(timedelta(hours=round(disk.over / timedelta(hours=1))))
    if disk.full_at is None:
        return f"{said}; it does not fill (seen over {over})"
    return f"{said}; full on {disk.full_at.astimezone():%Y-%m-%d} at {_bytes(disk.a_day or 0)} a day (seen over {over})"


def _bars(shares: Sequence[float]) -> str:
    return "".join(_STEPS[min(int(share * 8 + 0.999), 8)] for share in shares)


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < _THOUSAND:
            return f"{number:.0f} {unit}" if unit == "B" or number >= _HUNDRED else f"{number:.1f} {unit}"
        number /= _THOUSAND
    return f"{number:.1f} TB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < _TEN else lasting(timedelta(seconds=seconds))


def _day(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d}" if moment else "an unknown day"
