"""Metrics: what each says is what the commands say, counters never go back, and a scrape reads nothing that grows."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.core import Metric

from exchange.database import clock, ledger, tables
from exchange.database.locks import export_lock, locked, writing
from exchange.database.tables import BatchState, Direction
from exchange.operating.doctor.finding import Alarm, Finding, ok
from exchange.settings import Settings
from exchange.watching import health
from exchange.watching.health import Health, Looker, make_watching_site
from exchange.watching.metrics import OTHER, Scraper, _Shared, render_metrics
from tests.cli.conftest import Pair
from tests.cli.conftest import Side as Commands
from tests.crossing import shop
from tests.crossing.sides import Link, Side
from tests.crossing.talking import add, cross
from tests.watching.scraping import Scrape

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and "CI" not in os.environ, reason="promtool isn't installed (Debian: apt-get install prometheus)"
)


def scraped(side: Side) -> Scrape:
    """Scrape a side."""
    settings = Settings(network=side.site.network, peer=side.site.peer, home=side.home)
    return Scrape.of(render_metrics(settings, side.site, Health(side.site.network, clock.now(), ())).decode())


def told(side: Commands) -> Scrape:
    """Have a side's command print its metrics."""
    return Scrape.of(side.do("metrics").out)


def test_a_database_that_never_answers_leaves_its_figures_out_and_what_was_seen_before_counts(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        settings = Settings(network="request", peer="response", home=tmp_path, database_url=url)
        (tmp_path / "tmp").mkdir()
        looker = Looker(settings)
        scraper = Scraper(settings, looker, lambda: make_watching_site(settings))
        seen = Scrape.of(scraper.render(0.6).decode())
        assert (seen.one("database_up"), seen.one("ready")) == (0, 0)
        assert seen.one("disk_free_bytes", folder="tmp") > 0
        assert seen.one("alarm", alarm="database", subject="", level="fault") == 1
        assert seen.one("look_age_seconds") < 60
        assert "exchange_batches_total" not in seen.names


def test_all_that_scrape_at_once_share_one_reading_and_a_look_that_is_slow_keeps_its_last_answer(
    tmp_path: Path,
) -> None:
    settings = Settings(network="one", peer="two", home=tmp_path)
    os.mkfifo(tmp_path / "slow")
    looks, reads = [], []

    def look() -> Iterator[Finding]:
        looks.append(1)
        if len(looks) > 1:
            (tmp_path / "slow").read_bytes()  # until somebody writes
        yield ok("folders", "they are there")

    def read() -> list[Metric]:
        reads.append(1)
        (tmp_path / "slow").read_bytes()
        return []

    looker = Looker(settings)
    looker._parts = (health._Part("folders", Alarm.FOLDER, "mount it", look, fresh_seconds=0),)
    assert looker.read().is_ready
    late = looker.read_lately(0.01)
    assert (late.is_ready, [one.message for one in late.parts]) == (True, ["they are there"])
    assert not looker.read(0.01).is_ready  # who is to be told is told
    shared = _Shared(read)
    both = [shared.begin() for _ in range(2)]
    assert (both[0] is both[1], both[0].found(0)) == (True, None)
    while both[0].goes_on:
        with suppress(OSError):
            os.close(os.open(tmp_path / "slow", os.O_WRONLY | os.O_NONBLOCK))
    assert (both[1].found(0), len(reads)) == ([], 1)
    assert shared.begin() is not both[0]
    looker.close()


def test_what_a_reading_raises_is_raised_where_its_answer_is_waited_for() -> None:
    def read() -> list[Metric]:
        raise ZeroDivisionError

    for one in [_Shared(read).begin()] * 2:
        with pytest.raises(ZeroDivisionError):
            one.found(time.monotonic() + 60)


# The commands' own figures


def agree(side: Commands) -> Scrape:
    """See that each figure of ``exchange status`` is that of a metric; give the metrics."""
    seen, status = told(side), side.do("status", "--json").line
    for one in status["channels"]:
        channel, way = one["channel"], one["direction"]
        for state in ("sealed", "published", "acknowledged", "rejected", "applied", "waiting", "held", "quarantined"):
            assert seen.one("batches", channel=channel, direction=way, state=state) == one[state], (channel, state)
        assert seen.one("sequence", channel=channel, direction=way) == one["sequence"]
        if way == "out":
            assert seen.one("pending_changes", channel=channel) == one["pending"]
            assert seen.one("unacknowledged_batches", channel=channel) == one["published"]
            waits = seen.one("unacknowledged_oldest_age_seconds", channel=channel)
            assert (waits > 0) == (one["unacknowledged_since"] is not None)
    assert seen.one("dead_letters_parked") == status["dead_letters"]["parked"]
    letters = side.do("dead-letters", "list", "--json").lines
    by_error = {(one["channel"], one["direction"], one["error"]) for one in letters}
    for channel, way, error in by_error:
        mine = [one for one in letters if (one["channel"], one["direction"], one["error"]) == (channel, way, error)]
        labels = {"channel": channel, "direction": way, "error": error, "state": "parked"}
        assert seen.one("dead_letters", **labels) == len(mine)
    assert seen.total("dead_letters", state="parked") == len(letters)
    return seen


@pytest.mark.same_on("postgresql")
def test_each_figure_is_that_of_the_command_that_shows_it(any_pair: Pair) -> None:
    here, there = any_pair.response, any_pair.request
    here.do("seed")
    before = agree(here)
    assert before.one("pending_changes", channel="directory") > 0
    records = here.do("export", "--json").line["records"]
    assert agree(here).one("batch_records_total", channel="directory", direction="out", outcome="published") == records
    there.execute("INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (99, 'own', 1, 1)")
    there.execute(
        'INSERT INTO "user" (id, name, email, profile_type_id, active)'
        " VALUES (99, 'administrator', 'own@example.org', 99, true)"
    )
    any_pair.carry()
    there.do("import")
    any_pair.carry()
    here.do("import")

    seen, sent = agree(there), agree(here)

    assert seen.one("records_total", channel="directory", outcome="parked") == 1
    assert seen.one("records_total", channel="directory", outcome="applied") == records - 1
    assert sent.one("batches", channel="directory", direction="out", state="acknowledged") == 1
    assert seen.one("schema_version", channel="directory", direction="in", stream="user") == 1
    for step in ("apply", "import", "cross"):
        assert seen.one("step_duration_seconds_count", step=step, channel="directory") == 1
    for step in ("export", "seal", "publish", "acknowledge"):
        assert sent.one("step_duration_seconds_count", step=step, channel="directory") == 1
    letter = there.do("dead-letters", "list", "--json").line["id"]
    there.run("dead-letters", "retry", str(letter))
    retried = {"channel": "directory", "direction": "in", "outcome": "parked"}
    assert agree(there).one("dead_letter_retries_total", **retried) == 1
    assert seen.one("key_age_seconds", key=there.do("keys", "list", "--json").lines[0]["name"], use="signs") > 0


@pytest.mark.same_on("postgresql")
def test_what_is_missing_waits_or_is_quarantined_is_told_with_its_age_and_its_mending(
    small: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = small.one, small.other
    for number in range(1, 4):
        add(sender, number)
    outgoing, incoming = sender.site.spool.folders.outgoing, receiver.site.spool.folders.incoming
    _, second, _ = sorted(outgoing.glob("forth-*.zst"))
    kept = second.read_bytes()
    second.write_bytes(kept[:-1] + b"x")
    small.there.carry()
    receiver.take_in()
    monkeypatch.setenv(clock.AHEAD, "120")

    seen = scraped(receiver)

    bad = {"channel": "forth", "direction": "in", "state": "quarantined"}
    assert seen.one("batches", **bad) == 1
    assert 120 <= seen.one("batches_oldest_age_seconds", **bad) < 600
    assert seen.one("batches", **bad | {"state": "waiting"}) == 1
    assert seen.one("batches_oldest_age_seconds", **bad | {"state": "waiting"}) >= 120
    assert seen.one("gaps", channel="forth") == 1
    assert seen.one("gaps_oldest_age_seconds", channel="forth") >= 120

    for path in (second, second.with_name(second.name.replace(".jsonl.zst", ".manifest.jsonl"))):
        (incoming / path.name).write_bytes(kept if path == second else (outgoing / path.name).read_bytes())
    receiver.take_in()
    mended = scraped(receiver)
    assert mended.one("batches", **bad) == 0
    assert ("exchange_batches_oldest_age_seconds", tuple(sorted(bad.items()))) not in mended
    assert mended.one("batches_total", channel="forth", direction="in", outcome="quarantined") == 1
    assert mended.one("gaps", channel="forth") == 0


# Counters


@pytest.mark.same_on("postgresql")
def test_counters_never_go_back_and_what_is_sent_again_is_resent(alike: Link) -> None:
    one = alike.one
    add(one, 1)
    cross(alike)
    before = scraped(one)
    place = {"channel": "forth", "direction": "out"}
    assert before.one("batches_total", **place, outcome="acknowledged") == 1
    with locked(one.engine, export_lock("forth")) as connection:
        (entry,) = ledger.in_state(connection, Direction.OUT, [BatchState.ACKNOWLEDGED], "forth")
        ledger.move(connection, entry, BatchState.PUBLISHED, "asked for", published_at=clock.now())
    again = scraped(one)
    assert again.one("batches_total", **place, outcome="resent") == 1
    assert again.one("batches_total", **place, outcome="published") == 1
    assert again.one("batches", **place, state="published") == 1
    assert again.one("batches", **place, state="acknowledged") == 0
    with writing(one.engine) as connection:  # as if the ledger let go of what is old
        connection.execute(sa.delete(tables.batch).where(tables.batch.c.direction == Direction.OUT))

    after = scraped(one)

    assert after.total("batches", direction="out") == 0
    for (name, labels), value in again.items():
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[name, labels] >= value, (name, labels)


def test_many_who_count_at_once_wait_for_nobody_and_lose_nothing(alike: Link) -> None:
    """Two transactions move batches of one channel; on SQLite the second one comes after the first."""
    one = alike.one
    add(one, 1)
    kind = sa.select(tables.batch).where(tables.batch.c.direction == Direction.OUT, tables.batch.c.channel == "forth")
    row = dict(one.all(kind)[0]._mapping)
    del row["id"]

    def insert(connection: sa.Connection, sequence: int) -> None:
        connection.execute(sa.insert(tables.batch), [row | {"sequence": sequence, "stem": f"s{sequence}"}])

    if one.site.many_writers:
        with writing(one.engine) as first, writing(one.engine) as second:
            insert(first, 70)
            insert(second, 71)
    else:
        for sequence in (70, 71):
            with writing(one.engine) as connection:
                insert(connection, sequence)

    assert scraped(one).one("batches", channel="forth", direction="out", state="published") == 3


@pytest.mark.same_on("postgresql")
def test_a_channel_that_is_worked_on_counts_as_busy(alike: Link) -> None:
    one = alike.one
    one.execute(sa.insert(shop.account).values(id=1, name="account 1"))
    with locked(one.engine, export_lock("forth")):
        one.be_impatient()
        one.export()
    one.export()

    assert scraped(one).one("busy_total", channel="forth", direction="out") == 1


@pytest.mark.same_on("postgresql")
def test_channels_that_nobody_declared_make_no_labels(small: Link) -> None:
    with writing(small.one.engine) as connection:
        for number in range(3):
            place = (f"made_up_{number}", "0" * 12, 1)
            ledger.record(
                connection, Direction.IN, BatchState.HELD, stem=f"s{number}", place=place, cause="x", digest="d" * 64
            )

    seen = scraped(small.one)

    assert seen.one("batches", channel=OTHER, direction="in", state="held") == 3
    assert not any("made_up" in value for _, labels in seen for _, value in labels)


# The command


@pytest.mark.same_on("postgresql")
def test_a_textfile_appears_whole_and_node_exporter_may_read_it(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "exchange.prom"
    file.write_text("old")
    opened = file.open()

    done = pair.request.do("metrics", "--textfile", str(file))

    assert "metrics" in done.err
    assert opened.read() == "old"  # it was replaced, not written over
    assert file.stat().st_mode & 0o777 == 0o644
    assert Scrape.of(file.read_text()).one("database_up") == 1
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    opened.close()
    said = pair.request.run("metrics", "--textfile", str(tmp_path / "nowhere" / "x.prom"))
    assert (said.code, "Traceback" in said.err) == (1, False)


@pytest.mark.same_on("postgresql")
def test_a_database_that_is_away_is_a_metric_and_the_rest_is_told(pair: Pair) -> None:
    (pair.request.home / "exchange.db").unlink()

    seen = told(pair.request)

    assert seen.one("database_up") == 0
    assert seen.one("ready") == 0
    assert seen.one("alarm", alarm="database", subject="", level="fault") == 1
    assert seen.total("disk_free_bytes") > 0
    assert not (pair.request.home / "exchange.db").exists()


@needs_promtool
@pytest.mark.same_on("postgresql")
def test_promtool_finds_nothing_to_say_of_a_scrape(seeded: Pair, parked: Callable[[], int]) -> None:
    parked()
    page = seeded.request.do("metrics").out

    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
