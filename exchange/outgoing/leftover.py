"""Changes that no export takes: those noted under the name of a stream that this side does not send, or no longer."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from exchange.channels.stream import Stream
from exchange.database import pauses
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import Direction
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, RecordError, printable
from exchange.site import Site
from exchange.tables import capture


@dataclass(frozen=True)
class Leftover(AsDict):
    """How many changes are noted under a name that is no stream of ours, and of which tables more are noted."""

    stream: str
    changes: int
    tables: tuple[str, ...]

    @property
    def problem(self) -> Problem:
        """What it is, and what to do about it."""
        at_least = " or more" if self.changes >= capture.MOST_COUNTED else ""
        still = f"; table {', '.join(self.tables)} adds to them" if self.tables else ""
        return Problem(
            f"{self.changes}{at_least} changes wait under the name {printable(self.stream)}, which no channel sends"
            f" from here{still}",
            "`exchange pending move` gives them to the stream's new name, `exchange pending discard` removes them",
            "exchange pending",
        )


@dataclass(frozen=True)
class Settled(AsDict):
    """What became of leftover changes: how many were moved or discarded."""

    stream: str
    changes: int
    to: str | None = None


MOST_WAITING = 10_000
"""So far the changes of a stream are counted that its next export takes."""


@dataclass(frozen=True)
class Waiting(AsDict):
    """How many changes of a stream wait for its next export; if not ``exact``, at least so many.

    ``paused`` says that a person has its channel stand still.
    """

    channel: str
    stream: str
    changes: int
    exact: bool
    paused: bool


def read_waiting(site: Site) -> list[Waiting]:
    """Say of each stream that is sent from here how much waits. Reads in a transaction of its own.

    Raises TransientError.
    """
    with transient_errors(), reading(site.engine) as connection:
        stopped = {name for way, name in pauses.paused(connection, site.off) if way is Direction.OUT}
        return [
            Waiting(channel.name, stream, min(found, MOST_WAITING), found <= MOST_WAITING, channel.name in stopped)
            for channel in site.channels
            if channel.source == site.network
            for stream in (one.name for one in channel.streams)
            for found in [capture.count_of(connection, stream, MOST_WAITING + 1)]
        ]


def list_leftovers(site: Site, connection: Connection) -> list[Leftover]:
    """Give them by stream. Reads in the caller's transaction, from an index alone."""
    sent = _sent(site)
    return [
        Leftover(name, capture.count_of(connection, name), tuple(capture.noting(connection, name)))
        for name in capture.pending_streams(connection)
        if name not in sent
    ]


def read_leftovers(site: Site) -> list[Leftover]:
    """Give them by stream. Reads in a transaction of its own. Raises TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        return list_leftovers(site, connection)


def discard_leftovers(site: Site, name: str) -> Settled:
    """Remove the changes noted under a name. Commits a transaction of its own.

    Raises RecordError if this side sends a stream of that name or none wait, Busy and TransientError.
    """
    with transient_errors(), writing(site.engine) as connection:
        _check(site, connection, name)
        return Settled(name, capture.discard_pending(connection, name))


def move_leftovers(site: Site, name: str, to: str) -> Settled:
    """Note the changes that are noted under a name for stream ``to`` instead, which its next export takes.

    Commits a transaction of its own. Raises RecordError also if this side sends no stream ``to``, or its key has other
    columns.
    """
    with transient_errors(), writing(site.engine) as connection:
        _check(site, connection, name)
        stream = _sent(site).get(to)
        if stream is None:
            raise RecordError("absurd", "/to", f"this side sends no stream {printable(to)}")
        if not capture.is_key(connection, stream, capture.some_key(connection, name)):
            here = ", ".join(stream.key_names)
            sentence = (
                f"the changes of {printable(name)} do not name rows of {to}, whose key is {here};"
                " `exchange pending discard` removes them, `exchange resync` sends the whole table"
            )
            raise RecordError("absurd", "/to", sentence)
        return Settled(name, capture.move_pending(connection, name, to), to)


def _sent(site: Site) -> dict[str, Stream]:
    return {one.name: one for channel in site.channels if channel.source == site.network for one in channel.streams}


def _check(site: Site, connection: Connection, name: str) -> None:
    if name in _sent(site):
        sentence = f"stream {printable(name)} is sent from here: the next export takes its changes"
        raise RecordError("absurd", "/stream", sentence)
    if name not in capture.pending_streams(connection):
        raise RecordError("absurd", "/stream", f"no change waits under the name {printable(name)}")
