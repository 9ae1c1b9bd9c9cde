"""Rows that a snapshot left, as its sender could not send them: found in the manifests of what was applied."""

from __future__ import annotations

import json

from exchange.database import locks
from exchange.format.errors import printable
from exchange.incoming.doubts import RowsInDoubt, rows_in_doubt
from exchange.operating.doctor.finding import Finding, Findings, warning
from exchange.settings import Settings
from exchange.site import Site

_NAMED = 5
"""So many rows in doubt of a stream are named; the batch's message has more."""


def check_doubts(settings: Settings, site: Site) -> Findings:
    """Look for rows in doubt."""
    with locks.reading(site.engine) as connection:
        yield from [_doubtful(settings, one) for one in rows_in_doubt(site, connection)]


def _doubtful(settings: Settings, one: RowsInDoubt) -> Finding:
    some = ", ".join(json.dumps(key) for key in one.keys[:_NAMED])
    more = f" and {len(one.keys) - _NAMED} more" if len(one.keys) > _NAMED else ""
    named = printable(some, 500) + more
    said = f"rows of stream {one.stream} are in doubt, as {settings.peer} could not send them: {named}"
    remedy = f"they stay until {settings.peer} mends its rows (`exchange dead-letters list --direction out` there)"
    command = f"exchange batches show {one.batch}"
    return warning("agreement", said, remedy, command=command, since=one.since, subject=one.stream)
