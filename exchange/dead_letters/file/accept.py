"""Which letters of a file have a place here, and as what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.engine import now
from exchange.database.tables import MAX_STORED_RECORD_BYTES, DeadLetterState, Direction
from exchange.dead_letters.store import letter_of
from exchange.format import record as records
from exchange.format.batch import HEAD_BYTES
from exchange.format.dead_letter_file import LetterFileEnding, SavedLetter
from exchange.format.errors import RecordError, printable
from exchange.format.record import Record
from exchange.site import Site
from exchange.tables import capture


class Unacceptable(Exception):  # noqa: N818 - an answer, not an error
    """A letter has no place here; the text is one sentence that says why."""


class Acceptance:
    """What is accepted of one file. ``ours`` says that it is this network's own."""

    def __init__(self, site: Site, connection: Connection, ending: LetterFileEnding) -> None:
        self._site = site
        self._connection = connection
        self._file = ending
        self.ours = ending.network == site.network

    def accept(self, letter: SavedLetter) -> SavedLetter:
        """Give a letter as it is to be kept here. Raises Unacceptable."""
        if letter.state not in set(DeadLetterState):
            raise Unacceptable(f"its state {printable(letter.state)} is not known here")
        # Of a line that was longer than the limit its head is kept, of others as much as there is room for.
        if len(letter.record) not in {letter.record_bytes, HEAD_BYTES, MAX_STORED_RECORD_BYTES} or (
            len(letter.record) > letter.record_bytes
        ):
            raise Unacceptable(f"{len(letter.record)} bytes of its record are there, of {letter.record_bytes}")
        if not self.ours:
            return self._refused_by_peer(letter)
        if letter.direction == Direction.OUT:
            self._check_sent(letter)
        else:
            self._check_received(letter)
        return letter

    def _check_sent(self, letter: SavedLetter) -> None:
        """Check a letter that this side could not send: a retry puts its key among the changes."""
        stream = _stream(_channel(self._site.outgoing(), letter, "sent"), letter.stream)
        if letter.key is None or not capture.is_key(self._connection, stream, letter.key):
            raise Unacceptable(f"its key is none of table {stream.table.name}")

    def _check_received(self, letter: SavedLetter) -> None:
        """Check a letter that this side refused: what is said of its record is what the record says."""
        channel = _channel(self._site.incoming(), letter, "received")
        if letter.record_bytes > len(letter.record):
            self._check_key(letter)
            return  # a retry refuses it: not all of it was kept
        fault = RecordError(letter.error, letter.pointer or "", letter.message)
        again = letter_of(channel, {}, letter.record, fault)
        said = (letter.stream, letter.op, letter.key, letter.version)
        if said != (again.stream, again.op, again.key, again.version):
            raise Unacceptable("its stream, op, key or version are not those of its record")

    def _check_key(self, letter: SavedLetter) -> None:
        """Check that a key of which the record is not there is a key at all: it is read as one wherever it is met."""
        try:
            key = None if letter.key is None else json.loads(letter.key)
        except (ValueError, RecursionError):
            key = ()
        if key is not None and not isinstance(key, dict):
            raise Unacceptable("its key is no JSON object")

    def _refused_by_peer(self, letter: SavedLetter) -> SavedLetter:
        """Make a letter that the peer refused one of ours: its row is mended here, and a retry sends it again."""
        peer = self._file.network
        if letter.direction == Direction.OUT:
            raise Unacceptable(f"it never left {peer}, and is mended there")
        if letter.state != DeadLetterState.PARKED:
            raise Unacceptable(f"it is {letter.state} at {peer}, so there is nothing to mend here")
        channel = _channel(self._site.outgoing(), letter, "sent")
        try:
            record = records.decode(letter.record)
            stream = _stream(channel, record.stream)
            key = self._key_here(stream, record)
        except RecordError as error:
            raise Unacceptable(f"its record names no row of ours: {error.sentence}") from error
        if key is None:
            raise Unacceptable(f"its row is no longer in table {stream.table.name} here; retry or discard it at {peer}")
        return replace(
            letter,
            direction=Direction.OUT.value,
            stream=stream.name,
            op=record.op.value,
            key=key,
            version=record.version,
            message=f"{peer} refused it: {printable(letter.message, 2_000)}",
            attempts=1,
            created_at=now(),
        )

    def _key_here(self, stream: Stream, record: Record) -> str | None:
        """Give the key of the row that a record is of, as this side's changes note it; None if it is gone."""
        key = {name: record.body[name] for name in stream.key_names if name in record.body}
        self._site.checkers[stream.name].check_key(key)
        values = stream.key_decoder(self._connection.dialect)([key])
        return capture.key_text(self._connection, stream, [column[0] for column in values])


def _channel(channels: Iterable[Channel], letter: SavedLetter, way: str) -> Channel:
    for channel in channels:
        if channel.name == letter.channel:
            return channel
    raise Unacceptable(f"channel {letter.channel} is not {way} here")


def _stream(channel: Channel, name: str | None) -> Stream:
    try:
        return channel.stream(name or "")
    except KeyError:
        raise Unacceptable(f"channel {channel.name} has no stream {printable(name or 'without a name')}") from None
