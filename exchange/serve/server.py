"""``exchange serve``: the application on a socket, from its start to its end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from http import HTTPStatus
from typing import Any

import structlog
import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from exchange.files import pid_lock
from exchange.operating import last_runs, logs
from exchange.operating.reloading import Reloader, say_reloaded
from exchange.operating.service_manager import manager
from exchange.serve.app import make_app
from exchange.serve.door.waiting import Waiting
from exchange.serve.feed import Feed
from exchange.serve.guard import MOST_HEADER_BYTES, is_loopback
from exchange.serve.json_api.problems import problem
from exchange.serve.side import STOP_SECONDS
from exchange.settings import Settings, SettingsFaults, variable_name

REQUEST_SECONDS = 10.0
"""So long a connection may take for what it asks."""
SWITCH_SECONDS = 0.001
"""So long a thread keeps others from running: who holds a lock of the database is not to wait for who writes JSON."""
MOST_AT_ONCE = 400
"""So many connections are served at once, half of them for those who wait; others are told to come again."""


_RELOADED = {"log_level", "log_format"}
_GIVEN = {"serve_host", "serve_port"}
"""What the command line may have said."""


_TOO_SLOW = problem(408, f"the headers: expected all of them within {REQUEST_SECONDS:g} seconds; nothing was done")
_NOT_HTTP = problem(400, "expected a request of HTTP/1.1 with headers of a fit size; nothing was done")


def _as_bytes(response: Response) -> bytes:
    """Give an answer as it goes over the line, to whoever has asked nothing that could be read."""
    lines = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}", "connection: close"]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in response.raw_headers]
    return "\r\n".join([*lines, "", ""]).encode() + bytes(response.body)


class _Bounded(H11Protocol):
    """A connection that is let go of if it asks nothing for too long."""

    _checks: asyncio.TimerHandle | None = None
    _was_idle = False
    _latest: object = None
    """What was asked last when it was looked the last time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._checks is not None:
            self._checks.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - it says what it is in our words
        self.transport.write(_as_bytes(_NOT_HTTP))
        self.transport.close()

    def _watch(self) -> None:
        idle = getattr(self.cycle, "response_complete", True)
        if idle and self._was_idle and self.cycle is self._latest and not self.transport.is_closing():
            if self.conn.trailing_data[0]:
                self.transport.write(_as_bytes(_TOO_SLOW))
            self.transport.close()
            return
        self._was_idle, self._latest = idle, self.cycle
        self._checks = self.loop.call_later(REQUEST_SECONDS, self._watch)


def _listen(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """Listen there. Raises OSError, which says what to do about a port that is taken."""
    try:
        made = socket.create_server((host, port), family=family, backlog=MOST_AT_ONCE)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        said = "another process listens there; end it, or name another port (`--port`, EXCHANGE_SERVE_PORT)"
        raise OSError(error.errno, said, f"{host}:{port}") from None
    # asyncio does so for sockets that it made. Headers and body go in two parts, and a client that is kept alive says
    # only after 40 ms that it has the first one.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def run_server(settings: Settings) -> None:
    """Serve a side until SIGTERM or Ctrl-C, with logs on stderr. Call it in the main thread.

    Raises SettingsFaults if it would be open to others without a token, and OSError if it can't listen there.
    """
    host, token = settings.serve_host, settings.serve_token
    if token is None and not is_loopback(host):
        msg = (
            f"{variable_name('serve_token_file')} is not set: expected a file with a token, as other machines reach"
            f" {host}; write one (`openssl rand -hex 32`), or leave {variable_name('serve_host')} at 127.0.0.1"
        )
        raise SettingsFaults([msg])
    _check_certificate(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    manager()
    logs.configure("serve", settings.log_level, settings.log_format, secrets=settings.passwords)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = _listen(host, settings.serve_port, family)
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    structlog.get_logger("exchange").info(
        "listening",
        at=f"{'https' if settings.serve_certificate_file else 'http'}://{shown}:{listening.getsockname()[1]}",
        token="needed" if token else "none, as no other machine reaches it",
    )
    there = _take_place(settings)
    app = make_app(settings, token=token)
    config = uvicorn.Config(
        app,
        http=_Bounded,
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_AT_ONCE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(STOP_SECONDS),
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        ssl_certfile=settings.serve_certificate_file,
        ssl_keyfile=settings.serve_key_file,
    )
    with suppress(OSError):
        for sentence in last_runs.begin(settings, "serve"):
            structlog.get_logger("exchange").warning("restarted", message=sentence)
    with there:
        address = (host, listening.getsockname()[1])
        _Server(config, settings, address, app.state.side.feed, app.state.door.waiting).run(sockets=[listening])


def _check_certificate(settings: Settings) -> None:
    """See that https can be spoken, where a certificate is set. Raises SettingsFaults."""
    if settings.serve_certificate_file is None:
        return
    names = f"{variable_name('serve_certificate_file')}, {variable_name('serve_key_file')}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.serve_certificate_file, settings.serve_key_file, password=_no_password
        )
    except (OSError, ValueError) as error:  # SSLError is an OSError
        said = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise SettingsFaults([f"{names}: expected a certificate and its private key in PEM, but {said}"]) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is asked for its password")


def _take_place(settings: Settings) -> AbstractContextManager[object]:
    """Hold this home's place of those who serve until what is given ends, and say it if there are more of them.

    While somebody has it alone, as `exchange restore` does, it waits. A folder that can't be written keeps nobody from
    being told so.
    """
    log = structlog.get_logger("exchange")
    try:
        if pid_lock.held(settings.serve_lock):
            log.warning("waiting", message=f"somebody restores this side: served once {settings.serve_lock} is free")
        elif pid_lock.held(settings.serve_lock, by_others=True):
            log.warning("not alone", message="another one serves this home, too: both answer, and one tells people")
        return pid_lock.hold_with_others(settings.serve_lock)
    except OSError as error:
        said = f"{settings.serve_lock}: {error.strerror}; a restore would not notice that this runs"
        log.warning("unnoticed", message=said)
        return nullcontext()


def _blind() -> ssl.SSLContext:
    """Give what we ask ourselves by: the certificate has the name that others know."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


class _Server(uvicorn.Server):
    """A server that tells whoever started it that it is ready and answers, and reads the log's settings anew."""

    def __init__(
        self, config: uvicorn.Config, settings: Settings, address: tuple[str, int], feed: Feed, waiting: Waiting
    ) -> None:
        super().__init__(config)
        self._feed, self._waiting = feed, waiting
        self._address = ("127.0.0.1" if address[0] in {"0.0.0.0", "::"} else address[0], address[1])  # noqa: S104
        self._tls = _blind() if settings.serve_certificate_file else None
        self._asking: asyncio.Task[None] | None = None
        self._reloader = Reloader(settings, say_reloaded, fixed=Settings.model_fields.keys() - _RELOADED, given=_GIVEN)
        if not sys.stdin.isatty():  # whose end is to end us
            self._reloader.listen()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and ask itself from then on."""
        await super().startup(sockets)
        if manager().patience_seconds:
            self._asking = asyncio.create_task(self._ask_itself())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; uvicorn then dies of the signal that it was asked by, and nothing runs any more."""
        await self._feed.stop()
        await self._waiting.stop()
        await super().shutdown(sockets)
        last_runs.end()

    async def on_tick(self, counter: int) -> bool:
        """Take new settings where somebody asked for that."""
        self._reloader.reload_if_asked()
        return await super().on_tick(counter)

    async def _ask_itself(self) -> None:
        """Say that it works each time that it has answered as it answers others."""
        while True:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(manager().patience_seconds / 2):
                    reader, writer = await asyncio.open_connection(*self._address, ssl=self._tls)
                    writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if (await reader.read(5)) == b"HTTP/":
                        manager().works()
                    writer.close()
            await asyncio.sleep(manager().every_seconds)
