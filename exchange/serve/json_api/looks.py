"""What may be looked at, each a row of the API's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from exchange.api import Exchange
from exchange.api.batches import BatchFilters
from exchange.api.keys import in_use
from exchange.database.tables import BatchState, DeadLetterState, Direction, GapState, IntakeState
from exchange.format.as_dict import as_json
from exchange.format.errors import TransientError
from exchange.serve.json_api.table import AFTER, AFTER_ID, LIMIT, Endpoint, Field, Kind, moments

CHANNEL = Field("channel", "only of this channel")
BATCH = Field("batch", "a batch's name", needed=True)
LETTER = Field("letter", "a dead letter's id", Kind.NUMBER, needed=True)
SELECTION = Field("selection", "a selection's name", needed=True)
FILE = Field("file", "the number of a file that was dropped", Kind.NUMBER, needed=True)
RETRY = Field("retry", "the number of a retry in the background", Kind.NUMBER, needed=True)
REVEAL = Field("reveal", "show what is sensitive, too: for who may see it, and in the audit", Kind.TRUTH)
STATE_OF_LETTERS = Field("state", "only in this state (default: parked)", among=DeadLetterState)
LETTER_FILTERS = (
    STATE_OF_LETTERS,
    CHANNEL,
    Field("stream", "only of this stream"),
    Field("batch", "only of this batch"),
    Field("error", "only of this class of error"),
    Field("fingerprint", "only of this cause"),
    Field("key", "only of the row with this key: JSON, or its only value"),
    Field("direction", "only this way", among=Direction),
    Field("since", "only parked from then on"),
    Field("until", "only parked before then"),
    Field("text", "only with this in the message"),
    Field("selection", "only of this selection"),
    Field("intake", "only rows of the file of this number that people dropped"),
)


def some_letters(exchange: Exchange, asked: dict[str, Any]) -> Any:
    """Read which letters are meant; of no state those that are parked."""
    return exchange.dead_letters.read_filters({"state": DeadLetterState.PARKED, **asked})


def _batches(exchange: Exchange, *, limit: int = 50, after: int | None = None, **asked: Any) -> Any:
    return exchange.batches.list(BatchFilters(**asked), limit=limit, after=after)


def _letters(exchange: Exchange, *, limit: int = 50, after: int | None = None, **asked: Any) -> dict[str, Any]:
    page = exchange.dead_letters.list(some_letters(exchange, asked), limit=limit, after=after)
    count = {"number": page.count.letters, "exact": page.count.exact}
    letters = [one.as_dict() for one in page.letters]
    return {"letters": letters, "after": page.after, "count": count, "cut": page.cut}


def _letter_lines(exchange: Exchange, **asked: Any) -> Iterator[Any]:
    return exchange.dead_letters.lines(some_letters(exchange, asked))


def _letter(exchange: Exchange, *, letter: int, reveal: bool = False) -> Any:
    found = exchange.dead_letters.reveal(letter) if reveal else exchange.dead_letters.show(letter)
    if found is None:
        raise NotThere(f"there is no dead letter {letter}")
    return found


def _selections(exchange: Exchange, *, limit: int = 50) -> dict[str, Any]:
    return {"selections": as_json(list(exchange.dead_letters.newest_selections(limit)))}


def _rehearsal(exchange: Exchange, *, selection: str, again: bool = False, skip_changed: bool = False) -> Any:
    return {"outcomes": as_json(exchange.dead_letters.rehearse(selection, again=again, skip_changed=skip_changed))}


def _audit(exchange: Exchange, **asked: Any) -> dict[str, Any]:
    page = exchange.audit.list(**asked)
    return {"entries": as_json(page.entries), "after": page.next}


def _all(name: str, found: Sequence[Any]) -> dict[str, Any]:
    return {name: as_json(list(found))}


def _keys(exchange: Exchange) -> dict[str, Any]:
    found = [
        {
            "name": one.name,
            "use": in_use(one),
            "trusted": one.trusted,
            "signs": one.signs,
            "fingerprint": one.fingerprint,
            "fault": one.fault,
            **(one.terms.as_dict() if one.trusted else {}),
        }
        for one in exchange.keys.list()
    ]
    return {"keys": found}


def _crossed(exchange: Exchange, *, since: datetime) -> Any:
    return exchange.crossed(since)


class NotThere(TransientError):  # noqa: N818 - an answer to whoever asks
    """There is nothing of this name."""


LOOKS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/status", "How far each channel is, and what waits for somebody.", lambda x: x.status()),
    Endpoint("GET", "/health", "How this side is, at a glance.", lambda x: x.health()),
    Endpoint("GET", "/findings", "What `exchange doctor` finds, all of it.", lambda x: _all("findings", x.findings())),
    Endpoint("GET", "/alarms", "What stands since when, who was told, what is silenced.", lambda x: x.alarms()),
    Endpoint(
        "GET",
        "/crossed",
        "What crossed since a moment, by channel, direction and hour.",
        _crossed,
        (Field("since", "from when on", Kind.MOMENT, needed=True),),
    ),
    Endpoint(
        "GET", "/channels", "All declared channels, each with how it stands.", lambda x: _all("channels", x.channels())
    ),
    Endpoint("GET", "/schedule", "What is done when, when it was done last, and by whom.", lambda x: x.schedule()),
    Endpoint(
        "GET",
        "/settings",
        "All settings without secrets, and where each came from.",
        lambda x: _all("settings", x.shown_settings()),
    ),
    Endpoint(
        "GET",
        "/batches",
        "What became of every batch, newest first.",
        _batches,
        (
            CHANNEL,
            Field("direction", "only this way", among=Direction),
            Field("state", "only in this state", among=BatchState),
            *moments("since", "until"),
            Field("stem", "only those whose name begins so"),
            Field("trace", "only those of this trace"),
            Field("reason", "only those refused or held for this"),
            Field("key", "only those that came signed with this key"),
            LIMIT,
            AFTER_ID,
        ),
    ),
    Endpoint(
        "GET",
        "/files",
        "Files of rows that people dropped, newest first.",
        lambda x, **asked: x.files.list(**asked),
        (
            Field("state", "only in this state", among=IntakeState),
            Field("intake", "only of this intake"),
            LIMIT,
            AFTER_ID,
        ),
    ),
    Endpoint(
        "GET", "/files/{file}", "One: how it is read and how far it is.", lambda x, file: x.files.show(file), (FILE,)
    ),
    Endpoint(
        "GET", "/folders", "What lies in the folders for such files.", lambda x: _all("folders", x.files.folders())
    ),
    Endpoint(
        "GET",
        "/batches/{batch}",
        "One batch: its manifest, its way, what the peer said of it, its first records and dead letters.",
        lambda x, **asked: x.batches.show(asked.pop("batch"), **asked),
        (
            BATCH,
            Field("records", "so many of its first records", Kind.NUMBER, most=100),
            Field("bad", "so many of its dead letters", Kind.NUMBER, most=100),
            REVEAL,
        ),
    ),
    Endpoint(
        "GET",
        "/batches/{batch}/checks",
        "What every check says of a batch's files now; reads all of them.",
        lambda x, batch: x.batches.verify(batch),
        (BATCH,),
        action="verify_batch",
    ),
    Endpoint(
        "GET",
        "/batches/{batch}/trial",
        "What would become of a batch that was refused for its records, with the bad ones parked.",
        lambda x, **asked: x.batches.trial(asked.pop("batch"), **asked),
        (BATCH, LIMIT),
        action="verify_batch",
    ),
    Endpoint(
        "GET",
        "/gaps",
        "Batches that others came before, with what became of them.",
        lambda x, **asked: x.gaps.list(**asked),
        (CHANNEL, Field("state", "in this state (default: missing)", among=GapState), LIMIT, AFTER),
    ),
    Endpoint(
        "GET",
        "/quarantine",
        "Batches whose files were refused, in the order of names.",
        lambda x, **asked: x.quarantine.list(**asked),
        (CHANNEL, LIMIT, AFTER),
    ),
    Endpoint(
        "GET",
        "/strangers",
        "What came that nobody vouches for, by day and cause.",
        lambda x, **asked: _all("strangers", x.quarantine.strangers(**asked)),
        (LIMIT,),
    ),
    Endpoint(
        "GET",
        "/quarantine/{batch}",
        "One in quarantine: why it was refused, and what every check says now.",
        lambda x, batch: x.quarantine.show(batch),
        (BATCH,),
    ),
    Endpoint("GET", "/dead-letters", "Dead letters, newest first.", _letters, (*LETTER_FILTERS, LIMIT, AFTER_ID)),
    Endpoint(
        "GET",
        "/dead-letters/lines",
        "All dead letters that are meant, a line each, without their records.",
        _letter_lines,
        LETTER_FILTERS,
        lines=True,
    ),
    Endpoint(
        "GET",
        "/dead-letters/causes",
        "What is wrong, by cause: how many, since when, whose fault, and what to do.",
        lambda x, **asked: _all("causes", x.dead_letters.groups(some_letters(x, asked))),
        tuple(one for one in LETTER_FILTERS if one.name in {"state", "channel", "stream", "error", "direction"}),
    ),
    Endpoint(
        "GET",
        "/dead-letters/trend",
        "How many came in each of the last hours, of all and of each cause.",
        lambda x, state=DeadLetterState.PARKED: x.dead_letters.trend(state),
        (STATE_OF_LETTERS,),
    ),
    Endpoint("GET", "/dead-letters/{letter}", "All there is to know about one.", _letter, (LETTER, REVEAL)),
    Endpoint("GET", "/selections", "Sets of dead letters that people froze, newest first.", _selections, (LIMIT,)),
    Endpoint(
        "GET",
        "/selections/{selection}",
        "One of them, with how many are left.",
        lambda x, selection: x.dead_letters.find_selection(selection),
        (SELECTION,),
    ),
    Endpoint(
        "GET",
        "/selections/{selection}/rehearsal",
        "What a retry would do, by outcome; changes nothing.",
        _rehearsal,
        (
            SELECTION,
            Field("again", "also those tried that stayed parked", Kind.TRUTH),
            Field("skip_changed", "leave out those that changed since", Kind.TRUTH),
        ),
        action="retry_dead_letter",
    ),
    Endpoint(
        "GET",
        "/retries",
        "Retries in the background, newest first.",
        lambda x, limit=50: _all("retries", x.dead_letters.retries(None, limit)),
        (LIMIT,),
    ),
    Endpoint(
        "GET",
        "/retries/{retry}",
        "One of them, with how far it is.",
        lambda x, retry: x.dead_letters.find_retry(retry),
        (RETRY,),
    ),
    Endpoint(
        "GET",
        "/agreement",
        "How the streams of both sides compared.",
        lambda x, channel=None: _all("streams", x.agreement.list(channel)),
        (CHANNEL,),
    ),
    Endpoint("GET", "/epochs", "The lives of this database.", lambda x: _all("epochs", x.epochs.list())),
    Endpoint(
        "GET",
        "/epochs/received",
        "The other side's, as each channel knows them.",
        lambda x: _all("epochs", x.epochs.received()),
    ),
    Endpoint("GET", "/keys", "Own keys and trusted ones.", _keys),
    Endpoint(
        "GET",
        "/audit",
        "What was done by hand, newest first.",
        _audit,
        (
            Field("action", "only this"),
            Field("who", "only what they did"),
            *moments("since", "until"),
            LIMIT,
            AFTER_ID,
        ),
    ),
    Endpoint(
        "GET",
        "/audit/check",
        "Whether anything in it was changed or taken out; reads all of it.",
        lambda x: x.audit.check(),
    ),
    Endpoint(
        "GET",
        "/pending",
        "Changes that wait under the name of a stream that is not sent from here.",
        lambda x: _all("pending", x.pending.leftovers()),
    ),
    Endpoint(
        "GET",
        "/versions",
        "Channels of which a person let in versions far ahead of this side's clock.",
        lambda x: _all("versions", x.versions.list()),
    ),
    Endpoint("GET", "/schemas", "The JSON schema of each stream.", lambda x: _all("schemas", x.schemas.list())),
)
