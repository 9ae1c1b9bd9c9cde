"""``exchange reconcile``: what a person asks for, and reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import sqlalchemy as sa

from exchange.database import make_engine
from exchange.database.tables import agreement
from tests.cli.conftest import Pair, Side


def test_a_person_is_told_what_happens_next_and_the_audit_has_it(pair: Pair) -> None:
    done = pair.request.do("reconcile", "--as", "ada", "--reason", "a doubt")

    assert done.out.splitlines() == [
        "channel\tdirection\twhat happens next",
        "requests\tout\tthe next export puts a checkpoint into it",
        "directory\tin\tresponse, who sends it, is asked with the next control batch",
        "responses\tin\tresponse, who sends it, is asked with the next control batch",
    ]
    assert [one["channel"] for one in pair.request.do("reconcile", "requests", "--json").lines] == ["requests"]
    first = pair.request.do("audit", "--json", "--who", "ada").line
    assert (first["action"], first["why"]) == ("reconcile", "a doubt")
    assert len(first["result"]["channels"]) == 3


def test_a_channel_that_nobody_declared_is_refused(pair: Pair) -> None:
    sentence = pair.request.refused("reconcile", "nothing", code=2)

    assert sentence.startswith("channel: expected one that is sent or received here (")


def test_the_report_says_of_each_stream_how_it_agreed_and_changes_nothing(pair: Pair) -> None:
    headings, *rows = pair.request.do("reconcile", "--report").out.splitlines()
    assert headings.split("\t") == [
        *("channel", "direction", "stream", "state", "rows", "equal", "missing", "extra", "different"),
        *("since", "compared"),
    ]
    assert [row.split("\t")[:4] for row in rows] == [
        ["requests", "out", "request", "not compared yet"],
        ["directory", "in", "profile_type", "not compared yet"],
        ["directory", "in", "user", "not compared yet"],
        ["responses", "in", "response", "not compared yet"],
    ]
    moment = datetime(2026, 11, 22, 6, 15, tzinfo=UTC)
    keys = [{"what": "different", "key": {"id": number}} for number in range(1, 13)]
    found = {"answers": "x", "sequence": 9, "at": moment.isoformat(), "missing": 1, "extra": 2, "different": 12}
    _compared(
        pair.request, "directory", "in", "user", moment, buckets="[1, 5]", found=json.dumps(found | {"keys": keys})
    )
    _compared(pair.request, "requests", "out", "request", moment, buckets="3")

    done = pair.request.do("reconcile", "--report")

    when = "2026-11-22 06:15:00Z"
    lines = [line.split("\t") for line in done.out.splitlines()[1:]]
    assert lines[0] == ["requests", "out", "request", "different", "20", "", "", "", "", when, when]
    assert lines[2] == ["directory", "in", "user", "repaired", "20", "7", "1", "2", "12", when, when]
    assert "request: 3 of its buckets differ" in done.err
    assert 'user: found on 2026-11-22 06:15:00Z: different {"id": 1}, ' in done.err
    assert "and more; `exchange reconcile directory --report --json`" in done.err
    shown = pair.request.do("reconcile", "directory", "--report", "--json").lines[1]
    assert (shown["stream"], shown["state"], len(shown["keys"])) == ("user", "repaired", 12)
    assert pair.request.do("audit", "--json").out.count("reconcile") == 0


def _compared(side: Side, channel: str, direction: str, stream: str, moment: datetime, **other: object) -> None:
    engine = make_engine(side.database_url)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(agreement).values(
                direction=direction,
                channel=channel,
                stream=stream,
                epoch="0123456789ab",
                sequence=8,
                compared_at=moment,
                sent=20,
                received=21,
                since=moment,
                **other,
            )
        )
    engine.dispose()
