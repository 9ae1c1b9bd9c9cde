"""Brokers as others run them: behind TLS with an authority of their own, with users of few rights, behind Sentinels.

Each is real but for the TLS, which ends in a tunnel of the test's before a real server: the wheel's has none.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exchange.celery import SigningAMQP, configuration
from exchange.operating import broker, probes
from exchange.settings import Settings
from exchange.testing import servers
from tests.celery.conftest import until

pytestmark = [pytest.mark.valkey, pytest.mark.filterwarnings("ignore:Call to deprecated setex")]  # which Celery calls

RIGHTS = (
    "~exchange-response* ~*.reply.exchange-response.pidbox* ~_kombu.binding* ~unacked* ~celery-task-meta-* &*"
    " +@read +@write +@connection +@pubsub +@transaction +@scripting -@dangerous +info +time"
)
"""As deploy/README.md lists them, for the network `response` in database 0."""


def settings(url: str, home: Path) -> Settings:
    return Settings(network="response", peer="request", home=home, broker_url=url)


def works(url: str, home: Path) -> None:
    """See that what Celery does with a broker works over this URL: a task sent, found, and its result kept."""
    made = settings(url, home)
    assert made.broker_url is not None
    assert probes.connection_refused(made.broker_url) is None
    assert [
        str(one) for one in broker.problems(made.broker_url, "response", home) if "append-only" not in str(one)
    ] == []

    class Client(Celery):  # type: ignore[misc]
        amqp_cls = SigningAMQP

        def caller(self) -> None:
            return None

    client = Client("client", set_as_current=False)
    client.conf.update(configuration(made, made.broker_url))
    client.send_task("exchange.import", kwargs={"spread": True}, ignore_result=True)
    with broker.connect(made.broker_url) as server:
        assert server.llen("exchange-response") == 1
    client.backend.store_result("one", {"message": "done"}, "SUCCESS")
    assert client.backend.get_result("one") == {"message": "done"}
    with client.connection_for_read() as connection, connection.SimpleQueue("exchange-response") as queue:
        message = queue.get(timeout=10)
        assert message.headers["task"] == "exchange.import"
        message.ack()
    client.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a certificate that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return folder


@pytest.fixture
def tunnel(authority: Path, valkey_url: str) -> Iterator[int]:
    """Give the port of a TLS tunnel to the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "ca.pem", authority / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    there = urlsplit(valkey_url)

    def serve(plain: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            inner = stack.enter_context(context.wrap_socket(plain, server_side=True))
            outer = stack.enter_context(socket.create_connection((str(there.hostname), there.port or 0)))
            ends: dict[Any, Any] = {inner: outer, outer: inner}
            while True:
                for end in [inner] if inner.pending() else select.select([*ends], [], [])[0]:
                    some = end.recv(65536)
                    if not some:
                        return
                    ends[end].sendall(some)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_tls_with_an_authority_of_ones_own_works_and_without_it_is_refused(
    tunnel: int, authority: Path, tmp_path: Path
) -> None:
    works(f"rediss://127.0.0.1:{tunnel}/0?ssl_ca_certs={authority / 'ca.pem'}", tmp_path)
    works(f"rediss://127.0.0.1:{tunnel}/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={authority / 'ca.pem'}", tmp_path)
    unknown = f"rediss://127.0.0.1:{tunnel}/0"
    assert "CERTIFICATE_VERIFY_FAILED" in str(probes.connection_refused(unknown))
    with pytest.raises(broker.BrokerFault, match="CERTIFICATE_VERIFY_FAILED"):
        broker.durability_problems(unknown)


def test_a_user_of_few_rights_works_and_what_it_lacks_is_named(valkey_url: str, tmp_path: Path) -> None:
    there = urlsplit(valkey_url)
    few = f"redis://few:word@{there.hostname}:{there.port}/0"
    with redis.Redis.from_url(valkey_url) as server:
        try:
            server.execute_command("ACL", "SETUSER", "few", "on", ">word", *RIGHTS.split())
            works(few, tmp_path)
            server.execute_command("ACL", "SETUSER", "few", "resetkeys", "~exchange-response*")
            [_, problem] = broker.problems(few, "response", tmp_path)
            assert problem.message.startswith("the broker's user may not HSET unacked: ")
            server.execute_command("ACL", "DELUSER", "few")
            server.config_set("min-replicas-to-write", 1)
            assert "the broker takes nothing: NOREPLICAS" in str(broker.writes_refused(valkey_url, "response"))
        finally:
            server.config_set("min-replicas-to-write", 0)
            server.execute_command("ACL", "DELUSER", "few")
            server.flushall()


def test_sentinels_name_the_server(valkey_url: str, tmp_path: Path) -> None:
    there = urlsplit(valkey_url)
    ports = [servers.free_port() for _ in range(2)]
    watched = f"sentinel monitor ours {there.hostname} {there.port} 1\n"
    with ExitStack() as stack:
        for port in ports:
            file = tmp_path / f"{port}.conf"
            file.write_text(f"bind 127.0.0.1\nport {port}\ndir {tmp_path}\nlogfile {tmp_path}/{port}.log\n{watched}")
            command = [str(broker.find_server()), str(file), "--sentinel"]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
        url = ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports) + "?master_name=ours"

        def named() -> bool:
            with suppress(redis.RedisError), broker.connect(url) as client:
                return bool(client.ping())
            return False

        until(named, 20)
        works(url, tmp_path)
    with pytest.raises(ValueError, match=r"expected a URL such as sentinel://"):
        settings("sentinel://127.0.0.1:1/0", tmp_path)
    with pytest.raises(ValueError, match="expected false behind Sentinels"):
        Settings(network="a", peer="b", home=tmp_path, broker_url=url, redbeat=True)
