"""Editing: a dead letter's record mended by a person, checked as a batch's record is, and kept as a new revision.

Nothing is applied here: a retry takes the newest revision.
"""

from __future__ import annotations

import json as plain_json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from exchange.channels.channel import Channel
from exchange.channels.stream import HIDDEN
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import MAX_STORED_RECORD_BYTES, DeadLetterState, Direction
from exchange.dead_letters import file_rows, revisions, store
from exchange.dead_letters.file_rows import FileRows, PeoplesFile
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.store import Parked
from exchange.dead_letters.transitions import missing, standing
from exchange.format import json_pointer, strict_json
from exchange.format import record as records
from exchange.format.errors import RecordError, TransientError, printable
from exchange.format.names import CONTROL
from exchange.format.record import Record, RecordRun
from exchange.site import Site
from exchange.tables.loader.decode import checked
from exchange.tables.loader.staging import canonical_key, row_maker

_NOTHING = "nothing was changed"


@dataclass(frozen=True)
class Draft:
    """A letter and its record as they are now.

    ``value`` is None if the record is no JSON object; ``sensitive`` are the columns whose values nobody is to see. Of a
    row of a ``file`` that people dropped it has the cells as ``data``, and is None if they can't be told apart.
    """

    letter: Parked
    channel: Channel
    content: bytes
    value: dict[str, Any] | None
    sensitive: frozenset[str]
    file: PeoplesFile | None = None

    @property
    def shown(self) -> dict[str, Any] | None:
        """The value with hidden values hidden."""
        return None if self.value is None else _with_hidden(self.value, self.sensitive)

    def changed(self, typed: bytes) -> list[str]:
        """Name the columns that a typed row of a file has otherwise, as pointers; none where it can't be read."""
        if self.file is None or self.value is None:
            return []
        try:
            content = file_rows.mended(self.file, typed, self.value["data"], self.sensitive)
        except RecordError:
            return []
        after = {"data": file_rows.parts_of(self.file, content)}
        return revisions.changed_places({"data": self.value["data"]}, after)

    @property
    def text(self) -> str:
        """The record as a person edits it, hidden values hidden.

        Raises TransientError if the record can't be read, so that hidden values could not be told from others.
        """
        if self.file is not None and (self.value is not None or not self.sensitive):
            text = file_rows.text_of(self.file, self.content, self.sensitive)
            if text is not None:
                return text + "\n"
        if self.value is not None and self.file is None:
            return plain_json.dumps(_with_hidden(self.value, self.sensitive), indent=2, ensure_ascii=False) + "\n"
        if self.sensitive:
            msg = f"the record of dead letter {self.letter.id} can't be read, and may hold what nobody is to see"
            raise TransientError(f"{msg}; {_NOTHING}; give the whole record anew with --file")
        return self.content.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Edited:
    """A revision that was saved."""

    id: int
    revision: int
    difference: str

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {"id": self.id, "revision": self.revision, "difference": self.difference.splitlines()}


def begin_edit(site: Site, letter_id: int) -> Draft:
    """Begin to edit a letter. Raises TransientError if it is none that can be edited."""
    with transient_errors(), reading(site.engine) as connection:
        letter = store.find(connection, letter_id)
        if letter is None:
            raise TransientError(str(missing(letter_id)))
        if letter.state is not DeadLetterState.PARKED:
            raise TransientError(f"{standing(connection, letter_id)}; {_NOTHING}")
        content = revisions.newest(connection, letter)
        file = file_rows.file_of(connection, letter)
    if letter.intake is not None:
        return _begin_row(site, letter, file, content)
    if letter.direction is Direction.OUT:
        msg = f"dead letter {letter_id} was not sent: mend its row, not the record; a retry reads the row anew"
        raise TransientError(f"{msg}; {_NOTHING}")
    if letter.channel == CONTROL:
        raise TransientError(
            f"dead letter {letter_id} is the other side's own word; {_NOTHING}; nobody mends that here"
        )
    channel = next((one for one in site.incoming() if one.name == letter.channel), None)
    if channel is None:
        raise TransientError(f"channel {printable(letter.channel)} is no longer declared; {_NOTHING}")
    try:
        value = strict_json.loads(content)
    except RecordError:
        value = None
    sensitive = Mask(site.channels).hidden_in(letter, value)
    return Draft(letter, channel, content, value if isinstance(value, dict) else None, sensitive)


def _begin_row(site: Site, letter: Parked, file: PeoplesFile | None, content: bytes) -> Draft:
    """Begin to edit a row of a file. Raises TransientError."""
    channel = site.channel(letter.channel)
    if file is None or channel is None:
        gone = file_rows.GONE if file is None else f"channel {printable(letter.channel)} is no longer declared"
        raise TransientError(f"{gone}; {_NOTHING}")
    parts = file_rows.parts_of(file, content)
    sensitive = Mask(site.channels).sensitive(letter)
    hidden = sensitive if parts is None else file_rows.hidden_parts(file, parts, sensitive)
    return Draft(letter, channel, content, None if parts is None else {"data": parts}, hidden, file)


def with_changes(begun: Draft, values: Sequence[str], removed: Sequence[str]) -> bytes:
    """Give the record with ``POINTER=VALUE`` set and pointers removed; a VALUE that is no JSON is text.

    Raises TransientError, with nothing changed, for a pointer that leads nowhere.
    """
    if begun.value is None:
        msg = f"the record of dead letter {begun.letter.id} can't be read, so nothing can be set in it"
        raise TransientError(f"{msg}; {_NOTHING}; give the whole record anew with --file")
    value = deepcopy(begun.value)
    for one in values:
        pointer, equals, text = one.partition("=")
        if not equals:
            raise TransientError(f"--set: expected POINTER=VALUE, found {printable(repr(one), 80)}; {_NOTHING}")
        holder, name = _follow_pointer(value, pointer)
        try:
            holder[name] = strict_json.loads(text.encode())
        except RecordError:
            holder[name] = text
    for pointer in removed:
        holder, name = _follow_pointer(value, pointer)
        if isinstance(name, str) and name not in holder:
            raise TransientError(f"{printable(pointer, 80)}: there is nothing in the record; {_NOTHING}")
        del holder[name]
    if begun.file is None:
        return strict_json.dumps(value)
    try:
        return file_rows.typed(begun.file, value["data"])
    except RecordError as error:
        raise EditRefused(f"{error.sentence}; {_NOTHING}", error.pointer) from error


@dataclass(frozen=True)
class Checked:
    """A mended record that would be kept, and how it differs from what is kept now, a line for each place."""

    content: bytes
    record: Record | None
    """None for a row of a file that people dropped."""
    key: str | None
    schema_version: int | None
    difference: str

    def as_dict(self) -> dict[str, Any]:
        """Give what anybody may see of it."""
        return {"difference": self.difference.splitlines()}


class EditRefused(TransientError):  # noqa: N818 - an answer to a person
    """A mended record that is not kept; ``pointer`` names the place at fault, empty if that is the whole record."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


def check_edit(site: Site, begun: Draft, text: bytes) -> Checked:
    """Check a mended record as ``save_edit`` does, and keep nothing. Touches no database. Raises EditRefused."""
    if begun.file is not None:
        return _check_row(site, begun, begun.file, text)
    value = _with_shown(_read(site, text), begun.value or {}, begun.sensitive)
    try:
        content = strict_json.dumps(value)
        if begun.value is not None and content == strict_json.dumps(begun.value):
            raise EditRefused(f"the record of dead letter {begun.letter.id} is as it was; {_NOTHING}")
        record = records.decode(content)
        key, schema_version = _check(site, begun, record)
    except RecordError as error:
        raise EditRefused(f"{error.pointer or 'the record'}: {error.sentence}; {_NOTHING}", error.pointer) from error
    told = "the record could not be read before"
    if begun.value is not None:
        told = revisions.difference(begun.value, value, begun.sensitive)
    return Checked(content, record, key, schema_version, told)


def save_edit(site: Site, begun: Draft, text: bytes, why: str) -> Edited:
    """Check a mended record and keep it as the letter's newest revision.

    Raises TransientError, with nothing changed, if it is no record, breaks its stream's schema, has another key or
    version, is the same as before, or if somebody else was faster.
    """
    letter, mended = begun.letter, check_edit(site, begun, text)
    with transient_errors(), writing(site.engine) as connection:
        number = revisions.add(connection, letter, mended.content, mended.difference, why)
        if mended.record is not None and (letter.key is None or letter.schema_version is None):
            key, schema_version = mended.key or "", mended.schema_version or 1
            revisions.identify(connection, letter.id, mended.record, key, schema_version)
    return Edited(letter.id, number, mended.difference)


def _check_row(site: Site, begun: Draft, file: PeoplesFile, text: bytes) -> Checked:
    """Check a mended row beside its file's header, its columns and its stream's schema."""
    _check_length(site, text)
    before = (begun.value or {}).get("data")
    try:
        content = file_rows.mended(file, text, before, begun.sensitive)
        if content == begun.content:
            raise EditRefused(f"the row of dead letter {begun.letter.id} is as it was; {_NOTHING}")
        FileRows(file, begun.channel).check(site.engine.dialect, content, site.limits.read)
    except RecordError as error:
        raise EditRefused(f"{error.pointer or 'the row'}: {error.sentence}; {_NOTHING}", error.pointer) from error
    told = "the row could not be read before"
    if before is not None:
        after = file_rows.parts_of(file, content)
        told = revisions.difference({"data": before}, {"data": after}, begun.sensitive)
    return Checked(content, None, None, None, told)


def _check_length(site: Site, text: bytes) -> None:
    most = min(site.limits.read.max_record_bytes, MAX_STORED_RECORD_BYTES)
    if len(text) > most:
        raise EditRefused(f"the record is {len(text)} bytes long, at most {most} are kept; {_NOTHING}")


def _read(site: Site, text: bytes) -> dict[str, Any]:
    _check_length(site, text)
    try:
        value = strict_json.loads(text.strip())
    except strict_json.StrictJsonError as fault:
        raise EditRefused(f"the record is not strict JSON: {fault.why}; {_NOTHING}") from fault
    if not isinstance(value, dict):
        raise EditRefused(f"the record: expected an object, found something else; {_NOTHING}")
    return value


def _check(site: Site, begun: Draft, record: Record) -> tuple[str, int]:
    """Check what an import would check of the record alone; give its key and its schema version."""
    letter = begun.letter
    try:
        stream = begun.channel.stream(record.stream)
        key = canonical_key(stream, record.body)
    except KeyError:
        names = ", ".join(one.name for one in begun.channel.streams)
        sentence = f"expected a record of {names} with its whole key, found another one"
        raise RecordError("record", "/stream", sentence) from None
    for what, before, now in (
        ("stream", letter.stream, record.stream),
        ("op", letter.op, record.op.value),
        ("version", letter.version, record.version),
        ("key", letter.key, key),
    ):
        if before is not None and before != now:
            sentence = f"{what}: expected {printable(str(before), 80)} as it came, found {printable(str(now), 80)}"
            raise RecordError("record", f"/{what}", sentence)
    schema_version = letter.schema_version or stream.schema_version
    current = checked(site, {stream.name: schema_version}, record)
    run = RecordRun(current.stream, current.op, [current.version], [current.body])
    row_maker(stream, site.engine.dialect)([1], run)
    return key, schema_version


# Pointers, and what nobody is to see


def _follow_pointer(value: Any, pointer: str) -> tuple[Any, Any]:
    """Follow a JSON pointer to what holds its last step, and give both."""
    steps = json_pointer.split(pointer)
    here = value
    if pointer.startswith("/"):
        for at, step in enumerate(steps):
            name: Any = int(step) if isinstance(here, list) and step.isdecimal() else step
            if at == len(steps) - 1 and (isinstance(here, dict) or (isinstance(here, list) and _is_in(here, name))):
                return here, name
            if not isinstance(here, (dict, list)) or not _is_in(here, name):
                break
            here = here[name]
    shown = printable(repr(pointer), 80)
    msg = f"expected a JSON pointer into the record, such as /data/status, found {shown}; {_NOTHING}"
    raise TransientError(msg)


def _is_in(here: dict[str, Any] | list[Any], name: Any) -> bool:
    return name in here if isinstance(here, dict) else isinstance(name, int) and name < len(here)


def _with_hidden(value: dict[str, Any], sensitive: frozenset[str]) -> dict[str, Any]:
    return {
        member: {name: HIDDEN if name in sensitive else one for name, one in body.items()}
        if member in {"data", "key"} and isinstance(body, dict)
        else body
        for member, body in value.items()
    }


def _with_shown(value: dict[str, Any], before: dict[str, Any], sensitive: frozenset[str]) -> dict[str, Any]:
    """Put the values back that were hidden, where nobody gave others."""
    shown = dict(value)
    for member in {"data", "key"} & value.keys() & before.keys():
        body, old = value[member], before[member]
        if isinstance(body, dict) and isinstance(old, dict):
            hidden = {name for name in sensitive & body.keys() & old.keys() if body[name] == HIDDEN}
            shown[member] = body | {name: old[name] for name in hidden}
    return shown
