"""Capture: database triggers note every changed row, and the exporter takes the notes.

``install`` puts triggers on a table of the application's. They write a change (stream, op, key) in the
application's own transaction, so that ORM code, bulk statements and a hand in a console are all seen and a
rollback leaves nothing. ``claim`` moves pending changes into a temporary table, one row per key, and
``rows`` and ``deleted_keys`` read what those keys are now.

Never "everything above the last id seen": ids are given out before commits, and a row that commits late
would be lost. What is pending is what lies in the table.

What a change notes is *which* key to look at, no more. A change too many is therefore harmless (the row is
sent as it is), and that is relied on where a database can't say exactly which rows a statement removes.
"""

from exchange.tables.capture.leftover import (
    MOST_COUNTED,
    count_of,
    discard_pending,
    move_pending,
    noting,
    pending_streams,
    some_key,
)
from exchange.tables.capture.pending import Claimed, Reached, claim, extent, give_back, pending
from exchange.tables.capture.read import (
    Row,
    copied,
    deleted_keys,
    estimate_rows,
    fetch_rows,
    has_rows,
    is_key,
    key_text,
    row_of_key,
    rows,
    streamed,
)
from exchange.tables.capture.scan import KeyPage, cut_page, next_page, older_keys, row_page
from exchange.tables.capture.sql import TableProblem
from exchange.tables.capture.stream_table import CLAIMED, carried
from exchange.tables.capture.triggers import (
    CaptureFault,
    add_version_column,
    captured_tables,
    check,
    check_all,
    check_sent,
    drop,
    drop_version_column,
    install,
    is_readable,
    renew,
    shared_tables,
    take_in_partitions,
    unreceivable,
)
from exchange.tables.capture.versions import draw_version, raise_above, raise_counter

__all__ = [
    "CLAIMED",
    "MOST_COUNTED",
    "CaptureFault",
    "Claimed",
    "KeyPage",
    "Reached",
    "Row",
    "TableProblem",
    "add_version_column",
    "captured_tables",
    "carried",
    "check",
    "check_all",
    "check_sent",
    "claim",
    "copied",
    "count_of",
    "cut_page",
    "deleted_keys",
    "discard_pending",
    "draw_version",
    "drop",
    "drop_version_column",
    "estimate_rows",
    "extent",
    "fetch_rows",
    "give_back",
    "has_rows",
    "install",
    "is_key",
    "is_readable",
    "key_text",
    "move_pending",
    "next_page",
    "noting",
    "older_keys",
    "pending",
    "pending_streams",
    "raise_above",
    "raise_counter",
    "renew",
    "row_of_key",
    "row_page",
    "rows",
    "shared_tables",
    "some_key",
    "streamed",
    "take_in_partitions",
    "unreceivable",
]
