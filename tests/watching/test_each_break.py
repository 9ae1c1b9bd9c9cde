"""Each part of a side is broken in turn, and seen at once on all four: /health/ready, a metric, an alert, a message.

Two sides run as in life, with periods of two seconds; what a break's own threshold takes stands at the break. What is
measured is in deploy/ALARMS.md.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.cli.runtime import FAILED
from exchange.database import make_engine
from exchange.database.engine import now
from exchange.files.shared_folders import MARKER
from exchange.operating import broker
from exchange.operating.doctor.finding import Alarm
from exchange.tables import capture
from tests.networks import until
from tests.watching.breaking import EVERY, KEPT_SECONDS, Break, Served, World, world
from tests.watching.scraping import Scrape

pytestmark = [
    pytest.mark.torture,
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
    pytest.mark.skipif(
        shutil.which("prometheus") is None and "CI" not in os.environ,
        reason="prometheus isn't installed (Debian: apt-get install prometheus)",
    ),
]

SILENT = 30.0
"""Who promised word each two seconds is silent after so long."""
LATE = 120.0
SETTLED = 10.0
"""A damaged file may be one that is still written, until nobody has written to it for so long."""
QUIET_SECONDS = 45.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give two sides that are well; each test leaves them so."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[World]:
    """Give two sides of its own to a test that leaves something for people to decide on."""
    with world(tmp_path) as made:
        yield made


def above(name: str, limit: float = 0.0, **labels: str) -> Callable[[Scrape], bool]:
    """Say that a metric is above a number."""
    return lambda scrape: scrape.total(name, **labels) > limit


def stands(alarm: Alarm) -> Callable[[Scrape], bool]:
    """Say that an alarm stands, of which the rule goes by nothing else."""
    return above("alarm", alarm=alarm)


def heard_of(kind: str) -> Callable[[Scrape], bool]:
    return above("process_age_seconds", SILENT, kind=kind)


def test_two_sides_that_are_well_are_green_all_the_time_and_nobody_is_told(here: World) -> None:
    here.until_green()
    here.receiver.requests.clear()
    until_ = time.monotonic() + QUIET_SECONDS
    here.request.side.do("submit", "administrator", "how late is it?")
    while time.monotonic() < until_:
        for side in (here.request, here.response):
            assert side.is_green(), (side.alarms(), side.log())
        assert not here.prometheus.alerts()
        time.sleep(0.5)
    assert not here.receiver.requests, here.receiver.requests


def test_a_worker_that_is_killed_and_that_nobody_starts_again(here: World) -> None:
    killed = Break(Alarm.WORKER, "ExchangeWorkerDead", heard_of("worker"), rule=SILENT)
    with here.request.unattended(), here.broken(killed, along={Alarm.LINK_SILENT}):
        os.killpg(here.request.child("worker").pid, signal.SIGKILL)
    here.mended(killed)


def test_a_worker_that_hangs(here: World) -> None:
    hangs = Break(Alarm.WORKER, "ExchangeWorkerDead", heard_of("worker"), finds=SILENT)
    worker = here.request.child("worker").pid
    with here.broken(hangs, along={Alarm.LINK_SILENT}):
        os.killpg(worker, signal.SIGSTOP)
    os.killpg(worker, signal.SIGCONT)
    here.mended(hangs)


def test_a_beat_that_is_killed_and_that_nobody_starts_again(here: World) -> None:
    killed = Break(Alarm.BEAT, "ExchangeBeatDead", heard_of("beat"), rule=SILENT)
    with here.request.unattended(), here.broken(killed, along={Alarm.LINK_SILENT}):
        os.killpg(here.request.child("beat").pid, signal.SIGKILL)
    here.mended(killed)


def test_a_beat_that_hangs(here: World) -> None:
    hangs = Break(Alarm.BEAT, "ExchangeBeatDead", heard_of("beat"), finds=SILENT)
    beat = here.request.child("beat").pid
    with here.broken(hangs, along={Alarm.LINK_SILENT}):
        os.killpg(beat, signal.SIGSTOP)
    os.killpg(beat, signal.SIGCONT)
    here.mended(hangs)


def test_a_broker_that_is_killed_and_that_nobody_starts_again(here: World) -> None:
    killed = Break(Alarm.BROKER, "ExchangeBroker", stands(Alarm.BROKER), finds=KEPT_SECONDS)
    address = broker.running(here.request.side.home / "broker")
    assert address is not None
    with address.client(10) as client:
        pid = client.info("server")["process_id"]
    with here.request.unattended(), here.broken(killed, along={Alarm.LINK_SILENT}):
        os.kill(pid, signal.SIGKILL)
    here.mended(killed)


def test_a_carrier_that_brings_nothing_more(here: World) -> None:
    silent = Break(
        Alarm.LINK_SILENT,
        "ExchangeLinkSilent",
        lambda scrape: scrape.one("peer_silence_seconds") > 3 * scrape.one("peer_period_seconds") > 0,
        "response",
        finds=12,
    )
    with here.broken(silent):
        here.carriers.resting.add("response")
    here.carriers.resting.clear()
    here.mended(silent)


def test_exports_and_imports_that_are_late_and_a_paused_channel_that_is_not(here: World) -> None:
    worker = Break(Alarm.WORKER, "ExchangeWorkerDead", heard_of("worker"), finds=SILENT)
    late = [
        Break(
            Alarm.EXPORT_LATE,
            "ExchangeExportLate",
            above("last_success_age_seconds", LATE, channel="requests"),
            "requests",
            finds=LATE,
        ),
        Break(
            Alarm.IMPORT_LATE,
            "ExchangeImportLate",
            above("last_success_age_seconds", LATE, channel="directory"),
            "directory",
            finds=LATE,
        ),
    ]
    side = here.request.side
    here.until_green()
    side.do("channels", "pause", "responses", "--reason", "the office moves")
    until(lambda: any(one["labels"]["alertname"] == "ExchangeChannelPaused" for one in here.prometheus.alerts()))
    status, health = here.request.health()
    (told,) = (one for one in health["parts"] if one["level"] != "ok")
    assert (status, told["check"], told["level"], told["alarm"]) == (200, "paused", "warning", None)
    assert told["command"] == "exchange channels resume responses --reason TEXT"
    assert Scrape.of(here.request.ask("/metrics")[1]).one("paused", channel="responses", direction="in") == 1
    here.receiver.requests.clear()
    pid = here.request.child("worker").pid
    began = time.monotonic()
    with here.request.unattended():
        os.killpg(pid, signal.SIGSTOP)
        here._see((worker, *late), began)
        assert {one["alarm"] for one in here.messages()} <= {"worker", "export_late", "import_late", "link_silent"}
        assert not any(one["subject"] == "responses" for one in here.messages())
        assert not any(one["labels"].get("channel") == "responses" for one in _late_alerts(here))
        os.killpg(pid, signal.SIGCONT)
    side.do("channels", "resume", "responses", "--reason", "they have moved")
    here.mended(*late)


def _late_alerts(here: World) -> list[dict[str, dict[str, str]]]:
    return [one for one in here.prometheus.alerts() if one["labels"].get("alarm") in ("export_late", "import_late")]


def _change(here: World, number: int) -> None:
    here.response.side.execute(f"UPDATE profile_type SET daily_limit = {number} WHERE name = 'basic'")


def test_a_batch_that_is_damaged_on_its_way(here: World) -> None:
    refused = Break(
        Alarm.QUARANTINED,
        "ExchangeQuarantined",
        above("batches", channel="directory", state="quarantined"),
        "directory",
        finds=SETTLED + EVERY,
    )
    carrier = here.carriers.each["response"]
    here.until_green()
    here.carriers.resting.add("response")
    _change(here, 1001)
    until(lambda: any(carrier.outgoing.glob("directory-*.zst")))
    carrier.spoils = lambda name: name.startswith("directory-") and name.endswith(".zst")
    with here.broken(refused, along={Alarm.GAP}):
        here.carriers.resting.clear()
    carrier.spoils = None
    here.mended(refused)


def test_a_batch_that_is_lost_on_its_way(here: World) -> None:
    missing = Break(Alarm.GAP, "ExchangeGap", above("gaps", channel="directory"), "directory", "warning", EVERY)
    carrier = here.carriers.each["response"]
    here.until_green()
    here.carriers.resting.add("response")
    _change(here, 1002)
    until(lambda: any(carrier.outgoing.glob("directory-*.manifest.jsonl")))
    (lost,) = carrier.outgoing.glob("directory-*.manifest.jsonl")
    stem = lost.name.removesuffix(".manifest.jsonl")
    carrier.loses = lambda name: name.startswith(stem)
    _change(here, 1003)
    until(lambda: len(list(carrier.outgoing.glob("directory-*.manifest.jsonl"))) > 1)
    with here.broken(missing):
        here.carriers.resting.clear()
    carrier.loses = None
    here.mended(missing)


def _in_request(here: World, query: str) -> int:
    engine = make_engine(here.request.side.database_url)
    with engine.connect() as connection:
        found = connection.scalar(sa.text(query))
    engine.dispose()
    return int(found or 0)


def test_deletes_that_are_held_for_a_person(here: World) -> None:
    held = Break(
        Alarm.HELD, "ExchangeHeld", above("batches", channel="directory", state="held"), "directory", finds=EVERY
    )
    here.response.side.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (50, 'a', 1, 1), (51, 'b', 1, 1)"
    )
    until(lambda: _in_request(here, "SELECT count(*) FROM profile_type WHERE id IN (50, 51)") == 2)
    here.until_green()
    here.carriers.resting.add("response")
    here.response.side.execute("DELETE FROM profile_type WHERE id IN (50, 51)")
    until(lambda: any((here.response.side.home / "outgoing").glob("directory-*.manifest.jsonl")))
    with here.broken(held):
        here.carriers.resting.clear()
    (batch,) = [one["batch"] for one in here.request.side.do("batches", "--state", "held", "--json").lines]
    here.request.side.do("import", "--release", batch)
    here.mended(held)


def test_more_dead_letters_than_there_may_be(here: World) -> None:
    parked = Break(Alarm.DEAD_LETTERS, "ExchangeDeadLetters", above("dead_letters_parked", 1), finds=EVERY)
    here.until_green()
    here.request.side.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (98, 'own', 1, 1), (99, 'two', 1, 1)"
    )
    here.carriers.resting.add("response")
    here.response.side.execute(
        "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (60, 'own', 1, 1), (61, 'two', 1, 1)"
    )
    until(lambda: any((here.response.side.home / "outgoing").glob("directory-*.manifest.jsonl")))
    with here.broken(parked):
        here.carriers.resting.clear()
    here.request.side.execute("DELETE FROM profile_type WHERE id IN (98, 99)")
    letters = [str(one["id"]) for one in here.request.side.do("dead-letters", "list", "--json").lines]
    here.request.side.do("dead-letters", "retry", *letters)
    here.mended(parked)


def test_rows_that_differ_from_their_source(here: World) -> None:
    differs = Break(
        Alarm.DISAGREEMENT,
        "ExchangeDisagreement",
        above("agreement_differing_buckets", stream="profile_type"),
        "profile_type",
        level="warning",
        finds=EVERY,
    )
    here.until_green()
    limit = _in_request(here, "SELECT daily_limit FROM profile_type WHERE name = 'basic'")
    here.request.side.execute("UPDATE profile_type SET daily_limit = 77 WHERE name = 'basic'")
    here.carriers.resting.add("response")
    here.response.side.do("reconcile", "directory")
    here.response.side.do("export")
    with here.broken(differs):
        here.carriers.resting.clear()
    here.request.side.execute(f"UPDATE profile_type SET daily_limit = {limit} WHERE name = 'basic'")
    here.response.side.do("reconcile", "directory")
    here.mended(differs)


def test_a_disk_that_is_nearly_full(here: World) -> None:
    full = Break(
        Alarm.DISK,
        "ExchangeDiskLow",
        lambda scrape: (
            scrape.one("disk_free_bytes", folder="incoming") < 0.1 * scrape.one("disk_size_bytes", folder="incoming")
        ),
        level="warning",
        finds=KEPT_SECONDS,
    )
    ballast = here.disk / "ballast"
    with here.broken(full), ballast.open("wb") as file:
        seen = os.statvfs(here.disk)
        os.posix_fallocate(file.fileno(), 0, seen.f_bavail * seen.f_frsize - 30_000_000)
    ballast.unlink()
    here.mended(full)


def test_a_key_that_ends_soon(here: World) -> None:
    side = here.request.side
    (key,) = (side.home / "keys/trusted").glob("response-*.pem")
    listed = side.do("keys", "list", "--json").lines
    (fingerprint,) = (one["fingerprint"] for one in listed if one["name"] == key.stem)
    ends = Break(
        Alarm.KEY,
        "ExchangeKeyEnds",
        lambda scrape: (
            0 < scrape.one("key_expiry_timestamp_seconds", key=key.stem, use="trusted") < time.time() + 14 * 86400
        ),
        key.stem,
        level="warning",
    )
    trust = ("keys", "trust", str(key), "--fingerprint", fingerprint, "--not-after")
    with here.broken(ends):
        side.do(*trust, (now() + timedelta(days=3)).isoformat())
    side.do(*trust, (now() + timedelta(days=300)).isoformat())
    here.mended(ends)


def test_a_table_that_is_not_captured(here: World) -> None:
    uncaptured = Break(Alarm.TRIGGERS, "ExchangeTriggers", stands(Alarm.TRIGGERS), "request")
    with here.broken(uncaptured, along={Alarm.RUN_FAILED}):
        here.request.side.execute(
            "DO $$ DECLARE one record; BEGIN FOR one IN SELECT tgname FROM pg_trigger"
            " WHERE tgrelid = 'request'::regclass AND NOT tgisinternal LOOP"
            " EXECUTE format('DROP TRIGGER %I ON request', one.tgname); END LOOP; END $$"
        )
    engine = make_engine(here.request.side.database_url)
    with engine.begin() as connection:
        capture.install(connection, "request")
    engine.dispose()
    here.mended(uncaptured)


def test_a_folder_without_its_marker(here: World) -> None:
    unmounted = Break(Alarm.FOLDER, "ExchangeFolder", stands(Alarm.FOLDER), "incoming")
    marker, aside = here.request.side.home / "incoming" / MARKER, here.disk / "marker"
    with here.broken(unmounted, along={Alarm.RUN_FAILED, Alarm.LINK_SILENT}):
        marker.rename(aside)
    aside.rename(marker)
    here.mended(unmounted)


def test_a_database_that_is_away(here: World) -> None:
    away = Break(Alarm.DATABASE, "ExchangeDatabaseDown", lambda scrape: scrape.one("database_up") == 0, finds=2)
    with here.broken(away):
        here.database.stop()
    time.sleep(SILENT + 2 * EVERY)  # so that whoever is to give signs of life there has given none for too long
    assert {one["alarm"] for one in here.messages()} == {"database"}
    here.database.start()
    here.mended(away)
    assert {one["alarm"] for one in here.messages()} <= {"database", "run_failed", "link_silent"}


def test_a_database_that_is_an_earlier_copy(apart: World) -> None:
    halted = Break(Alarm.HALTED, "ExchangeHalted", above("halted"), finds=8 + 2 * EVERY)
    apart.until_green()
    apart.database.stop()
    apart.database.copy("earlier")
    apart.database.start()
    apart.until_green()
    apart.request.side.do("submit", "administrator", "what becomes of this?")
    until(lambda: _newest_request(apart) == ["acknowledged"])
    apart.until_green()
    # It stands still for so long, and exports nothing then.
    along = {"link_silent", "database", "run_failed"}
    with apart.broken(halted, along=along):
        apart.database.stop()
        apart.database.take("earlier")
        apart.database.start()
    apart.request.side.do("epoch", "new", "--reason", "restored")
    until(lambda: not _halted(apart))


def _halted(here: World) -> list[object]:
    alerts = [one for one in here.prometheus.alerts() if one["labels"].get("alarm") == "halted"]
    return alerts + [one for one in here.request.alarms() if one["alarm"] == "halted"]


def _newest_request(here: World) -> list[str]:
    sent = here.request.side.do("batches", "--channel", "requests", "--json").lines
    return [one["state"] for one in sent[:1]]


def test_a_lost_database_comes_back_by_two_commands(apart: World, tmp_path: Path) -> None:
    side = apart.request.side
    apart.until_green()
    side.do("submit", "administrator", "before the backup")
    backups = tmp_path / "backups"
    backups.mkdir(mode=0o700)
    made = side.do("backup", "--to", str(backups), "--reason", "the hour", "--json").line["folder"]
    side.do("submit", "administrator", "after the backup")
    until(lambda: _rows(apart.request) == _rows(apart.response), apart.request.log)
    _change(apart, 1004)
    until(lambda: _in_request(apart, "SELECT daily_limit FROM profile_type WHERE name = 'basic'") == 1004)
    apart.until_green()
    apart.request.stop()
    began = time.monotonic()
    admin = make_engine(side.database_url.rpartition("/")[0] + "/template1")
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("DROP DATABASE postgres WITH (FORCE)"))
    admin.dispose()
    side.do("restore", "--from", made, "--reason", "the disk is gone")
    print(f"restored after {time.monotonic() - began:.1f} s")  # noqa: T201 - shown with -rP, for the page
    apart.request.up()
    # The other side answered what is lost: each parks one record, which its people have to decide on.
    until(lambda: [_parked(one) for one in (apart.request, apart.response)] == [["response"], ["request"]])
    apart.response.side.execute(f"DELETE FROM response WHERE request_id IN ({_LOST})")
    until(lambda: _rows(apart.request) == _rows(apart.response), apart.request.log)
    apart.measured.append(f"a lost database: both sides have the same rows after {time.monotonic() - began:.1f} s")
    until(
        lambda: not apart.prometheus.alerts() and {one.health()[0] for one in (apart.request, apart.response)} == {200}
    )
    for one in (apart.request, apart.response):
        until(partial(_is_sound, one), one.log)
    apart.measured.append(f"a lost database: `exchange check` agrees after {time.monotonic() - began:.1f} s")


_LOST = "SELECT id FROM request WHERE query = 'after the backup'"


def _parked(one: Served) -> list[str]:
    return [letter["stream"] for letter in one.side.do("dead-letters", "list", "--state", "parked", "--json").lines]


def _is_sound(one: Served) -> bool:
    return one.side.run("check", "--deep").code != FAILED


def _rows(one: Served) -> list[list[tuple[Any, ...]]]:
    engine = make_engine(one.side.database_url)
    with engine.connect() as connection:
        found: list[list[tuple[Any, ...]]] = [
            [tuple(row) for row in connection.execute(sa.text(f"SELECT {columns} ORDER BY 1"))]
            for columns in (
                "name, daily_limit FROM profile_type",
                "query FROM request",
                "query FROM request JOIN response ON request_id = request.id",
            )
        ]
    engine.dispose()
    return found
