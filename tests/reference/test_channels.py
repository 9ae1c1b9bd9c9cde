from __future__ import annotations

from pathlib import Path

import pytest

from exchange.channels.channel import check, load_channels
from exchange.channels.schemas import agreement
from exchange.channels.stream import Stream
from exchange.reference import channels

SCHEMAS = Path(__file__).parents[2] / "schemas"
STREAMS = [stream for channel in channels for stream in channel.streams]


def test_the_declaration_has_no_fault() -> None:
    check(channels)
    assert load_channels("exchange.reference:channels") is channels


def test_the_channels_are_those_of_the_design() -> None:
    assert [(c.name, c.source, c.target, [s.name for s in c.streams]) for c in channels] == [
        ("directory", "response", "request", ["profile_type", "user"]),
        ("requests", "request", "response", ["request"]),
        ("responses", "response", "request", ["response"]),
    ]


def test_a_password_never_crosses() -> None:
    columns = {(stream.name, column.name) for stream in STREAMS for column in stream.columns}
    assert ("user", "email") in columns
    assert ("user", "password_hash") not in columns


def test_what_a_crash_left_never_crosses() -> None:
    assert "answer_attempt" not in {stream.table.name for stream in STREAMS}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_model_and_written_schema_agree(stream: Stream) -> None:
    assert agreement(stream, SCHEMAS) == []
