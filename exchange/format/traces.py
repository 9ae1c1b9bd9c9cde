"""The trace of a batch: 32 hexadecimal digits under which the logs and spans of both sides speak of it. Pure."""

from __future__ import annotations

import hashlib
import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


def trace_id(said: str | None, source: str, batch: str) -> str:
    """Give the trace of a batch that its manifest says by a W3C ``traceparent``.

    Of one that says none, or something else, it is the beginning of the SHA-256 of source and name, a space between
    them: both sides know these.
    """
    found = _TRACEPARENT.fullmatch(said or "")
    return found[1] if found else hashlib.sha256(f"{source} {batch}".encode()).hexdigest()[:32]


def span_id(said: str | None, source: str, batch: str) -> str:
    """Give the id of the span that sealed the batch: 16 hexadecimal digits, found as the trace is."""
    found = _TRACEPARENT.fullmatch(said or "")
    return found[2] if found else hashlib.sha256(f"{source} {batch}".encode()).hexdigest()[32:48]
