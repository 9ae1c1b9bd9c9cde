import stat
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis

from exchange.operating.broker import BrokerFault, EmbeddedBroker, durability_problems, login_refused, running

pytestmark = pytest.mark.valkey


def test_a_queue_survives_the_brokers_death_at_the_same_address(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker") as broker:
        assert broker.address is not None
        assert broker.process is not None
        before = broker.address
        with redis.Redis.from_url(before.url) as client:
            client.config_set("appendfsync", "always")
            client.rpush("queue", *range(100))
        broker.process.kill()
        broker.process.wait()
        assert broker.died()
        assert broker.start() == before
        with redis.Redis.from_url(before.url) as client:
            assert client.llen("queue") == 100


def test_it_is_found_while_it_runs_and_not_after(tmp_path: Path) -> None:
    assert running(tmp_path / "broker") is None
    with EmbeddedBroker(tmp_path / "broker") as broker:
        assert running(tmp_path / "broker") == broker.address
    assert running(tmp_path / "broker") is None


def test_it_asks_for_a_password_never_evicts_and_listens_on_loopback_only(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker") as broker:
        assert broker.address is not None
        stranger = replace(broker.address, password="").client(5)
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(broker.address.url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert durability_problems(broker.address.url) == []
        assert broker.process is not None
        # What everybody on the machine may read of it.
        assert broker.address.password not in " ".join(psutil.Process(broker.process.pid).cmdline())


def test_its_folder_and_its_address_are_for_its_user_alone(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "home/broker") as broker:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in broker.folder.iterdir()}
        assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700
        assert modes["broker.json"] == 0o600
        assert all(mode & 0o077 == 0 for name, mode in modes.items() if name != "lock")


def test_a_second_one_in_the_same_folder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as first:
        with pytest.raises(BrokerFault, match=r"in use by .* pid \d+ since .* UTC; stop that one first"):
            EmbeddedBroker(tmp_path).start()
        assert running(tmp_path) == first.address


def test_a_server_that_a_killed_process_left_behind_is_taken_over_and_stopped(tmp_path: Path) -> None:
    left = EmbeddedBroker(tmp_path)
    address = left.start()
    assert left.process is not None
    assert left._lock is not None
    left._lock.close()  # what the kernel does when a process dies
    heir = EmbeddedBroker(tmp_path)
    assert heir.start() == address
    heir.stop()
    assert left.process.wait(5) == 0


def test_a_broker_that_drops_tasks_silently_is_a_worry(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            policy, append_only = durability_problems(valkey_url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "set noeviction" in str(policy)
    assert "set appendonly yes" in str(append_only)


def test_a_broker_that_is_away_is_one_sentence() -> None:
    with pytest.raises(BrokerFault, match="does not answer"):
        durability_problems("redis://127.0.0.1:1/0")


def test_a_wrong_password_is_a_setting_to_mend_and_no_absence(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker") as broker:
        assert broker.address is not None
        assert login_refused(broker.address.url) is None
        wrong = replace(broker.address, password="wrong").url
        with pytest.raises(BrokerFault, match=r"does not let us in: .*; mend the name and the password"):
            durability_problems(wrong)
        assert str(login_refused(wrong)).startswith("the broker does not let us in: ")
    assert login_refused(wrong) is None  # it is away


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(BrokerFault, match=r"home"):
        EmbeddedBroker(tmp_path / "home/broker").start()
