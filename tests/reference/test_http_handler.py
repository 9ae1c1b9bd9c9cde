from __future__ import annotations

import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exchange.database.engine import now
from exchange.reference.handlers import Later, Question, Refused, Sources, load_handlers
from exchange.reference.http_handler import look_at_service

FILE = """
seconds = 0.5
bytes = 2000
request_bytes = 300
tries = 3
[headers]
X-Asked-By = "exchange"
[[allow]]
method = "POST"
path = "/{index}/_search"
among.index = ["readings-*", "presses"]
[[allow]]
method = "GET"
path = "/status/{part}"
parameters = ["level", "size"]
"""


class Service(ThreadingHTTPServer):
    """A real server of this process that writes down what it is asked, and answers what a test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[_Answering], None] = lambda one: one.give(200, {"hits": [1, 2.5]})
        self.going = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answering(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        said = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append((self.command, self.path, dict(self.headers), said))
        self.server.answer(self)

    do_POST = do_GET  # noqa: N815 - the server's own name for it

    def give(self, status: int, body: Any, kind: str = "application/json", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(server: Service) -> Iterator[Service]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.going.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service()) as server:
        yield server


@pytest.fixture
def sources(service: Service, tmp_path: Path) -> Sources:
    file = tmp_path / "paths.toml"
    file.write_text(FILE)
    return Sources(paths=file, service_url=service.url, credentials="ApiKey s3cret")


def ask(sources: Sources, asked: str, /, **parameters: Any) -> Any:
    question = Question(uuid.uuid4(), "ada", "http", asked, parameters, 5, now())
    return load_handlers("http", sources).pick("http").handle(question)


def test_a_search_is_passed_on_with_the_headers_of_the_file_alone(service: Service, sources: Sources) -> None:
    found = ask(sources, "POST /readings-2026/_search", query={"match_all": {}}, size=10)
    assert found == {"status": 200, "body": {"hits": [1, 2.5]}}
    ((method, path, headers, body),) = service.asked
    assert (method, path, json.loads(body)) == (
        "POST",
        "/readings-2026/_search",
        {"query": {"match_all": {}}, "size": 10},
    )
    assert headers["Authorization"] == "ApiKey s3cret"
    assert headers["X-Asked-By"] == "exchange"
    assert headers["Host"] == f"127.0.0.1:{service.server_port}"
    assert set(headers) <= {
        *("Host", "Accept", "Accept-Encoding", "User-Agent", "Authorization", "X-Asked-By", "Content-Type"),
        "Content-Length",
    }
    ask(replace(sources, service_url=f"{service.url}/below/"), "GET /status/disk", level="a b&c=d", size=5)
    assert service.asked[-1][1] == "/below/status/disk?level=a+b%26c%3Dd&size=5"


@pytest.mark.parametrize(
    "query",
    [
        "DELETE /readings-2026/_search",
        "POST /readings-2026/_delete_by_query",
        "POST /secrets/_search",
        "POST /.security/_search",
        "POST /_all/_search",
        "POST /readings-*/_search",
        "POST /readings-2026,secrets/_search",
        "POST /readings-2026/../_search",
        "POST /readings-2026/%2e%2e/_search",
        "POST /readings-2026%2f_search",
        "POST //evil.example/_search",
        "POST /readings-2026//_search",
        "POST http://evil.example/readings-2026/_search",
        "POST /readings-2026/_search?q=1",
        "POST /readings-2026/_search#x",
        "POST @evil.example/presses/_search",
        "POST /presses/_search HTTP/1.1\r\nX: y",
        "POST /presses/_search\r\n",
        "POST /presses\\_search",
        "POST presses/_search",
        "POST  /presses/_search",
        "GET /status/..",
        "GET /status/_all",
        "GET /status/.security",
        "GET /status/a,b",
        "GET /status/",
        "post /presses/_search",
        "/presses/_search",
        "",
    ],
)
def test_what_the_file_does_not_allow_is_never_asked(service: Service, sources: Sources, query: str) -> None:
    with pytest.raises(Refused, match=r"may not be asked of the service, only POST /.index./_search, GET /status"):
        ask(sources, query)
    assert service.asked == []


def test_parameters_beyond_the_list_and_large_requests_are_refused(service: Service, sources: Sources) -> None:
    with pytest.raises(Refused, match="takes no parameter 'pretty'; its parameters are level, size"):
        ask(sources, "GET /status/disk", pretty=True)
    with pytest.raises(Refused, match="the parameter level: expected a text, a number or a boolean, found a list"):
        ask(sources, "GET /status/disk", level=["a"])
    with pytest.raises(Refused, match="at most 300 are sent"):
        ask(sources, "POST /presses/_search", query="x" * 400)
    assert service.asked == []


@pytest.mark.parametrize(
    "answer, sentence",
    [
        (lambda one: one.give(404, {"error": "no such index"}), 'the service answered 404: {"error": "no such index"}'),
        (lambda one: one.give(400, b"\x1b[2J"), "the service answered 400: \\x1b[2J"),
        (lambda one: one.give(302, b"", Location="http://evil.example/"), "302, which leads elsewhere"),
        (lambda one: one.give(200, b"<html>", "text/html"), "answered with text/html, JSON is expected"),
        (lambda one: one.give(200, b'{"a": 1, "a": 2}'), "the service's answer can't cross"),
        (lambda one: one.give(200, b'{"a": NaN}'), "the service's answer can't cross"),
        (lambda one: one.give(200, b'"' + b"x" * 3000 + b'"'), "with more than 2000 bytes; ask for less"),
        (lambda one: one.give(200, b"x", Content_Encoding="gzip"), "compressed bytes"),
    ],
)
def test_what_the_service_refuses_or_can_not_cross_is_a_failed_answer(
    service: Service, sources: Sources, answer: Callable[[_Answering], None], sentence: str
) -> None:
    service.answer = answer
    with pytest.raises(Refused) as refused:
        ask(sources, "GET /status/disk")
    assert sentence in str(refused.value)
    assert len(service.asked) == 1  # no redirect was followed


def _hang(one: _Answering) -> None:
    one.server.going.wait()


def _drip(one: _Answering) -> None:
    one.send_response(200)
    one.end_headers()
    while not one.server.going.wait(0.1):
        one.wfile.write(b" ")
        one.wfile.flush()


def _hang_up(one: _Answering) -> None:
    one.connection.close()


@pytest.mark.parametrize(
    "answer, sentence",
    [
        (lambda one: one.give(503, b"busy"), "its service answered 503"),
        (lambda one: one.give(429, b"", Retry_After="9"), "its service answered 429"),
        (_hang, "it does not answer in time"),
        pytest.param(_drip, "it does not answer in time", marks=pytest.mark.thorough),
        (_hang_up, "it ended the connection"),
    ],
)
def test_a_service_that_is_away_is_asked_again(
    service: Service, sources: Sources, answer: Callable[[_Answering], None], sentence: str
) -> None:
    service.answer = answer
    with pytest.raises(Later, match=sentence) as later:
        ask(sources, "GET /status/disk")
    assert later.value.tries == 3


def test_nobody_at_the_address_is_a_sentence_without_the_secret(sources: Sources) -> None:
    away = replace(sources, service_url="http://127.0.0.1:1")
    for look in (lambda: ask(away, "GET /status/disk"), lambda: look_at_service(away)):
        with pytest.raises(Later, match="its service can't be asked: nothing answers there") as later:
            look()
        assert "s3cret" not in str(later.value)


def test_doctor_sees_that_the_service_answers_and_takes_the_credentials(service: Service, sources: Sources) -> None:
    assert look_at_service(sources) == f"2 paths of {service.url}"
    service.answer = lambda one: one.give(401, b"")
    with pytest.raises(ValueError, match="does not take what EXCHANGE_HANDLER_HTTP_CREDENTIALS_FILE has"):
        look_at_service(sources)
    service.answer = lambda one: one.give(502, b"")
    with pytest.raises(Later, match="its service answered 502"):
        look_at_service(sources)


def test_a_certificate_counts_only_if_the_named_authority_made_it(sources: Sources, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now() - timedelta(days=1), now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, authority = tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    own = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(key.private_bytes(*own) + authority.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Service()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server):
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(Later, match="its certificate is not good"):
            ask(replace(sources, service_url=url), "GET /status/disk")
        assert server.asked == []
        assert ask(replace(sources, service_url=url, ca_file=authority), "GET /status/disk")["status"] == 200
        elsewhere = replace(sources, service_url=url.replace("localhost", "127.0.0.1"), ca_file=authority)
        with pytest.raises(Later, match="its certificate is not good"):
            ask(elsewhere, "GET /status/disk")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "expected a table [[allow]] for each path"),
        ('[[allow]]\nmethod = "DELETE"\npath = "/a"', "method: expected one of GET, POST, found 'DELETE'"),
        ('[[allow]]\nmethod = "GET"\npath = "/a/../b"', "path: expected a plain one"),
        ('[[allow]]\nmethod = "GET"\npath = "http://x/"', "path: expected a plain one"),
        ('[[allow]]\nmethod = "GET"\npath = "/a?b=c"', "path: expected a plain one"),
        ('[[allow]]\nmethod = "GET"\npath = "/{a}"\namong.b = ["x"]', "among: 'b' is no part of /{a}"),
        ('[[allow]]\nmethod = "GET"\npath = "/{a}"\namong.a = ["../x"]', "among.a: expected a list of names"),
        ('[[allow]]\nmethod = "POST"\npath = "/a"\nparameters = ["x"]', "only a GET has a list of them"),
        (
            '[[allow]]\nmethod = "GET"\npath = "/a"\n[headers]\nHost = "x"',
            "headers: 'Host' is none that a file may give",
        ),
        ('[[allow]]\nmethod = "GET"\npath = "/a"\n[headers]\nX-A = "a\\nb"', "headers.X-A: expected a text"),
        ('tries = 0\n[[allow]]\nmethod = "GET"\npath = "/a"', "tries: expected a whole number from 1 to 100"),
    ],
)
def test_a_file_of_paths_that_makes_no_sense_is_one_sentence(sources: Sources, text: str, sentence: str) -> None:
    assert sources.paths is not None
    sources.paths.write_text(text)
    with pytest.raises(ValueError) as fault:
        load_handlers("http", sources)
    assert sentence in str(fault.value)


def test_what_is_not_set_is_named(sources: Sources) -> None:
    with pytest.raises(ValueError, match="needs EXCHANGE_HANDLER_HTTP_URL, the address of its service"):
        load_handlers("http", replace(sources, service_url=None))
    with pytest.raises(ValueError, match="needs EXCHANGE_HANDLER_HTTP_PATHS, the file of its paths"):
        load_handlers("http", replace(sources, paths=None))
