import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import make_engine
from exchange.testing import servers
from tests.cli.conftest import Pair
from tests.cli.terminal import terminal

ROOT = Path(__file__).parents[2]
GROWING = ("exchange_batch", "exchange_dead_letter", "exchange_change", "exchange_event")
KEPT = "USING INDEX ix_exchange_batch_kept"
QUARANTINED, BY_PLACE = "USING INDEX ix_exchange_batch_state", "USING INDEX uq_exchange_batch_place"
OLDEST = "USING INDEX ix_exchange_dead_letter_state"
BY_STATE = "USING INDEX ix_exchange_batch_time (state=?"


def test_a_status_reads_no_row_of_a_table_that_grows_with_history(seeded: Pair) -> None:
    statements: list[tuple[str, Any]] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    seeded.response.do("status", "--since", "24h", "--json")
    sa.event.remove(sa.Engine, "before_cursor_execute", note)
    growing = [
        (text, values) for text, values in statements if any(re.search(rf"{table}\b", text) for table in GROWING)
    ]
    assert len(growing) >= 3
    engine = make_engine(seeded.response.database_url)
    with engine.connect() as connection:
        for text, values in growing:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
            reads = [row[3] for row in plan if any(table in row[3] for table in GROWING)]
            assert reads
            allowed = ("USING COVERING INDEX", QUARANTINED, BY_PLACE, OLDEST, KEPT, BY_STATE)
            assert all(any(words in read for words in allowed) for read in reads), (reads, text)
    engine.dispose()


def test_people_see_both_directions_and_what_waits(seeded: Pair) -> None:
    (seeded.response.home / "incoming/note.txt").write_text("")
    done = seeded.response.do("status")
    assert "to request\nchannel\tpending\tpublished\tacknowledged\tsequence\tlast success" in done.out
    assert "from request\nchannel\tapplied\twaiting\theld\tquarantined\tsequence\tlast success" in done.out
    assert "1 files that are no batch" in done.err


def test_a_terminal_gets_a_table_with_colour_and_a_bar(seeded: Pair, stem: str) -> None:
    seeded.carry()
    ours, theirs = pty.openpty()
    environment = {**os.environ, **seeded.request.environment, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "exchange", "import"], env=environment, stdout=theirs, stderr=theirs, stdin=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how Linux says that the last writer has closed a terminal
            pass
        os.close(ours)
    assert process.returncode == 0
    assert b"importing" in shown
    assert b"\x1b[32mapplied" in shown
    assert stem.encode() in shown


def test_a_mistyped_channel_is_refused_and_not_answered_with_nothing(seeded: Pair) -> None:
    for words in (["batches"], ["dead-letters", "list"]):
        sentence = seeded.response.refused(*words, "--channel", "request", code=2)
        assert "expected one of directory, requests, responses, found 'request'" in sentence


def test_status_and_doctor_raise_an_alarm_when_letters_are_too_many_or_too_old(
    seeded: Pair, parked: Callable[[], int]
) -> None:
    letter = parked()
    quiet = seeded.request.do("status", "--json").line["dead_letters"]
    assert (quiet["parked"], quiet["oldest"], quiet["alarms"]) == (1, letter, [])
    seeded.request.environment["EXCHANGE_ALARM_DAYS"] = "0.000000001"
    (alarm,) = seeded.request.do("status", "--json").line["dead_letters"]["alarms"]
    assert alarm.endswith(f"(EXCHANGE_ALARM_DAYS); `exchange dead-letters show {letter}` says what to do")
    assert alarm in seeded.request.do("status").err
    found = {line["check"]: line for line in seeded.request.run("doctor", "--json").lines}["letters"]
    assert (found["level"], found["command"]) == ("fault", f"exchange dead-letters show {letter}")
    assert f"{found['message']}; {found['remedy']}" == alarm


def heard(pair: Pair) -> None:
    """Let what the response network sent cross, and what the request network says of it come back."""
    pair.carry()
    pair.request.do("import")
    pair.carry()
    pair.response.do("import")


def test_a_batch_is_shown_as_acknowledged_where_it_was_sent_and_when_the_other_side_was_heard_of(seeded: Pair) -> None:
    side = seeded.response
    before = side.do("status")
    assert "request was never heard of\n" in before.out
    assert "directory: the oldest unacknowledged batch was sealed " in before.out
    heard(seeded)
    assert side.do("batches", "--json").line["state"] == "acknowledged"
    after = side.do("status")
    assert "request was heard of " in after.out
    assert "unacknowledged" not in after.out
    found = side.do("status", "--json").line
    [directory] = [one for one in found["channels"] if one["channel"] == "directory"]
    assert (directory["published"], directory["acknowledged"], directory["there"]["through"]) == (0, 1, 1)
    assert found["link"]["alarms"] == found["link"]["troubles"] == []
    assert found["link"]["heard"]["period_seconds"] == 300
    link = {line["check"]: line for line in side.run("doctor", "--json").lines}["link"]
    assert link["level"] == "ok"
    assert link["message"].startswith("request was heard of ")


def test_the_sending_side_shows_what_the_other_one_could_not_take_and_why(
    seeded: Pair, parked: Callable[[], int]
) -> None:
    parked()
    heard(seeded)
    sentences = [
        "directory: request has parked 1 records that it could not take, among them",
        'directory: user {"id": 1}: unique',
    ]
    for command in ("status", "batches"):
        shown = seeded.response.do(command).err
        assert all(sentence in shown for sentence in sentences), shown
        assert "administrator" not in shown
    found = [line for line in seeded.response.run("doctor", "--json").lines if line["check"] == "link"]
    assert found[0]["level"] == "warning"
    assert found[0]["message"] == sentences[0]


def test_a_side_that_was_found_to_be_restored_says_so(seeded: Pair) -> None:
    sentence = "this database was restored; nothing is exported until `exchange epoch new --reason TEXT`"
    seeded.response.execute(f"UPDATE exchange_network SET halted_because = '{sentence}'")
    assert sentence in seeded.response.do("status").err
    found = {line["check"]: line for line in seeded.response.run("doctor", "--json").lines}["link"]
    assert (found["level"], found["message"]) == ("fault", "this database was restored")


def test_on_a_one_way_link_what_is_published_is_unconfirmable_and_never_done(pair: Pair) -> None:
    side = pair.response
    side.environment["EXCHANGE_LINK"] = "one-way"
    side.do("seed")
    side.do("export")
    shown = side.do("status").out
    assert "channel\tpending\tunconfirmable\tsequence" in shown
    assert "directory\t0\t1\t1\t" in shown
    assert "nothing comes back from request: what is published is unconfirmable" in shown
    assert side.do("batches", "--json").line["state"] == "unconfirmable"


def test_control_batches_are_listed_where_they_are_asked_for(seeded: Pair) -> None:
    listed = seeded.response.do("batches", "--channel", "control", "--json").line
    assert (listed["channel"], listed["state"]) == ("control", "published")


def test_what_crossed_is_counted_by_channel_direction_and_hour(seeded: Pair) -> None:
    heard(seeded)
    for side, direction, peer in ((seeded.response, "out", "to request"), (seeded.request, "in", "from response")):
        crossed = side.do("status", "--since", "3h", "--json").line["crossed"]
        assert (crossed["hours"], {len(one["by_part"]) for one in crossed["channels"]}) == (1, {4})
        found = {(one["direction"], one["channel"]): one for one in crossed["channels"]}
        directory = found.pop((direction, "directory"))
        records = side.do("batches", "--channel", "directory", "--json").line["total"]
        assert (directory["records"], directory["batches"], sum(directory["by_part"])) == (records, 1, records)
        assert {one["records"] for one in found.values()} == {0}
        assert f"crossed {peer} since " in (shown := side.do("status", "--since", "3h").out)
        assert f"directory\t{records}\t1\t|" in shown
    assert [one["hours"] for one in [seeded.response.do("status", "--since", "14d", "--json").line["crossed"]]] == [14]
    assert "expected a moment" in seeded.response.refused("status", "--since", "soon", code=2)
    assert "expected --watch beside 5 seconds" in seeded.response.refused("status", "5", code=2)


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_a_live_status_is_drawn_in_place_and_leaves_a_clean_screen(seeded: Pair, key: str) -> None:
    with terminal(["status", "--watch", "0.1", "--since", "24h"], seeded.response.environment) as live:
        live.until("q ends", 2)
        live.type(key)
        written = live.end().removeprefix("\n").removeprefix("^C")
    assert live.code == 0
    assert written.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert written.removesuffix("\n").endswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[2J" not in written  # nothing is blank between two screens
    screen = written.split("\x1b[H")[1]
    assert screen.count("\n") <= 23
    assert "crossed to request" in screen


@pytest.mark.thorough
def test_a_live_status_outlives_its_database(pair: Pair) -> None:
    side = pair.response
    with ExitStack() as server:
        side.environment["EXCHANGE_DATABASE_URL"] = server.enter_context(servers.postgres())
        side.do("migrate")
        with terminal(["status", "--watch", "0.1"], side.environment, alone=True) as live:
            live.until("q ends", 2)
            server.close()
            live.until("the database can't go on")
            live.until("what is below is as it was before")
            live.until("request was never heard of", 4)
            live.type("q")
            live.end()
    assert live.code == 0


@pytest.mark.thorough
def test_a_live_status_in_a_pipe_is_printed_anew_until_it_is_interrupted(seeded: Pair) -> None:
    watching = [sys.executable, "-m", "exchange", "status", "--watch", "0.1", "--json"]
    environment = {**os.environ, **seeded.response.environment, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(watching, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert {json.loads(process.stdout.readline())["network"] for _ in range(2)} == {"response"}
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
