"""``exchange serve`` as a process: what it answers to whom, and how it begins and ends."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exchange.files import pid_lock
from exchange.operating.prepare import prepare
from exchange.serve import server
from exchange.settings import Settings
from tests.cli.conftest import Side

TOKEN = "a-token-of-some-length"


class Served:
    """A server that runs, and what it answers."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): said for name, said in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): said for name, said in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()


def environment(home: Path, **more: str) -> dict[str, str]:
    given = {"NETWORK": "response", "PEER": "request", "HOME": str(home), "SERVE_PORT": "0", **more}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    return clean | {f"EXCHANGE_{name}": value for name, value in given.items()}


@contextmanager
def serving(home: Path, *words: str, **more: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "exchange", "serve", *words]
    with subprocess.Popen(
        command, cwd=home, env=environment(home, **more), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"listening.* at=https?://127\.0\.0\.1:([0-9]+)", line)
            assert found is not None, line + process.stderr.read()
            yield Served(process, int(found[1]))
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    side = Settings(
        network="response", peer="request", home=made, outgoing=made / "outgoing", incoming=made / "incoming"
    )
    prepare(side).engine.dispose()
    return made


def test_it_answers_health_and_metrics_on_this_machine_and_ends_in_order(home: Path) -> None:
    with serving(home) as server:
        status, headers, said = server.ask("/health/live")
        assert (status, said) == (200, "alive\n")
        assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
        assert "server" not in headers
        status, _, said = server.ask("/health/ready")
        found = json.loads(said)
        assert (status, found["ready"], found["network"]) == (503, False, "response")
        told = {(one["check"], one["alarm"], one["subject"]) for one in found["parts"]}
        assert ("keys", "key", "response") in told
        done = Side("response", home).run("health", "--json")
        assert done.code == 2
        assert {(one["check"], one["alarm"], one["subject"]) for one in done.line["parts"]} == told
        assert server.ask("/health/ready", Accept="text/plain")[2].startswith("response: fault\n")
        assert "<h1>response: fault</h1>" in server.ask("/health/ready", Accept="text/html,*/*")[2]
        assert "exchange_database_up" in server.ask("/metrics")[2]
        # A page of another name that was made to lead here, other methods, and what is too large.
        assert server.ask("/health/ready", Host="evil.example")[0] == 421
        assert server.ask("/health/ready", "POST")[0] == 405
        # Nobody sees a page who has not signed in.
        status, headers, _ = server.ask("/health")
        assert (status, headers["location"]) == (303, "/sign-in?next=/health")
        assert server.ask("/channels/requests/pause", "POST")[1]["location"] == "/sign-in"
        assert server.ask("/health/ready", Content_Length="99999999")[0] == 413
        assert server.ask("/health/live", More="x" * 100_000)[0] == 431
    assert server.process.returncode in (0, -signal.SIGTERM)


@pytest.mark.thorough
def test_a_second_one_says_that_it_is_not_alone_and_a_restore_begins_beside_none(home: Path) -> None:
    lock = home / "run" / "serve.lock"
    with serving(home) as first:
        with serving(home) as second:
            assert second.process.stderr is not None
            assert "another one serves this home" in second.process.stderr.readline()
            assert first.ask("/health/live")[0] == second.ask("/health/live")[0] == 200
        assert pid_lock.held(lock, by_others=True)
        with pytest.raises(BlockingIOError), closing(pid_lock.hold(lock, refuse)):
            pass
    assert not pid_lock.held(lock, by_others=True)


def refuse(_who: str) -> None:
    """Do not wait."""
    raise BlockingIOError


def test_beyond_this_machine_it_needs_a_token_and_asks_for_it(home: Path, tmp_path: Path) -> None:
    refused = Side("response", home).refused("serve", "--host", "0.0.0.0", code=2)  # noqa: S104 - that is refused
    assert refused.startswith("EXCHANGE_SERVE_TOKEN_FILE is not set:")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    with serving(home, SERVE_TOKEN_FILE=str(file)) as server:
        assert server.ask("/health/live")[0] == 200
        for path in ("/health/ready", "/metrics"):
            status, headers, _ = server.ask(path)
            assert (status, headers["www-authenticate"].partition(" ")[0]) == (401, "Bearer")
        basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        wrong = base64.b64encode(b"anybody:something").decode()
        assert server.ask("/health/ready", Authorization=f"Bearer {TOKEN}", Host="any.example")[0] == 503
        assert server.ask("/health/ready", Authorization=f"Basic {basic}")[0] == 503
        begun = time.monotonic()
        assert [server.ask("/metrics", Authorization=f"Basic {wrong}")[0] for _ in range(3)] == [401] * 3
        assert time.monotonic() - begun > 0.7  # each one later than the one before
        assert server.ask("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.thorough
def test_it_answers_while_database_and_broker_hang(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        urls = {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/none", "BROKER_URL": f"redis://127.0.0.1:{port}"}
        with serving(tmp_path, **urls) as server:
            assert server.ask("/health/live")[0] == 200
            status, _, said = server.ask("/health/ready")
            found = {one["alarm"]: one["message"] for one in json.loads(said)["parts"]}
            assert status == 503
            assert found["database"].startswith("no answer from database")
            assert found["broker"].startswith("no answer from broker")


@pytest.mark.thorough
def test_it_speaks_https_itself_with_a_certificate_and_says_what_is_wrong_with_one(home: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exchange.example")])
    begun = datetime.now(UTC) - timedelta(days=1)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), begun, begun.replace(2999)
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files = {"SERVE_CERTIFICATE_FILE": str(certificate), "SERVE_KEY_FILE": str(private)}
    with serving(home, **files) as server:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=30, context=ssl.create_default_context(cafile=certificate)
        )
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b"alive\n"
        connection.close()
    private.write_text("no key\n")
    command = [sys.executable, "-m", "exchange", "serve"]
    done = subprocess.run(
        command, cwd=home, env=environment(home, **files), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "EXCHANGE_SERVE_KEY_FILE: expected a certificate and its private key in PEM" in done.stderr
    alone = environment(home, SERVE_CERTIFICATE_FILE=str(certificate))
    done = subprocess.run(command, cwd=home, env=alone, capture_output=True, text=True, check=False)
    assert "expected EXCHANGE_SERVE_KEY_FILE beside EXCHANGE_SERVE_CERTIFICATE_FILE" in done.stderr


def test_a_connection_that_is_used_again_and_again_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)

    async def well(_: Request) -> Response:
        return PlainTextResponse("well")

    async def asked() -> int:
        app = Starlette(routes=[Route("/", well)])
        with socket.create_server(("127.0.0.1", 0)) as listening:
            config = uvicorn.Config(app, http=server._Bounded, loop="asyncio", log_config=None)
            serving = uvicorn.Server(config)
            task = asyncio.create_task(serving.serve(sockets=[listening]))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            answers = 0
            for _ in range(12):
                writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                answers += b"200 OK" in await reader.readuntil(b"well")
                await asyncio.sleep(0.1)
            idle = await asyncio.wait_for(reader.read(), 5)
            assert idle == b""  # and let go of once it is not
            writer.close()
            serving.should_exit = True
            await task
        return answers

    assert asyncio.run(asked()) == 12
