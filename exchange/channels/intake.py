"""An intake: which files of people become rows of a stream, and how they are written.

A declaration is checked at start, beside the channels. Nothing here opens a file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from exchange.channels.channel import Channel, ChannelFaults, imported
from exchange.channels.stream import Stream
from exchange.format.errors import printable

_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")

Format = Literal["auto", "csv", "jsonl"]
Mode = Literal["insert", "upsert", "replace"]
OnInvalid = Literal["park", "reject"]


@dataclass(frozen=True)
class Written:
    """How the cells of a file are written. None: it is found out from the file's beginning."""

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    decimal: Literal[".", ","] | None = None
    """The decimal sign of numbers; the other one may group their digits."""
    dates: Sequence[str] = ()
    """Formats of dates and moments as ``strptime`` has them, tried in order beside ISO 8601."""
    nulls: Collection[str] = ("",)
    """Words that stand for NULL where they are not quoted."""
    time_zone: str | None = None
    """The zone of moments that say none, as the IANA names it; without one they are refused."""


@dataclass(frozen=True, eq=False)
class Intake:
    """Files that become rows of ``stream``, which this side writes.

    ``name`` is unique among the intakes. ``folder`` is looked at, relative to the side's home; without one files are
    taken in by command alone. ``mapping`` says which column a file's header means, ``defaults`` what columns have that
    a file lacks, in a file's spelling. ``key`` are the columns that tell rows apart, the table's key unless given.
    ``mode``: a row whose key is there already is bad (``insert``) or changed (``upsert``); after ``replace`` the table
    has the file's rows alone. ``on_invalid``: bad rows become dead letters (``park``), up to ``bad_rows`` and
    ``bad_share`` of them, or the first one refuses the file. ``whole``: the file in one transaction, else by segments.
    ``marker`` is what a file's companion ends with that says it is complete, else it is when it has stopped changing.
    Files of a greater ``priority`` go first. With ``http`` programs send rows of the stream as JSON lines, too
    (``POST /api/v1/streams/NAME`` of ``exchange serve``): one intake of a stream has it.
    """

    name: str
    stream: Any
    """A Stream, a mapped class or a table of one that a channel declares; ``stream_of`` finds it."""
    folder: str | None = None
    format: Format = "auto"
    mapping: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    on_invalid: OnInvalid = "park"
    key: Sequence[str] = ()
    mode: Mode = "insert"
    bad_rows: int | None = None
    """How many; None takes the side's setting."""
    bad_share: float | None = None
    whole: bool = False
    marker: str | None = None
    priority: int = 0
    pattern: str = "*"
    """Which names of the folder are meant, as a shell has it."""
    written: Written = field(default_factory=Written)
    http: bool = False

    def stream_of(self, channels: Sequence[Channel]) -> Stream | None:
        """Find the declared stream that is meant; None if no channel has it."""
        for stream in (one for channel in channels for one in channel.streams):
            if self.stream in (stream, stream.name):
                return stream
            table = getattr(self.stream, "table", getattr(self.stream, "__table__", self.stream))
            if getattr(table, "key", None) == stream.table.key or table is stream.table:
                return stream
        return None


def check_intakes(intakes: Sequence[Intake], channels: Sequence[Channel]) -> list[str]:
    """Check intakes beside the channels of the same declaration; gives every fault found, in sentences."""
    names = [one.name for one in intakes]
    faults = [f'intake "{printable(name)}": more than one has this name' for name in {*names} if names.count(name) > 1]
    sent = [stream.name for one in intakes if one.http and (stream := one.stream_of(channels)) is not None]
    faults += [f"stream {name}: more than one intake has http=True" for name in {*sent} if sent.count(name) > 1]
    for one in intakes:
        faults += [f'intake "{printable(one.name)}": {fault}' for fault in _faults(one, channels)]
    return faults


def load_intakes(spec: str, channels: Sequence[Channel]) -> tuple[Intake, ...]:
    """Give the list ``intakes`` of the module whose channels ``package.module:attribute`` names, if it has one.

    Raises ChannelFaults.
    """
    module = imported(spec.partition(":")[0], f'intakes beside "{printable(spec)}"')
    declared = getattr(module, "intakes", ())
    if not isinstance(declared, (list, tuple)) or not all(isinstance(one, Intake) for one in declared):
        raise ChannelFaults([f"intakes: expected a list of Intake objects, found {printable(repr(declared), 80)}"])
    if faults := check_intakes(declared, channels):
        raise ChannelFaults(faults)
    return tuple(declared)


def _faults(intake: Intake, channels: Sequence[Channel]) -> Iterator[str]:
    if not _NAME.fullmatch(intake.name):
        yield "its name must be a lower-case letter, then at most 62 letters, digits, _, . or -"
    for name, allowed in (("format", get_args(Format)), ("mode", get_args(Mode)), ("on_invalid", get_args(OnInvalid))):
        if getattr(intake, name) not in allowed:
            yield f"{name} must be {' or '.join(allowed)}, found {printable(repr(getattr(intake, name)), 80)}"
    folder = PurePosixPath(intake.folder or "drop")
    if ".." in folder.parts:
        yield f"folder {printable(str(folder))} leads out of the side's home"
    if intake.written.encoding is not None:
        try:
            codecs.lookup(intake.written.encoding)
        except LookupError:
            yield f"encoding {printable(intake.written.encoding, 80)} is unknown"
    stream = intake.stream_of(channels)
    if stream is None:
        yield "its stream is in no declared channel"
        return
    known = set(stream.names)
    for what, named in (("mapping", intake.mapping.values()), ("defaults", intake.defaults), ("key", intake.key)):
        if unknown := [name for name in named if name not in known]:
            yield f"{what} names {printable(', '.join(unknown), 200)}, which stream {stream.name} has not"
