import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.orm import Session

from exchange.api import RefusedArgument
from exchange.celery import own_app, service, tasks
from exchange.celery.calls import Caller, NotAccepted, check_call
from exchange.database import make_engine
from exchange.operating import prepare
from exchange.reference.models import ProfileType, Request, Response, User
from exchange.settings import Settings
from exchange.tables import capture

from .conftest import START_SECONDS, Side, until

BROKER = "redis://:password@127.0.0.1:6379/0"


def settings(**values: Any) -> Settings:
    return Settings(network="response", peer="request", home=Path("/nowhere"), **values)


def configured(**values: Any) -> Mapping[str, Any]:
    return own_app.configuration(settings(**values), BROKER)


def test_the_visibility_timeout_is_above_the_hard_time_limit_in_all_three_places() -> None:
    given = configured(task_seconds=7200)
    places = [given, given["broker_transport_options"], given["result_backend_transport_options"]]
    assert all(place["visibility_timeout"] > given["task_time_limit"] == 7200 for place in places)
    assert given["task_soft_time_limit"] < given["task_time_limit"]


def test_a_killed_worker_gives_its_task_back_and_a_killed_child_does_not_loop() -> None:
    given = configured()
    assert given["task_acks_late"]
    assert not given["task_reject_on_worker_lost"]
    assert given["worker_prefetch_multiplier"] == 1


def test_nothing_but_json_is_read() -> None:
    assert configured()["accept_content"] == ["json"]


@pytest.mark.parametrize("seconds", [1.0, 60.0, 300.0])
def test_every_scheduled_task_is_gone_before_its_next_tick_and_has_no_eta(seconds: float) -> None:
    entries = configured(export_every=seconds, import_every=seconds, answer_every=seconds, intake_every=seconds)[
        "beat_schedule"
    ]
    assert {entry["task"] for entry in entries.values()} == {
        *("exchange.export", "exchange.import", "exchange.prune", "exchange.reconcile", "exchange.answer_requests"),
        *("exchange.work_retries", "exchange.intake"),
    }
    for entry in entries.values():
        assert 0 < entry["options"]["expires"] < entry["schedule"]
        assert entry["options"].keys() == {"expires", "headers"}


def test_only_the_response_network_of_the_reference_application_answers() -> None:
    asking = Settings(network="request", peer="response", home=Path("/nowhere"))
    assert "answer_requests" not in service.schedule(asking)
    assert "answer_requests" not in service.schedule(settings(app="own.app:channels"))


def test_two_sides_on_one_redis_keep_apart() -> None:
    other = own_app.configuration(Settings(network="request", peer="response", home=Path("/nowhere")), BROKER)
    for name in ("task_default_queue", "control_exchange"):
        assert configured()[name] != other[name]


def test_redbeat_is_used_where_it_is_asked_for_and_a_killed_one_is_replaced_within_a_minute() -> None:
    given = configured(redbeat=True, broker_url=BROKER)
    assert given["beat_scheduler"] == "exchange.celery.redbeat:SteadyRedBeat"
    assert given["beat_max_loop_interval"] * 5 <= 60


@pytest.mark.parametrize("service", ["beat", "worker"])
def test_neither_beat_nor_a_worker_signs_by_itself(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    assert own_app.app.caller() == Caller.here()
    monkeypatch.setattr(own_app.app, "runs", service)
    assert own_app.app.caller() is None


def test_a_tick_is_what_beat_sends_and_nothing_else() -> None:
    for entry in configured()["beat_schedule"].values():
        headers = {"task": entry["task"], "id": "1"}
        assert check_call(headers, [[], entry["kwargs"], {}], "no secret", 0, 1).kwargs == entry["kwargs"]
        with pytest.raises(NotAccepted, match="expected a signature, as it is no tick of beat's, found none"):
            check_call(headers, [[], {**entry["kwargs"], "reason": "x"}, {}], "no secret", 0, 1)


def test_a_stop_is_seen_in_a_process_forked_before_it() -> None:
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        deadline = time.monotonic() + 10
        while not service.stopping() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(to_parent, b"stopped" if service.stopping() else b"deaf")
        os._exit(0)
    try:
        assert not service.stopping()
        service.ask_to_stop()
        os.waitpid(child, 0)
        assert os.read(from_child, 10) == b"stopped"
    finally:
        service._stop[0] = 0
        os.close(from_child)
        os.close(to_parent)


@pytest.mark.processes
@pytest.mark.parametrize(
    "words", [["worker"], pytest.param(["call", "exchange.export"], marks=pytest.mark.thorough)], ids=" ".join
)
def test_bad_settings_are_sentences_and_code_2_for_every_celery_command(side: Side, words: list[str]) -> None:
    side.environment |= {"EXCHANGE_PEER": "response", "EXCHANGE_IMPORT_EVERY": "never"}
    done = side.celery(*words)
    assert done.returncode == 2
    assert "EXCHANGE_PEER: expected another name" in done.stderr
    assert "EXCHANGE_IMPORT_EVERY: expected a number of seconds above 0, found 'never'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.processes
def test_without_a_broker_a_sentence_says_how_to_get_one(side: Side) -> None:
    done = side.celery("beat")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"no broker runs in {side.home}/broker; start `exchange up`, or set EXCHANGE_BROKER_URL"
    )


@pytest.mark.processes
def test_a_call_says_in_one_sentence_that_the_broker_is_away(side: Side) -> None:
    side.environment["EXCHANGE_BROKER_URL"] = "redis://:hidden@127.0.0.1:1/0"
    done = side.celery("call", "exchange.export")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("the broker does not answer: ")
    assert "hidden" not in sentence


@pytest.mark.parametrize(
    "task, arguments, said",
    [
        ("export", {"chanel": "requests"}, "arguments: expected channel, spread, but got an unexpected keyword"),
        ("export", {"spread": 1}, "spread: expected true or false, found 1"),
        ("replay_batch", {}, "arguments: expected batch, through, but missing a required argument"),
        ("resync", {"channel": "requests"}, "channel: expected one that is sent here"),
        ("resync", {"channel": None}, "channel: expected one that is sent here"),
        ("resync", {"channel": "responses", "streams": "response"}, "streams: expected a list of names or null"),
        ("resync", {"channel": "responses", "streams": ["user"]}, "channel responses carries no stream user"),
        ("resync", {"channel": "responses", "prune": "yes"}, "prune: expected true or false"),
        ("new_epoch", {}, "missing a required argument: 'reason'"),
        ("import_", {"batch": 7}, "batch: expected a name or null, found 7"),
        ("retry_dead_letter", {"ids": 2**63}, "ids: expected the number of a dead letter"),
        ("retry_dead_letter", {"ids": [0]}, "ids: expected the number of a dead letter"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, arguments: dict[str, Any], said: str
) -> None:
    for name, value in {"NETWORK": "response", "PEER": "request", "HOME": tmp_path, "BROKER_URL": BROKER}.items():
        monkeypatch.setenv(f"EXCHANGE_{name}", str(value))
    with pytest.raises(RefusedArgument, match=said):
        getattr(tasks, task).run(**arguments)


@pytest.mark.processes
@pytest.mark.valkey
def test_a_worker_refuses_a_handler_that_does_not_exist(side: Side, valkey_url: str) -> None:
    side.environment |= {"EXCHANGE_BROKER_URL": valkey_url, "EXCHANGE_HANDLER": "nowhere:answer"}
    done = side.celery("worker")
    assert done.returncode == 2
    assert "EXCHANGE_HANDLER: " in done.stderr


@pytest.mark.processes
@pytest.mark.valkey
def test_a_worker_refuses_channels_that_do_not_exist_and_a_database_without_tables(side: Side, valkey_url: str) -> None:
    side.environment |= {"EXCHANGE_BROKER_URL": valkey_url, "EXCHANGE_APP": "nowhere:channels"}
    done = side.celery("worker")
    assert done.returncode == 2
    assert "EXCHANGE_APP: " in done.stderr
    del side.environment["EXCHANGE_APP"]
    done = side.celery("worker")
    assert done.returncode == 1
    assert "run `exchange migrate` first" in done.stderr


@pytest.mark.processes
@pytest.mark.valkey
def test_a_worker_stops_between_two_pieces_of_work_and_leaves_the_rest_for_later(side: Side, valkey_url: str) -> None:
    (side.folder / "slowly.py").write_text("import time\n\ndef answer(question):\n    time.sleep(0.5)\n    return 1\n")
    side.environment |= {"EXCHANGE_BROKER_URL": valkey_url, "EXCHANGE_HANDLER": "slowly:answer"}
    url = f"sqlite:///{side.home}/exchange.db"
    made = settings(broker_url=valkey_url).model_copy(
        update={
            "home": side.home,
            "database_url": url,
            "outgoing": side.home / "outgoing",
            "incoming": side.home / "incoming",
        }
    )
    prepare.prepare(made).engine.dispose()
    engine = make_engine(url)
    with Session(engine) as session:
        user = User(name="u", email="u@example.org", profile_type=ProfileType(name="p", daily_limit=9))
        session.add(user)
        session.flush()
        session.add_all(Request(user_id=user.id, kind="k", query=f"q{n}", parameters={}) for n in range(40))
        session.commit()

    def answered() -> int:
        with Session(engine) as session:
            return session.scalar(sa.select(sa.func.count()).select_from(Response)) or 0

    worker, log = side.start("worker", "-m", "celery", "-A", "exchange", "worker", "--loglevel", "INFO", forked=True)
    called = side.celery("call", "exchange.answer_requests")
    assert called.returncode == 0, called.stderr
    until(lambda: answered() >= 1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(START_SECONDS) == 0, log.read_text()
    assert 1 <= answered() < 40
    with redis.Redis.from_url(valkey_url) as client:
        result = json.loads(client.get(f"celery-task-meta-{called.stdout.strip()}") or b"{}")
        assert client.llen("exchange-response") == 0
    engine.dispose()
    assert result["status"] == "SUCCESS"
    assert result["result"]["answered"] == answered()


IN_SHARDS = """
import sqlalchemy as sa
from exchange.channels import Channel, Stream
item = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
channels = [Channel("items", "response", "request", [Stream(item)], shards=3)]
"""


def results(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(client.get(key) or b"{}")["result"] for key in client.keys("celery-task-meta-*")]


@pytest.mark.processes
@pytest.mark.valkey
@pytest.mark.postgres
def test_a_tick_gives_each_channel_that_has_work_a_task_of_its_own(
    side: Side, valkey_url: str, postgres_url: str
) -> None:
    (side.folder / "in_shards.py").write_text(IN_SHARDS)
    side.environment |= {
        "EXCHANGE_APP": "in_shards:channels",
        "EXCHANGE_BROKER_URL": valkey_url,
        "EXCHANGE_DATABASE_URL": postgres_url,
        "EXCHANGE_WORKER_CONCURRENCY": "2",
    }
    for command in ("init", "migrate"):
        side.run(command)
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE item (id integer PRIMARY KEY)")
        capture.add_version_column(connection, "item")
        capture.install(connection, "item")
        connection.exec_driver_sql("INSERT INTO item (id) SELECT generate_series(1, 60)")
    engine.dispose()
    _, log = side.start("worker", "-m", "celery", "-A", "exchange", "worker", "--loglevel", "INFO", forked=True)
    tick = ("call", "exchange.export", "--kwargs", '{"spread": true}')
    assert side.celery(*tick).returncode == 0
    until(lambda: len(results(valkey_url)) == 4)
    found = results(valkey_url)
    assert sorted(result["handed"] for result in found) == [[], [], [], ["items_0", "items_1", "items_2"]]
    assert sorted(batch["channel"] for result in found for batch in result["batches"]) == [
        *("items_0", "items_1", "items_2")
    ]
    assert side.celery(*tick).returncode == 0
    until(lambda: len(results(valkey_url)) == 5)
    assert {"batches": [], "message": "nothing to export"}.items() <= next(
        result for result in results(valkey_url) if result not in found
    ).items()
    assert "busy" not in log.read_text()
