"""What a dead letter's error class means to whoever is on duty: whose fault it is, and what comes next."""

from __future__ import annotations

from typing import NamedTuple

from exchange.database.tables import Direction


class Advice(NamedTuple):
    """``fault`` says where to look first, ``next`` what to do, with the commands for it."""

    fault: str
    next: str


_SENDER = "sender"
_HERE = "here"
_EITHER = "a missing parent"

_MEND_OR_ASK = (
    "look at one (`exchange dead-letters show {id}`); the sender mends the row, which sends it again, or mend it here"
    " with `exchange dead-letters edit {id}` and retry"
)
_ASK = "the sender's program wrote no record: tell the sender, and discard it once the row has come again"
_MAKE_ROOM = (
    "see which row or rule is in the way (`exchange dead-letters show {id}`), mend that,"
    " then `exchange dead-letters retry {id}`"
)

_INCOMING = {
    "json": Advice(_SENDER, _ASK),
    "record": Advice(_SENDER, _ASK),
    "repeated_key": Advice(_SENDER, "the same batch has a newer record of this key: discard it"),
    "schema": Advice(_SENDER, _MEND_OR_ASK),
    "value": Advice(_SENDER, _MEND_OR_ASK),
    "upgrade": Advice(
        _HERE, "mend the upgrade step of the stream's declaration, then `exchange dead-letters retry {id}`"
    ),
    "foreign_key": Advice(
        _EITHER,
        "it is retried by itself when later batches apply; if the row that it waits for will not come, ask the sender"
        " (`exchange dead-letters show {id}` names it)",
    ),
    "absurd": Advice(
        _SENDER,
        "the other side said of itself or of us what can't be: it changed nothing, and its next control batch settles"
        " it; if it comes again, ask its operator, and see whether either database was restored (`exchange doctor`)",
    ),
    "version": Advice(
        _SENDER,
        "see both sides' clocks (`exchange doctor`); if the version is meant, `exchange versions let-in CHANNEL VERSION"
        " --reason TEXT`, then `exchange dead-letters retry {id}`; if not, discard it, and have the row sent again"
        " (`exchange reconcile CHANNEL`)",
    ),
    "size": Advice(
        _EITHER,
        "raise EXCHANGE_MAX_RECORD_BYTES on both sides, or have the row made shorter; then have it sent again"
        " (`exchange reconcile CHANNEL`)",
    ),
    "undeclared": Advice(
        _HERE,
        "its stream was taken out of the declaration here while records of it were under way: discard it"
        " (`exchange dead-letters discard {id} --reason TEXT`), or declare the stream again and"
        " `exchange dead-letters retry {id}`",
    ),
    "dropped": Advice(
        _HERE,
        'a trigger of the receiving table dropped it: let what the exchange writes pass (CHANNELS.md, "The receiving'
        ' table"), then `exchange dead-letters retry {id}`',
    ),
    "hook": Advice(
        _HERE, "mend the application's function, which the message names, then `exchange dead-letters retry {id}`"
    ),
    "unique": Advice(_HERE, _MAKE_ROOM),
    "constraint": Advice(_HERE, _MAKE_ROOM),
    "database": Advice(_HERE, _MAKE_ROOM),
}

_FILE = "the file"

_MEND_ROW = (
    "mend the row (`exchange dead-letters edit {id} --reason TEXT`), then `exchange dead-letters retry {id}`; or"
    " discard it, and bring it again in a file"
)

_OF_FILES = {
    "cell": Advice(_FILE, _MEND_ROW),
    "ragged": Advice(_FILE, _MEND_ROW),
    "quoting": Advice(_FILE, _MEND_ROW),
    "encoding": Advice(
        _FILE,
        "give the row anew (`exchange dead-letters edit {id} --file FILE --reason TEXT`), or bring the file again with"
        " its encoding said",
    ),
    "long": Advice(_FILE, "raise EXCHANGE_MAX_RECORD_BYTES, or make the row shorter, and bring it again in a file"),
    "file": Advice(_HERE, "discard it (`exchange dead-letters discard {id} --reason TEXT`), and bring the row again"),
    "json": Advice(_FILE, _MEND_ROW),
    "schema": Advice(_FILE, _MEND_ROW),
    "value": Advice(_FILE, _MEND_ROW),
    "foreign_key": Advice(
        _EITHER,
        "it is retried by itself; if the row that it waits for will not come (`exchange dead-letters show {id}` names"
        " it), mend the row, or discard it",
    ),
    "unique": Advice(
        _FILE,
        "a row of this key or unique value is there already: discard this one, or mend it"
        " (`exchange dead-letters edit {id} --reason TEXT`) and retry it",
    ),
}
"""What rows of people's files are refused for, where that is another matter than for records of the peer's."""

_OUTGOING = Advice(
    _HERE, "the row as it is can't cross: mend it in the application, then `exchange dead-letters retry {id}` sends it"
)

_OUTGOING_KEY = Advice(
    _HERE,
    "the key of its table has other columns since: have the whole table sent (`exchange resync CHANNEL`), then"
    " `exchange dead-letters discard {id} --reason TEXT`",
)

_UNKNOWN = Advice(_HERE, "look at one: `exchange dead-letters show {id}`")


CLASSES = sorted({*_INCOMING, *_OF_FILES, "key"})
"""The classes of error that there can be."""


def advice(direction: Direction, error: str, letter_id: int, *, of_file: bool = False) -> Advice:
    """Say whose fault an error of this class is, and what to do about letter ``letter_id`` and those like it.

    ``of_file`` says that it is a row of a file that people dropped.
    """
    if direction is Direction.OUT:
        said = _OUTGOING_KEY if error == "key" else _OUTGOING
    else:
        said = (
            (_OF_FILES if of_file else _INCOMING).get(error) or _INCOMING.get(error) or _OF_FILES.get(error, _UNKNOWN)
        )
    return said._replace(next=said.next.format(id=letter_id))
