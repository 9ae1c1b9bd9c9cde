"""The handler ``http``: asks a local service for what its file allows, as JSON, and gives what it answers.

Where it asks is the settings' own address and nothing else: no redirect is followed, no proxy asked, no name of a host
taken from a request. What the service refuses is a failed answer; where it is away, the request is tried again.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from exchange.format import strict_json
from exchange.format.errors import RecordError, printable
from exchange.reference.handlers import Handler, Later, Question, Refused, Sources, TimeIsUp
from exchange.reference.path_file import Allowed, Service, read_service

CONNECT_SECONDS = 3.0
_OF_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
LOOK_SECONDS = 1.5
READ_BYTES = 65_536
_MISSING = "the handler http needs urllib3; pip install 'exchange[http]'"
_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""What says by itself that it is to be asked again."""


def load_http(sources: Sources) -> Handler:
    """Make the handler. Raises ValueError with one sentence."""
    if sources.service_url is None or sources.paths is None:
        missing = "URL, the address of its service" if sources.service_url is None else "PATHS, the file of its paths"
        raise ValueError(f"the handler http needs EXCHANGE_HANDLER_HTTP_{missing}")
    if importlib.util.find_spec("urllib3") is None:
        raise ValueError(_MISSING)
    service = read_service(sources.paths, sources.seconds)
    pool = make_pool(sources, service.seconds)
    prefix = urlsplit(sources.service_url).path.rstrip("/")

    def http(question: Question) -> dict[str, Any]:
        """Ask for what the file allows. Raises Refused and Later."""
        allowed, path = service.find(question.query)
        address, body = _said(service, allowed, prefix + path, question.parameters)
        try:
            return _asked(pool, service, allowed.method, address, body, headers_of(sources, service))
        except TimeIsUp:
            raise Later("its service gave no answer in time", service.tries) from None

    return http


def make_pool(sources: Sources, seconds: float) -> Any:
    """Make what asks the one service, and nothing is asked by it yet."""
    import urllib3  # noqa: PLC0415 - of the extra `http`

    url = urlsplit(str(sources.service_url))
    terms: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds),
        "retries": False,
        "maxsize": 1,
    }
    if url.scheme == "https":
        verify: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED"}
        verify |= {"ca_certs": str(sources.ca_file)} if sources.ca_file else {}
        return urllib3.HTTPSConnectionPool(str(url.hostname), url.port or 443, **terms, **verify)
    return urllib3.HTTPConnectionPool(str(url.hostname), url.port or 80, **terms)


def look_at_service(sources: Sources) -> str:
    """Ask the service for its own address, and say what may be asked of it. Raises Later and ValueError."""
    import urllib3  # noqa: PLC0415 - of the extra `http`

    assert sources.paths is not None
    service = read_service(sources.paths, sources.seconds)
    url = urlsplit(str(sources.service_url))
    try:
        answer = make_pool(sources, LOOK_SECONDS).urlopen(
            "GET", url.path or "/", headers=headers_of(sources, service), redirect=False, preload_content=False
        )
        answer.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Later(f"its service can't be asked: {_worded(error)}") from error
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Later(f"its service answered {answer.status}")
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise ValueError("its service does not take what EXCHANGE_HANDLER_HTTP_CREDENTIALS_FILE has")
    number = "1 path" if len(service.paths) == 1 else f"{len(service.paths)} paths"
    clear = url.scheme == "http" and sources.credentials and url.hostname not in _OF_THIS_MACHINE
    said = "; its credentials go there in the clear: have it speak https" if clear else ""
    return f"{number} of {url.scheme}://{url.netloc}{url.path}{said}"


def headers_of(sources: Sources, service: Service | None) -> dict[str, str]:
    """Give all headers that are sent; a request says none of them."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "exchange"}
    if sources.credentials:
        headers["Authorization"] = sources.credentials
    return {**(service.headers if service else {}), **headers}


def _said(service: Service, allowed: Allowed, path: str, parameters: Mapping[str, Any]) -> tuple[str, bytes | None]:
    """Give what is asked for and what is said with it. Raises Refused."""
    if allowed.method == "POST":
        body = orjson.dumps(dict(parameters))
        if len(body) > service.request_bytes:
            raise Refused(f"the request has {len(body)} bytes, at most {service.request_bytes} are sent to the service")
        return path, body
    if stray := sorted(parameters.keys() - allowed.parameters):
        known = ", ".join(sorted(allowed.parameters)) or "none"
        raise Refused(f"{allowed} takes no parameter {printable(repr(stray[0]), 80)}; its parameters are {known}")
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):
            raise Refused(
                f"the parameter {name}: expected a text, a number or a boolean, found a {type(value).__name__}"
            )
    written = urlencode({name: _word(value) for name, value in sorted(parameters.items())})
    if len(written) > service.request_bytes:
        raise Refused(f"the parameters have {len(written)} bytes, at most {service.request_bytes} are sent")
    return f"{path}?{written}" if written else path, None


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _asked(
    pool: Any, service: Service, method: str, address: str, body: bytes | None, headers: dict[str, str]
) -> dict[str, Any]:
    """Ask, and give what is answered. Raises Refused and Later."""
    import urllib3  # noqa: PLC0415 - of the extra `http`

    if body is not None:
        headers = headers | {"Content-Type": "application/json"}
    until = time.monotonic() + service.seconds
    try:
        answer = pool.urlopen(
            method, address, body=body, headers=headers, redirect=False, preload_content=False, decode_content=False
        )
        try:
            content = _read(answer, service.bytes, until)
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Later(f"its service can't be asked: {_worded(error)}", service.tries) from error
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status in _AGAIN:
        raise Later(f"its service answered {answer.status}", service.tries, away=False)
    if answer.status >= HTTPStatus.BAD_REQUEST:
        said = printable((content or b"").decode(errors="replace"), 300)
        raise Refused(
            f"the service answered {answer.status}: {said}" if said else f"the service answered {answer.status}"
        )
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES or answer.status < HTTPStatus.OK:
        raise Refused(f"the service answered {answer.status}, which leads elsewhere; it is not followed")
    if content is None:
        raise Refused(f"the service answered with more than {service.bytes} bytes; ask for less")
    return {"status": answer.status, "body": _json(answer.headers, content)}


def _read(answer: Any, most: int, until: float) -> bytes | None:
    """Read an answer; None if it has more than ``most`` bytes."""
    content = bytearray()
    while chunk := answer.read1(READ_BYTES):
        content += chunk
        if len(content) > most:
            return None
        if time.monotonic() > until:
            raise TimeoutError("its answer took too long")
    return bytes(content)


def _json(headers: Mapping[str, str], content: bytes) -> Any:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise Refused(f"the service answered with {printable(kind, 80) or 'no type'}, JSON is expected")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused("the service answered with compressed bytes, which nobody asked for")
    try:
        return strict_json.loads(content.strip(b" \t\r\n"))
    except RecordError as error:
        raise Refused(f"the service's answer can't cross: {error.sentence}") from error


def _worded(error: BaseException) -> str:
    """Say what kept somebody from asking, without what an address may hold."""
    reason = getattr(error, "reason", None) or error
    found = type(reason).__name__ if not isinstance(reason, str) else reason
    said: dict[str, Callable[[], str]] = {
        "NewConnectionError": lambda: "nothing answers there",
        "NameResolutionError": lambda: "its name is not known",
        "ConnectTimeoutError": lambda: "it does not answer in time",
        "ReadTimeoutError": lambda: "it does not answer in time",
        "TimeoutError": lambda: "it does not answer in time",
        "SSLError": lambda: f"its certificate is not good ({printable(str(reason), 200)})",
        "ProtocolError": lambda: "it ended the connection",
    }
    return said.get(found, lambda: found)()
