from pathlib import Path

import pytest

from exchange.operating import broker, probes


def test_what_worker_and_beat_are_made_of_is_here() -> None:
    assert probes.parts_missing(None, redbeat=True) is None
    assert probes.parts_missing("rediss://127.0.0.1:1/0", redbeat=False) is None


@pytest.mark.valkey
def test_a_worker_could_connect_to_a_broker_that_is_there_and_not_without_its_password(tmp_path: Path) -> None:
    with broker.EmbeddedBroker(tmp_path / "broker") as running:
        assert running.address is not None
        assert probes.connection_refused(running.address.url) is None
        said = probes.connection_refused(broker.Address(running.address.port, "wrong").url)
    assert said is not None
    assert said.startswith("the broker does not take a worker's connection: ")
    assert "wrong" not in said


def test_an_embedded_broker_whose_server_does_not_run_here_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probes.server_missing() is None
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\necho no such instruction >&2\nexit 4\n")
    monkeypatch.setattr(broker, "find_server", lambda: server)
    assert "Permission denied" in str(probes.server_missing())
    server.chmod(0o755)
    assert str(probes.server_missing()) == (
        "the embedded broker can't start: valkey-server ended with code 4: no such instruction"
    )
