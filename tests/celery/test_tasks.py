"""Everything by hand through ``celery call``: a real broker, a real worker, real databases."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.api import Exchange, RefusedArgument
from exchange.celery.calls import TICK, Caller, sign
from exchange.database import audit_log, tables
from exchange.database.audit_log import AuditEntry
from exchange.database.locks import locked, reading, writing
from exchange.database.tables import DeadLetterState
from exchange.database.whoami import user
from exchange.dead_letters import selections
from exchange.dead_letters.filters import Filters
from exchange.files import call_secret
from exchange.files.keys import candidate, new, trust
from exchange.incoming import importer
from exchange.operating import migrate, prepare
from exchange.outgoing import exporter
from exchange.reference.models import ProfileType, Request, User
from exchange.settings import Settings
from exchange.site import Site
from exchange.testing import servers
from tests.postgresql import Cluster

from .calling import signing_client
from .conftest import START_SECONDS, Side, new_side, until

pytestmark = [pytest.mark.processes, pytest.mark.valkey]


class Desk:
    """The response network with its worker, and somebody who calls tasks from another folder."""

    def __init__(self, side: Side, site: Site, broker_url: str) -> None:
        self.side, self.site = side, site
        self.urls = side.environment["EXCHANGE_DATABASE_URL"], broker_url
        self._redis = redis.Redis.from_url(broker_url)
        self._client = signing_client(side.home, broker_url)

    @property
    def engine(self) -> Engine:
        return self.site.engine

    def call(self, task: str, **arguments: Any) -> Any:
        """Call a task as ``celery call`` does; give its result, or the sentence with which it failed."""
        return self.result(self._client.send_task(f"exchange.{task}", kwargs=arguments, queue="exchange-response").id)

    def celery_call(self, task: str, **arguments: Any) -> Any:
        """Call a task as a person does; give its result, or the sentence with which it failed."""
        done = self.side.celery("call", f"exchange.{task}", "--kwargs", json.dumps(arguments))
        assert done.returncode == 0, done.stderr
        return self.result(done.stdout.strip())

    def result(self, task_id: str) -> Any:
        key = f"celery-task-meta-{task_id}"
        until(lambda: self._redis.exists(key))
        stored: Any = json.loads(self._redis.get(key) or b"{}")
        if stored["status"] == "SUCCESS":
            return stored["result"]
        return stored["result"]["exc_message"][0]

    def audited(self) -> list[AuditEntry]:
        """Give the audit, newest first."""
        with reading(self.engine) as connection:
            return audit_log.entries(connection)

    def exchange(self, *words: str) -> None:
        """Run a command of ours, which must succeed."""
        self.side.run(*words)

    def push(self, message: dict[str, Any]) -> Any:
        """Put a message into the queue as whoever reaches the broker can; give what is said of it."""
        self.put(message)
        return self.result(message["headers"]["id"])

    def put(self, message: dict[str, Any]) -> None:
        """Put a message into the queue, once more if it was there before."""
        self._redis.delete(f"celery-task-meta-{message['headers']['id']}")
        message["properties"]["delivery_tag"] = str(uuid.uuid4())
        self._redis.lpush("exchange-response", json.dumps(message))

    def caught(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Sign a call, and give its message rather than send it."""
        number = str(uuid.uuid4())
        headers = {"task": f"exchange.{task}", "id": number}
        body = [[], arguments, {}]
        return message(
            headers | sign(headers, body, call_secret.read(self.side.home), Caller.here(), time.time()), body
        )

    def kill_worker(self) -> None:
        """Kill the worker with its children, and wait until they are gone."""
        (worker,) = (self._client.control.inspect(timeout=START_SECONDS, limit=1).stats() or {}).values()
        process = psutil.Process(worker["pid"])
        family = [process, *process.children(recursive=True)]  # it first, or it replaces its children
        for one in family:
            one.kill()
        psutil.wait_procs(family)

    def letters(self) -> list[tuple[int, str]]:
        """Give the dead letters and their states."""
        letter = tables.dead_letter.c
        with reading(self.engine) as connection:
            return [tuple(row) for row in connection.execute(sa.select(letter.id, letter.state).order_by(letter.id))]

    def close(self) -> None:
        self._redis.close()
        self._client.close()


def _settings(home: Path, database_url: str, broker_url: str) -> dict[str, Any]:
    return {
        "network": "response",
        "peer": "request",
        "home": home,
        "database_url": database_url,
        "broker_url": broker_url,
    }


@pytest.fixture
def own_desk(side: Side, valkey_url: str, postgres_url: str) -> Iterator[Desk]:
    """Give the response network on PostgreSQL, with a worker of its own, to which a test may do anything."""
    yield from _at_work(side, _settings(side.home, postgres_url, valkey_url))


def _at_work(side: Side, settings: dict[str, Any]) -> Iterator[Desk]:
    side.environment |= {f"EXCHANGE_{name.upper()}": str(value) for name, value in settings.items()}
    side.environment["EXCHANGE_FOUR_EYES"] = "let_in_versions"
    new(side.home / "keys", "response-test")
    site = prepare.prepare(Settings(**settings))
    side.start("worker", "-m", "celery", "-A", "exchange", "worker", "--loglevel", "INFO", forked=True)
    made = Desk(side, site, settings["broker_url"])
    until(lambda: "ready." in (side.folder / "worker.log").read_text())
    yield made
    made.close()
    site.engine.dispose()


@pytest.fixture(scope="module")
def _shared(
    tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster, forked_python: Path
) -> Iterator[tuple[Desk, Cluster]]:
    side = new_side(tmp_path_factory.mktemp("desk"), forked_python)
    url = postgres_cluster.lend("the response network's", _migrated)
    with servers.valkey() as broker:
        yield from ((desk, postgres_cluster) for desk in _at_work(side, _settings(side.home, url, broker)))
        side.stop()
    postgres_cluster.give_back(url)


def _migrated(url: str) -> None:
    migrate.upgrade(url, (migrate.CORE, migrate.REFERENCE), network="response")


@pytest.fixture
def desk(_shared: tuple[Desk, Cluster]) -> Desk:
    """Give the response network with nothing in it: its worker is the one that worked for the test before."""
    desk, cluster = _shared
    desk.engine.dispose()
    assert cluster.restore(desk.urls[0])
    folders = desk.site.spool.folders
    for folder in (*folders.private, folders.outgoing, folders.incoming, folders.home / "keys" / "trusted"):
        for path in folder.glob("[!.]*"):
            if path.is_file() and folder not in (folders.home / "keys", folders.home / "markers"):
                path.unlink()
    prepare.prepare(Settings(**_settings(desk.side.home, *desk.urls))).engine.dispose()
    return desk


@pytest.fixture
def peer(desk: Desk, tmp_path: Path) -> Iterator[Site]:
    """Give the request network, without processes; both trust each other."""
    home = tmp_path / "peer"
    public = new(home / "keys", "request-test")
    trust(desk.side.home / "keys", candidate(public))
    trust(home / "keys", candidate(desk.side.home / "keys/response-test.pem"))
    made = prepare.prepare(Settings(network="request", peer="response", home=home))
    yield made
    made.engine.dispose()


def message(headers: dict[str, Any], body: Any) -> dict[str, Any]:
    """Give a message as it lies in Redis."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "exchange-response"},
            "priority": 0,
        },
    }


ADA = 7


def add_user(engine: Engine) -> None:
    """Add the user whom the requests are of."""
    with Session(engine) as session, session.begin():
        kind = ProfileType(name="p", daily_limit=9)
        session.add(User(id=ADA, name="ada", email="ada@example.org", profile_type=kind))


def ask(peer: Site, side: Side, count: int) -> str:
    """Export so many requests from the request network and carry them over; give the batch's stem."""
    with Session(peer.engine) as session, session.begin():
        if session.get(User, ADA) is None:
            kind = ProfileType(name="p", daily_limit=9)
            session.add(User(id=ADA, name="ada", email="ada@example.org", profile_type=kind))
            session.flush()
        session.add_all(Request(user_id=ADA, kind="k", query=f"q{n}", parameters={}) for n in range(count))
    [batch] = exporter.export(peer, stopping=importer.never).batches
    for path in peer.spool.folders.outgoing.glob(f"{batch.batch}.*"):
        shutil.copy(path, side.home / "incoming" / path.name)
    return batch.batch


def test_a_batch_is_imported_and_replayed_by_hand_and_every_call_is_audited(desk: Desk, peer: Site) -> None:
    add_user(desk.engine)
    stem = ask(peer, desk.side, 3)
    imported = desk.call("import", channel="requests")
    assert [(one["batch"], one["verdict"], one["records"]["applied"]) for one in imported["batches"]] == [
        (stem, "applied", 3)
    ]
    assert desk.call("replay_batch", batch=stem)["batches"][0]["verdict"] == "duplicate"
    replayed = desk.call("replay_batch", batch=stem, through=3, who="ada", reason="the night's last")
    assert (replayed["missing"], replayed["left"]) == (2, 0)
    assert [one["channel"] for one in desk.celery_call("export", channel="directory")["batches"]] == ["directory"]
    assert desk.call("prune")["message"] == "nothing to prune"
    entries = desk.audited()
    assert [(one.action, one.arguments) for one in reversed(entries)] == [
        ("import", {"channel": "requests"}),
        ("replay_batch", {"batch": stem}),
        ("replay_batch", {"batch": stem, "through": 3}),
        ("export", {"channel": "directory"}),
        ("prune", {}),
    ]
    assert [one.who for one in entries] == [user(), user(), "ada", user(), user()]
    assert entries[2].why == "the night's last"
    assert entries[-1].result == imported
    assert all(one.origin.startswith("celery call, ") and " task " in one.origin for one in entries)


def test_dead_letters_are_retried_discarded_and_restored_by_id_and_by_selection(desk: Desk, peer: Site) -> None:
    ask(peer, desk.side, 4)
    assert desk.call("import")["batches"][0]["records"]["parked"] == 4
    ids = [number for number, _ in desk.letters()]
    [failed] = desk.call("retry_dead_letter", ids=ids[0])["dead_letters"]
    assert (failed["id"], failed["state"]) == (ids[0], "parked")
    assert desk.call("discard_dead_letter", ids=ids[:2], reason="twins")["discarded"] == 2
    assert desk.call("restore_dead_letter", ids=ids[0], reason="no twin")["restored"] == 1
    add_user(desk.engine)
    with writing(desk.engine) as connection:
        selections.create_selection(connection, "fix1", Filters(state=DeadLetterState.PARKED))
    tried = desk.call("retry_dead_letter", selection="fix1", dry_run=True)
    assert (tried["tried"], tried["applied"]) == (3, 3)
    assert [state for _, state in desk.letters()].count("parked") == 3
    done = desk.call("retry_dead_letter", selection="fix1", canary=1, stop_after=1, rate=100)
    assert (done["tried"], done["applied"], done["left"]) == (3, 3, 0)
    assert sorted(state for _, state in desk.letters()) == ["applied", "applied", "applied", "discarded"]
    discarded = next(one for one in desk.audited() if one.action == "discard_dead_letter")
    assert (discarded.arguments, discarded.why) == ({"ids": ids[:2]}, "twins")
    assert discarded.result == {"discarded": 2, "message": "2 discarded"}


def test_a_call_finds_out_at_once_who_is_at_work_and_since_when(desk: Desk, peer: Site) -> None:
    add_user(desk.engine)  # which is to be exported
    stem = ask(peer, desk.side, 1)
    with locked(desk.engine, "import requests"), locked(desk.engine, "export directory"):
        answers = [
            desk.call("import"),
            desk.call("import", batch=stem),
            desk.call("replay_batch", batch=stem),
            desk.call("export"),
            desk.call("export", channel="directory"),
        ]
    for answer in answers:
        assert answer.keys() == {"verdict", "who", "since", "message"}
        assert answer["verdict"] == "busy"
        assert " pid " in answer["who"]
        assert datetime.fromisoformat(answer["since"]).tzinfo is not None
    assert [one.result for one in desk.audited()] == answers[::-1]


def test_a_command_and_a_call_that_do_the_same_leave_the_same_in_the_audit(desk: Desk, peer: Site) -> None:
    add_user(desk.engine)
    stem = ask(peer, desk.side, 1)
    desk.call("import")
    for task, words, arguments in (
        ("replay_batch", ["replay", stem], {"batch": stem}),
        ("replay_batch", ["replay", stem, "--through", "2"], {"batch": stem, "through": 2}),
        ("import", ["import", "requests"], {"channel": "requests"}),
        ("prune", ["prune"], {}),
        ("reconcile", ["reconcile", "requests"], {"channel": "requests"}),
    ):
        desk.call(task, **arguments, who="ada", reason="to compare")
        desk.exchange(*words, "--as", "ada", "--reason", "to compare")
        command, call = desk.audited()[:2]
        assert (command.action, command.arguments) == (call.action, call.arguments) == (task, arguments)
        assert (command.who, command.why) == (call.who, call.why) == ("ada", "to compare")
        assert _without_message(command) == _without_message(call)
        assert command.origin.startswith("command line, ")


_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no requests today' USING ERRCODE = 'check_violation'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON request FOR EACH ROW EXECUTE FUNCTION refuse()"""


def test_a_refused_batch_is_released_and_rejected_by_hand(desk: Desk, peer: Site) -> None:
    add_user(desk.engine)
    with desk.engine.begin() as connection:
        connection.exec_driver_sql(_REFUSE)
    stem = ask(peer, desk.side, 12)  # which is more than may be bad
    assert desk.call("import")["batches"][0]["reason"] == "rejected"
    assert "--park lets the others in" in desk.call("release_batch", batch=stem)
    released = desk.call("release_batch", batch=stem, park=True, reason="they are looked at one by one")
    assert released["batches"][0]["records"]["parked"] == 12
    assert "only one that is quarantined" in desk.call("reject_batch", batch=stem, reason="x")
    assert "is in quarantine" in desk.call("discard_quarantined", batch=stem, reason="x")
    assert "is in quarantine" in desk.call("release_quarantined", batch=f"{stem}~2")
    assert [one.action for one in desk.audited()[:2]] == ["release_quarantined", "discard_quarantined"]
    assert desk.audited()[0].result == {
        "failed": f"no batch {stem}~2 is in quarantine; nothing was done; `exchange quarantine` lists those there are"
    }


def test_a_call_that_needs_a_second_person_is_proposed_and_nobody_confirms_it_by_a_call(desk: Desk) -> None:
    held = desk.call("let_in_versions", channel="requests", version=2**60, reason="their clock is right", who="ada")
    assert (held["verdict"], held["proposal"]) == ("proposed", 1)
    assert desk.call("let_in_versions", channel="requests", version=2**60, reason="again")["proposal"] == 1
    assert [(one.who, one.action) for one in desk.audited()] == [(user(), "propose"), ("ada", "propose")]
    with Exchange(Settings(**_settings(desk.side.home, *desk.urls), four_eyes="let_in_versions")) as exchange:
        for name in ("ada", user()):
            with pytest.raises(RefusedArgument, match="is no second person"):
                exchange.proposals.confirm(1, who=name)
        assert exchange.proposals.confirm(1, who="bea").result["version"] == 2**60  # type: ignore[index]


def test_tables_are_sent_anew_and_a_new_epoch_begins_by_hand(desk: Desk) -> None:
    add_user(desk.engine)
    sent = desk.call("resync", channel="directory", streams=["user"], who="ada", reason="they lost some")
    assert (sent["asked"], sent["left"], sent["trouble"]) == (True, 0, None)
    begun = desk.call("new_epoch", reason="last night's copy was restored", who="ada")
    assert begun["channels"] == ["directory", "responses"]
    again = desk.call("resync", channel="directory")["batches"]
    assert {one["epoch"] for one in again} == {begun["epoch"]}
    entries = desk.audited()[:3][::-1]
    assert [one.action for one in entries] == ["resync", "new_epoch", "resync"]
    assert [one.why for one in entries] == ["they lost some", "last night's copy was restored", None]
    assert entries[0].arguments == {"channel": "directory", "streams": ["user"]}


def test_who_reaches_the_broker_alone_can_cause_a_tick_and_nothing_else(desk: Desk) -> None:
    side = desk.side

    def stranger(task: Any, kwargs: Any, following: Any = None, args: Any = (), **headers: Any) -> Any:
        number = str(uuid.uuid4())
        return desk.push(message({"task": task, "id": number, **headers}, [list(args), kwargs, following or {}]))

    reason = {"reason": "I can"}
    epoch = [{"task": "exchange.new_epoch", "args": [], "kwargs": reason, "options": {}, "immutable": True}]
    assert stranger("exchange.prune", {})["message"] == "nothing to prune"
    assert stranger("exchange.import", {"spread": True}, **TICK)["message"] == "nothing to import"
    assert desk.audited() == []
    signed = {"who": "ada", "from": "here", "at": int(time.time()), "digest": "0" * 64}
    refused = [
        stranger("exchange.new_epoch", reason),
        stranger("exchange.new_epoch", reason, **TICK),
        stranger("exchange.new_epoch", reason, parent_id="1", root_id="1"),
        stranger("exchange.new_epoch", reason, exchange_hand={"who": "ada", "from": "here"}),
        stranger("exchange.new_epoch", reason, exchange_call=signed),
        stranger("exchange.new_epoch", reason, exchange_caller={"who": "ada", "from": "here"}),
        stranger("exchange.new_epoch", {}, following={"kwargs": reason, "called_directly": True}),
        stranger("exchange.prune", {}, following={"callbacks": epoch}),
        stranger("exchange.prune", {}, following={"chain": epoch}),
        stranger("exchange.export", {"spread": 1}, following={"errbacks": epoch}),
        stranger("exchange.export", {}),
        stranger("exchange.import", {"spread": True, "batch": "x"}),
        stranger("exchange.prune", {"who": "ada"}),
        stranger("exchange.prune", {}, args=["x"]),
        stranger("exchange.refused", {"task": "a", "number": "b", "sentence": "c", "origin": "d"}),
        stranger("celery.starmap", {"task": epoch[0], "it": [[]]}),
        stranger("celery.map", {"task": epoch[0], "it": ["a"]}),
        stranger(["exchange.prune"], {}),
        stranger("exchange.prune", "x"),
    ]
    assert all(said.startswith("the call was refused: ") and said.endswith("; nothing was done") for said in refused)
    entries = desk.audited()[::-1]
    assert [one.result for one in entries] == [{"refused": said} for said in refused]
    assert {one.who for one in entries} == {"unknown"}
    assert all(one.origin.startswith("the broker, ") for one in entries)
    # What Celery itself would act on: limits, a time to begin, its own remote control.
    assert stranger("exchange.prune", {}, timelimit=[0.001, 0.001], eta="2999-01-01T00:00:00Z", shadow="x\ny")
    to_it = ("--timeout", str(START_SECONDS), "--destination", f"celery@{socket.gethostname()}")
    for words in (("shutdown",), ("pool_shrink", "1"), ("time_limit", "exchange.prune", "0.001")):
        assert "through the broker a worker is only looked at" in side.celery("control", *to_it, *words).stdout
    assert stranger("exchange.prune", {})["message"] == "nothing to prune"
    assert side.processes[-1].poll() is None
    log = (side.folder / "worker.log").read_text()
    assert "Traceback" not in log


def test_a_tick_that_expired_by_another_clock_is_taken_and_the_next_one_is_not(desk: Desk) -> None:
    def tick(number: str) -> dict[str, Any]:
        headers = {"task": "exchange.reconcile", "id": number, "expires": "2001-01-01T00:00:00+00:00"}
        return message(headers, [[], {"incoming": False}, {}])

    assert "channels" in desk.push(tick("first"))
    assert desk.push(tick("second")) == "expired"


def test_a_call_counts_once_as_it_was_signed_and_for_a_day(desk: Desk) -> None:
    caught = desk.caught("prune")
    assert desk.push(caught)["message"] == "nothing to prune"
    number = caught["headers"]["id"]
    sentence = f"the call {number} was done already, and came again; nothing was done: call it anew"
    assert desk.push(caught) == sentence
    assert [(one.who, one.result) for one in desk.audited()] == [
        ("unknown", {"refused": sentence}),
        (
            user(),
            {
                **dict.fromkeys(
                    ("sealed", "archived", "quarantined", "strangers", "stray", "letters", "folded", "people", "files"),
                    0,
                ),
                "message": "nothing to prune",
            },
        ),
    ]
    changed = desk.caught("reconcile", channel="requests")
    changed["body"] = base64.b64encode(b'[[], {"channel": "directory"}, {}]').decode()
    assert "not of this side's secret, or it was changed" in desk.push(changed)
    for seconds, said in ((-2 * 24 * 3600, "seconds ago, expected at most 86400"), (3600, "ahead of this machine's")):
        headers: dict[str, Any] = {"task": "exchange.prune", "id": str(uuid.uuid4())}
        secret = call_secret.read(desk.side.home)
        headers |= sign(headers, [[], {}, {}], secret, Caller.here(), time.time() + seconds)
        assert said in desk.push(message(headers, [[], {}, {}]))


PROGRAM = """
from celery import chain
from exchange.celery.tasks import prune, reconcile
print(chain(prune.si(), reconcile.si(channel="requests", reason="now it is tidy")).apply_async().id)
"""


def test_a_program_of_ours_signs_what_it_calls_and_what_is_to_follow(desk: Desk) -> None:
    called = subprocess.run(
        [str(desk.side.python), "-c", PROGRAM],
        env=desk.side.environment,
        cwd=desk.side.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 0, called.stderr
    assert desk.result(called.stdout.strip())["channels"][0]["channel"] == "requests"
    assert [(one.who, one.action, one.why) for one in desk.audited()] == [
        (user(), "reconcile", "now it is tidy"),
        (user(), "prune", None),
    ]


WAITING = """
import pathlib
import time

def answer(question):
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    return 1
"""


@pytest.fixture
def two_at_once(side: Side) -> Side:
    """Have answers wait until there is a file ``go``."""
    (side.folder / "waiting.py").write_text(WAITING)
    side.environment |= {"EXCHANGE_HANDLER": "waiting:answer", "EXCHANGE_WORKER_CONCURRENCY": "2"}
    return side


def test_a_call_that_was_cut_off_is_gone_on_with_and_never_done_beside_itself(
    two_at_once: Side, own_desk: Desk, side: Side
) -> None:
    desk = own_desk
    with Session(desk.engine) as session, session.begin():
        kind = ProfileType(name="p", daily_limit=9)
        session.add(User(id=ADA, name="ada", email="ada@example.org", profile_type=kind))
        session.flush()
        session.add(Request(user_id=ADA, kind="k", query="q", parameters={}))
    caught = desk.caught("answer_requests")
    desk.put(caught)
    until(desk.audited)
    assert "is being done already, and came again; nothing was done" in desk.push(caught)
    desk.kill_worker()
    _, log = side.start("heir", "-m", "celery", "-A", "exchange", "worker", "--loglevel", "INFO", forked=True)
    until(lambda: "ready." in log.read_text())
    (side.folder / "go").touch()
    # As the broker gives it back, once it is sure that its worker is gone.
    assert desk.push(caught)["message"] == "nothing to answer"  # whose claim on the request still holds
    assert "was done already, and came again" in desk.push(caught)
    assert [max(one.result or {}) for one in desk.audited()] == ["refused", "refused", "overtaken"]


def test_a_call_says_what_it_waits_for(own_desk: Desk, side: Side) -> None:
    free = side.celery("call", "exchange.prune")
    assert free.stderr == ""
    own_desk.kill_worker()
    waits = side.celery("call", "exchange.prune")
    assert waits.returncode == 0
    assert waits.stderr.startswith("no worker answered within 2 seconds; the call waits in the queue")


def test_a_call_that_makes_no_sense_is_one_sentence_and_not_done(desk: Desk) -> None:
    stem = "requests-0123456789ab-0000000001"
    for task, arguments, said in (
        ("retry_dead_letter", {}, "expected ids or a selection, found none"),
        ("retry_dead_letter", {"ids": 1, "selection": "a"}, "expected ids or a selection, found both"),
        ("retry_dead_letter", {"selection": "nope"}, "nope"),
        ("retry_dead_letter", {"selection": "nope", "canary": 0}, "canary: expected a whole number from 1"),
        ("retry_dead_letter", {"selection": "nope", "rate": 0}, "rate: expected how many a second"),
        ("discard_dead_letter", {"ids": 1}, "missing a required argument: 'reason'"),
        ("discard_dead_letter", {"ids": 1, "reason": ""}, "reason: expected 1 to 1000 printable characters"),
        ("discard_dead_letter", {"ids": 1, "reason": "x"}, "there is no dead letter 1"),
        ("prune", {"who": "\x1b[2J"}, "who: expected 1 to 100 printable characters"),
        ("replay_batch", {"batch": "nonsense"}, "names no batch"),
        ("replay_batch", {"batch": stem, "through": "9"}, "through: expected"),
        ("replay_batch", {"batch": stem}, "is kept in work, incoming, quarantine or archive"),
        ("release_batch", {"batch": stem, "park": 1}, "park: expected true or false"),
        ("reject_batch", {"batch": stem, "reason": "x"}, "the ledger has no batch"),
        ("discard_quarantined", {"batch": "~", "reason": "x"}, "batch: "),
    ):
        answer = desk.call(task, **arguments)
        assert isinstance(answer, str), answer
        assert said in answer
        assert "\n" not in answer
        assert "\x1b" not in answer


def _without_message(entry: AuditEntry) -> dict[str, Any]:
    assert entry.result is not None
    return {name: value for name, value in entry.result.items() if name != "message"}
