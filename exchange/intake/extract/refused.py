"""What keeps an extract from being made, as a person may mend it."""

from __future__ import annotations


class ExtractRefused(Exception):  # noqa: N818 - an answer to whoever asked
    """What was asked for makes no sense here; the text is one sentence, and nothing was written."""
