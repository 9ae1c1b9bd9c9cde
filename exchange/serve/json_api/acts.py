"""What may be done, each a row of the API's table."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exchange.api import Exchange, RefusedArgument
from exchange.api.batches import Released
from exchange.api.dead_letters import Pace
from exchange.database.tables import Direction
from exchange.dead_letters.edit import Draft
from exchange.files import keys
from exchange.format.as_dict import as_json
from exchange.format.key_terms import Terms
from exchange.serve.json_api.looks import BATCH, FILE, LETTER, LETTER_FILTERS, RETRY, SELECTION, some_letters
from exchange.serve.json_api.table import REASON, WHY, Endpoint, Field, Kind

CHANNEL = Field("channel", "a channel's name", needed=True)
ONE_CHANNEL = Field("channel", "only this channel")
STREAM = Field("stream", "a stream's name", needed=True)
EPOCH = Field("epoch", "an epoch of the other side that waits for a decision", needed=True)
IDS = Field("ids", "the ids of dead letters", Kind.NUMBERS)
OF_SELECTION = Field("selection", "or the letters of this selection")
WAY = Field("direction", "only if it goes this way", among=Direction)
ALARM = Field("alarm", "an alarm's name, as /alarms has it", needed=True)
SUBJECT = Field("subject", "only of this subject")
PACE = (
    Field("rate", "at most so many a second", Kind.SHARE),
    Field("canary", "so many first; on if all hold", Kind.NUMBER),
    Field("stop_after", "end after so many failures", Kind.NUMBER),
    Field("again", "also those tried that stayed parked", Kind.TRUTH),
    Field("skip_changed", "leave out those that changed since", Kind.TRUTH),
)


def _ids_or_selection(asked: dict[str, Any]) -> tuple[list[int], str | None]:
    ids, selection = asked.pop("ids", None), asked.pop("selection", None)
    if bool(ids) is (selection is not None):
        raise RefusedArgument("expected ids or a selection, found both or neither; nothing was done")
    return ids or [], selection


def _retry(exchange: Exchange, *, ids: list[int], reason: str | None = None) -> dict[str, Any]:
    done = exchange.dead_letters.retry(ids, reason=reason)
    return {"dead_letters": [one.without_values().as_dict() for one in done]}


def _retry_selection(exchange: Exchange, *, selection: str, reason: str | None = None, **asked: Any) -> Any:
    pace = Pace(*(asked.pop(name, None) for name in ("rate", "canary", "stop_after")))
    return exchange.dead_letters.retry_in_background(selection, pace, reason=reason, **asked)


def _discard(exchange: Exchange, *, reason: str, skip_changed: bool = False, **asked: Any) -> dict[str, Any]:
    ids, selection = _ids_or_selection(asked)
    number = exchange.dead_letters.discard(reason, ids, selection=selection, skip_changed=skip_changed)
    return {"discarded": number}


def _restore(exchange: Exchange, *, reason: str, **asked: Any) -> dict[str, Any]:
    ids, selection = _ids_or_selection(asked)
    return {"restored": exchange.dead_letters.restore(reason, ids, selection=selection)}


def _record(said: dict[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode()


MENDED = (
    Field("record", "the whole record", Kind.OBJECT),
    Field("row", "instead, of a row of a file that people dropped: the whole row as that file has it"),
)
"""What a person made of a letter: one of the two."""


def _edit(
    exchange: Exchange, *, letter: int, reason: str, record: dict[str, Any] | None = None, row: str | None = None
) -> Any:
    draft = exchange.dead_letters.begin_edit(letter)
    typed = _typed(draft, record, row)
    return exchange.dead_letters.save_edit(draft, typed, reason, pointers=draft.changed(typed))


def _check_edit(
    exchange: Exchange, *, letter: int, record: dict[str, Any] | None = None, row: str | None = None
) -> Any:
    draft = exchange.dead_letters.begin_edit(letter)
    return exchange.dead_letters.check_edit(draft, _typed(draft, record, row))


def _typed(draft: Draft, record: dict[str, Any] | None, row: str | None) -> bytes:
    """Give what was sent: a record, or of a file that people dropped its row. Raises RefusedArgument."""
    of_file = draft.file is not None
    if (row is None) is of_file or (record is None) is not of_file:
        wanted = "row, as its file has it: it is of a file that people dropped" if of_file else "record, as an object"
        raise RefusedArgument(f"expected its {wanted}; nothing was changed")
    return row.encode() if row is not None else _record(record or {})


def _select(exchange: Exchange, *, name: str, filters: dict[str, Any], reason: str | None = None) -> Any:
    if stray := sorted(filters.keys() - {one.name for one in LETTER_FILTERS}):
        raise RefusedArgument(f"filters: expected those of /dead-letters, found {stray[0][:80]!r}; nothing was done")
    if any(not isinstance(value, str) for value in filters.values()):
        raise RefusedArgument("filters: expected a text each; nothing was done")
    return exchange.dead_letters.select(name, some_letters(exchange, filters), reason=reason)


def _unselect(exchange: Exchange, *, selection: str) -> dict[str, Any]:
    exchange.dead_letters.unselect(selection)
    return {"name": selection}


def _import(exchange: Exchange, **asked: Any) -> Any:
    run = exchange.import_batches(asked.pop("channel", None), **asked)
    return run.as_dict() | {"batches": as_json(run.batches)}


def _export(exchange: Exchange, **asked: Any) -> Any:
    run = exchange.export(**asked)
    return run.as_dict() | {"batches": as_json(run.batches)}


def _replay(exchange: Exchange, *, batch: str, **asked: Any) -> Any:
    done = exchange.replay(batch, release=False, **asked)  # too many deletes are let in by a release
    return done.as_dict() | {"batches": as_json(done.batches)}


def _accept_gap(exchange: Exchange, *, channel: str, sequence: int, reason: str, **asked: Any) -> Any:
    return exchange.gaps.accept(channel, sequence, reason, **asked)


def _trust(
    exchange: Exchange,
    *,
    pem: str,
    name: str,
    fingerprint: str,
    reason: str,
    channels: list[str] | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> dict[str, Any]:
    terms = None
    if not_before or not_after or channels:
        try:
            terms = Terms(not_before, not_after, frozenset(channels) if channels else None)
        except ValueError as error:
            raise RefusedArgument(f"{error}; nothing was done") from error
    with TemporaryDirectory() as folder:
        file = Path(folder) / "key.pem"
        file.write_text(pem.strip() + "\n")
        kept = exchange.keys.trust(keys.candidate(file, name), fingerprint, terms, reason=reason)
    return {"name": kept.name, "fingerprint": kept.fingerprint, **kept.terms.as_dict()}


def _released(done: Released) -> Released:
    """Give what became of a batch that was let in. Raises Busy if somebody else is at work on its channel."""
    if done.outcome.busy:
        raise done.outcome.busy
    return done


def _unsilence(exchange: Exchange, *, alarm: str, **asked: Any) -> dict[str, Any]:
    exchange.unsilence_alarm(alarm, **asked)
    return {"alarm": alarm, "subject": asked.get("subject")}


def _untrust(exchange: Exchange, *, key: str, reason: str) -> Any:
    return exchange.keys.untrust(key, reason)


ACTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/export", "Export what changed as signed batches.", _export, (ONE_CHANNEL, REASON), "export"),
    Endpoint(
        "POST",
        "/import",
        "Import what arrived.",
        _import,
        (ONE_CHANNEL, Field("batch", "only this batch"), REASON),
        "import",
    ),
    Endpoint(
        "POST",
        "/batches/{batch}/replay",
        "Apply a kept batch again, or a range of them.",
        _replay,
        (BATCH, Field("through", "and those after it, through this sequence", Kind.NUMBER), REASON),
        "replay_batch",
    ),
    Endpoint(
        "POST",
        "/batches/{batch}/release",
        "Let in a batch that is held, or one refused for its records with those parked.",
        lambda x, **asked: _released(x.batches.release(asked.pop("batch"), **asked)),
        (BATCH, Field("park", "with its bad records parked", Kind.TRUTH), REASON),
        "release_batch",
    ),
    Endpoint(
        "POST",
        "/batches/{batch}/reject",
        "Give up a quarantined or held batch, so that its sender is told.",
        lambda x, batch, reason: x.batches.reject(batch, reason),
        (BATCH, WHY),
        "reject_batch",
    ),
    Endpoint(
        "POST",
        "/resend",
        "Publish batches again: those of a channel, or those of a request code.",
        lambda x, **asked: {"batches": as_json(list(x.batches.resend(**asked)))},
        (ONE_CHANNEL, Field("sequences", "their sequences", Kind.NUMBERS), Field("code", "or a code"), REASON),
        "resend",
    ),
    Endpoint(
        "POST",
        "/channels/{channel}/resync",
        "Have whole tables of a channel sent as they are now.",
        lambda x, **asked: x.resync(asked.pop("channel"), **asked),
        (
            CHANNEL,
            Field("streams", "only these streams", Kind.TEXTS),
            Field("prune", "remove rows over there that are not here", Kind.TRUTH),
            REASON,
        ),
        "resync",
    ),
    Endpoint(
        "POST",
        "/channels/{channel}/pause",
        "Have a channel stand still.",
        lambda x, **asked: x.pause(asked.pop("channel"), asked.pop("reason"), **asked),
        (CHANNEL, WAY, WHY),
        "pause_channel",
    ),
    Endpoint(
        "POST",
        "/channels/{channel}/resume",
        "Let a channel go on that was paused.",
        lambda x, **asked: x.resume(asked.pop("channel"), asked.pop("reason"), **asked),
        (CHANNEL, WAY, WHY),
        "resume_channel",
    ),
    Endpoint(
        "POST",
        "/reconcile",
        "Have both sides compare their rows.",
        lambda x, **asked: {"channels": as_json(list(x.agreement.reconcile(**asked)))},
        (ONE_CHANNEL, REASON),
        "reconcile",
    ),
    Endpoint(
        "POST",
        "/gaps/accept",
        "Go on without what a channel misses.",
        _accept_gap,
        (
            CHANNEL,
            Field("sequence", "the first of it", Kind.NUMBER, needed=True),
            Field("through", "and what is missing behind it, through this one", Kind.NUMBER),
            Field("snapshot", "ask for a snapshot of it (default: true)", Kind.TRUTH),
            WHY,
        ),
        "accept_gap",
    ),
    Endpoint(
        "POST",
        "/quarantine/{batch}/release",
        "Judge one in quarantine anew, with every check.",
        lambda x, **asked: _released(x.quarantine.release(asked.pop("batch"), **asked)),
        (BATCH, REASON),
        "release_quarantined",
    ),
    Endpoint(
        "POST",
        "/quarantine/{batch}/discard",
        "Give one in quarantine up; nobody is told.",
        lambda x, batch, reason: x.quarantine.discard(batch, reason),
        (BATCH, WHY),
        "discard_quarantined",
    ),
    Endpoint(
        "POST",
        "/strangers/clear",
        "Remove all files that nobody vouches for from quarantine.",
        lambda x, reason: x.quarantine.clear(reason),
        (WHY,),
        "clear_strangers",
    ),
    Endpoint(
        "POST",
        "/dead-letters/retry",
        "Try parked ones again, each by its id.",
        _retry,
        (Field("ids", "the ids of dead letters", Kind.NUMBERS, needed=True), REASON),
        "retry_dead_letter",
    ),
    Endpoint(
        "POST",
        "/dead-letters/discard",
        "Give parked ones up, all that are named or none.",
        _discard,
        (IDS, OF_SELECTION, PACE[-1], WHY),
        "discard_dead_letter",
    ),
    Endpoint(
        "POST",
        "/dead-letters/restore",
        "Park again what was discarded, all that are named or none.",
        _restore,
        (IDS, OF_SELECTION, WHY),
        "restore_dead_letter",
    ),
    Endpoint(
        "POST",
        "/dead-letters/{letter}/edit",
        "Keep a mended record beside the one that came, for a retry to take.",
        _edit,
        (LETTER, *MENDED, WHY),
        "edit_dead_letter",
    ),
    Endpoint(
        "POST",
        "/dead-letters/{letter}/check",
        "Check a mended record as an edit would; nothing is saved.",
        _check_edit,
        (LETTER, *MENDED),
        "edit_dead_letter",
    ),
    Endpoint(
        "POST",
        "/selections",
        "Freeze the dead letters that are meant now under a name.",
        _select,
        (
            Field("name", "how it is to be called", needed=True),
            Field("filters", "which are meant, as /dead-letters takes it", Kind.OBJECT, needed=True),
            REASON,
        ),
        "select_dead_letters",
    ),
    Endpoint(
        "DELETE",
        "/selections/{selection}",
        "Forget a selection; its letters stay as they are.",
        _unselect,
        (SELECTION,),
        "unselect_dead_letters",
    ),
    Endpoint(
        "POST",
        "/selections/{selection}/retry",
        "Have what is left of a selection tried in the background.",
        _retry_selection,
        (SELECTION, *PACE, REASON),
        "retry_dead_letter",
    ),
    *(
        Endpoint(
            "POST",
            f"/retries/{{retry}}/{word}",
            says,
            lambda x, retry, reason, word=word: getattr(x.dead_letters, f"{word}_retry")(retry, reason),
            (RETRY, WHY),
            f"{word}_retry",
        )
        for word, says in (
            ("pause", "Have a retry in the background stand still."),
            ("resume", "Let a retry in the background go on."),
            ("cancel", "End a retry in the background where it is."),
        )
    ),
    Endpoint(
        "POST",
        "/files/{file}/cancel",
        "Give up a file that is not loaded yet; what was loaded of it stays, or is deleted again.",
        lambda x, file, reason, undo=False: x.files.cancel(file, reason, undo=undo),
        (FILE, Field("undo", "delete again what was loaded of it", Kind.TRUTH), WHY),
        "cancel_file",
    ),
    Endpoint(
        "POST",
        "/epochs/new",
        "Begin a new life after an earlier copy of the database was restored: everything is sent anew.",
        lambda x, reason, continues=None: x.epochs.new(reason, continues),
        (Field("continues", "the epoch that the other side is in, where nobody here knows it"), WHY),
        "new_epoch",
    ),
    Endpoint(
        "POST",
        "/epochs/{epoch}/adopt",
        "Take an epoch of the other side for its newest.",
        lambda x, epoch, reason: x.epochs.adopt(epoch, reason),
        (EPOCH, WHY),
        "adopt_epoch",
    ),
    Endpoint(
        "POST",
        "/epochs/{epoch}/refuse",
        "Take an epoch of the other side for one that it left.",
        lambda x, epoch, reason: x.epochs.refuse(epoch, reason),
        (EPOCH, WHY),
        "refuse_epoch",
    ),
    Endpoint(
        "POST",
        "/keys/trust",
        "Accept what a key signs, from the next batch on, within the limits that are given.",
        _trust,
        (
            Field("pem", "the text of the other side's .pem file", needed=True),
            Field("name", "what its manifests call the key", needed=True),
            Field("fingerprint", "what the other side says that it is, by another road", needed=True),
            Field("channels", "only batches of these channels", Kind.TEXTS),
            Field("not_before", "only what comes from then on", Kind.MOMENT),
            Field("not_after", "only what has come by then", Kind.MOMENT),
            WHY,
        ),
        "trust_key",
    ),
    Endpoint(
        "POST",
        "/keys/{key}/untrust",
        "Trust a key no longer, from the next batch on.",
        _untrust,
        (Field("key", "the key's name", needed=True), WHY),
        "untrust_key",
    ),
    Endpoint(
        "POST",
        "/pending/{stream}/discard",
        "Remove changes that wait under a name that is not sent from here.",
        lambda x, stream, reason: x.pending.discard(stream, reason),
        (STREAM, WHY),
        "discard_pending",
    ),
    Endpoint(
        "POST",
        "/pending/{stream}/move",
        "Give changes that wait to the name that the stream has now.",
        lambda x, stream, to, reason: x.pending.move(stream, to, reason),
        (STREAM, Field("to", "a stream that is sent from here", needed=True), WHY),
        "move_pending",
    ),
    Endpoint(
        "POST",
        "/versions/let-in",
        "Believe a version of a channel, and what is as far ahead from now on.",
        lambda x, channel, version, reason: x.versions.let_in(channel, version, reason),
        (CHANNEL, Field("version", "the version to believe", Kind.NUMBER, needed=True), WHY),
        "let_in_versions",
    ),
    Endpoint(
        "POST",
        "/versions/free",
        "Let a row that an absurd version has frozen take the next record again.",
        lambda x, stream, key, reason: x.versions.free(stream, key, reason),
        (STREAM, Field("key", "the row's key as JSON", needed=True), WHY),
        "free_row",
    ),
    Endpoint(
        "POST",
        "/schemas/{stream}/accept",
        "Take a stream's model as it is: no record of it has crossed yet.",
        lambda x, stream, reason: x.schemas.accept(stream, reason=reason),
        (STREAM, WHY),
        "accept_schema",
    ),
    Endpoint(
        "POST",
        "/alarms/silence",
        "Have nobody told of an alarm for a while; it still stands.",
        lambda x, alarm, length, reason, subject=None: x.silence_alarm(alarm, length, reason, subject=subject),
        (ALARM, Field("length", "for how long: 90m, 2h, 3d", needed=True), SUBJECT, WHY),
        "silence_alarm",
    ),
    Endpoint(
        "POST",
        "/alarms/unsilence",
        "Have people told of an alarm again.",
        _unsilence,
        (ALARM, SUBJECT, REASON),
        "unsilence_alarm",
    ),
    Endpoint(
        "POST",
        "/alarms/test",
        "Send a trial message to everybody who is told.",
        lambda x, reason=None: {"targets": as_json(x.test_alarms(reason=reason))},
        (REASON,),
        "test_alarms",
    ),
    Endpoint(
        "POST",
        "/prune",
        "Remove what is beyond its retention.",
        lambda x, reason=None: x.prune(reason=reason),
        (REASON,),
        "prune",
    ),
    Endpoint(
        "POST",
        "/reload",
        "Have the running processes read the settings anew.",
        lambda x, reason=None: {"processes": as_json(x.reload(reason=reason))},
        (REASON,),
        "reload",
    ),
    Endpoint(
        "POST",
        "/backup",
        "Make a backup in the folder of the settings.",
        lambda x, reason=None: x.backup(reason=reason),
        (REASON,),
        "backup",
    ),
)
