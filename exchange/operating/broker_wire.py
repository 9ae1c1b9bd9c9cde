"""The broker's protocol, as far as it is asked a few things: by doctor, health, and whoever starts the embedded one.

redis-py takes longer to import than all of that takes. It is used where a URL says more than a place, a password and
the number of a database: TLS, Sentinels, a socket, options.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

Ask = Callable[..., Any]
"""Sends a command and gives its reply: text, a number, a list or None. Raises Refused; OSError if none comes."""

PORT = 6379


class Refused(Exception):  # noqa: N818 - an answer
    """The server's answer is an error; the text is its own words."""


class NotAllowed(Refused):
    """Its user may not do this."""


class NotLetIn(ConnectionError):  # noqa: N818 - an answer
    """It takes neither the name nor the password."""


@contextmanager
def asking(url: str, connect: Callable[[], Any], seconds: float) -> Iterator[Ask]:
    """Connect once, without trying again; ``connect`` gives redis-py's client for a URL that says more.

    Raises OSError, as NotLetIn is one, and ValueError for a URL that is none.
    """
    place = urlsplit(url)
    if place.scheme != "redis" or place.query or not place.hostname:
        with _library(connect) as ask:
            yield ask
        return
    with (
        socket.create_connection((place.hostname, place.port or PORT), seconds) as connection,
        connection.makefile("rb") as replies,
    ):

        def ask(*words: object) -> Any:
            connection.sendall(_command(words))
            return _reply(replies)

        _log_in(ask, place)
        yield ask


def _log_in(ask: Ask, place: SplitResult) -> None:
    user, password = unquote(place.username or ""), unquote(place.password or "")
    if user or password:
        try:
            ask("AUTH", *([user] if user else []), password)
        except Refused as error:
            raise NotLetIn(str(error)) from None
    number = place.path.strip("/")
    if number.isdigit() and int(number):
        ask("SELECT", number)


def _command(words: tuple[object, ...]) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"".join((b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)))


def _reply(replies: IO[bytes]) -> Any:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("it closed the connection")
    kind, said = line[:1], line[1:-2].decode(errors="replace")
    match kind:
        case b"+":
            return said
        case b"-":
            raise _refused(said)
        case b":":
            return int(said)
        case b"$":
            return None if said == "-1" else replies.read(int(said) + 2)[:-2].decode(errors="replace")
        case b"*":
            return None if said == "-1" else [_reply(replies) for _ in range(int(said))]
    raise ConnectionError("what answers there is no Redis")


def _refused(said: str) -> Exception:
    code, _, words = said.partition(" ")
    if code == "LOADING":
        return ConnectionError(words)
    if code in {"NOAUTH", "WRONGPASS"}:
        return NotLetIn(words)
    return NotAllowed(words) if code == "NOPERM" else Refused(words if code == "ERR" else said)


@contextmanager
def _library(connect: Callable[[], Any]) -> Iterator[Ask]:
    with _in_our_words():
        client = connect()
        connection = client.connection_pool.get_connection()

    def ask(*words: object) -> Any:
        with _in_our_words():
            connection.send_command(*words)
            return _text(connection.read_response())

    try:
        yield ask
    finally:
        connection.disconnect()
        client.close()


@contextmanager
def _in_our_words() -> Iterator[None]:
    import redis  # noqa: PLC0415 - only where it is needed

    try:
        yield
    except redis.AuthenticationError as error:
        raise NotLetIn(str(error)) from error
    except redis.exceptions.NoPermissionError as error:
        raise NotAllowed(str(error)) from error
    except redis.ResponseError as error:
        raise Refused(str(error)) from error
    except redis.RedisError as error:
        raise ConnectionError(str(error)) from error


def _text(reply: Any) -> Any:
    """Give a reply as ``_reply`` does, which has no maps."""
    match reply:
        case bytes():
            return reply.decode(errors="replace")
        case list():
            return [_text(one) for one in reply]
        case dict():
            return [_text(one) for pair in reply.items() for one in pair]
    return reply
