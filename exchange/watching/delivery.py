"""Sending a message to whoever is told: by our own signed webhook, or by Apprise, which knows mail, chats and pagers.

Each target is sent to in a thread of its own, for so long at most: one that hangs holds up nobody. Certificates are
verified and no redirect is followed. What is said of a failure has nothing of the target's URL in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from exchange.database import clock
from exchange.format.errors import printable
from exchange.format.moments import to_rfc3339
from exchange.settings import WEBHOOKS, NotifyTarget
from exchange.watching.messages import Message

ANSWER_SECONDS = 10.0
"""How long a receiver may take for each step of an answer."""
SEND_SECONDS = 30.0
"""And for all of it."""
MOST_ANSWER_BYTES = 4096
LONGEST_WAIT = 3600
"""So many seconds a receiver may ask us to wait, at most."""

_REDIRECT, _REFUSED = 3, 4
"""Hundreds of a status."""
_AGAIN = frozenset({408, 429})


@dataclass(eq=False)  # not frozen: context managers set its traceback
class Undelivered(Exception):  # noqa: N818 - an answer of the other end
    """A message was not taken: why, whether it never will be, and how many seconds to wait, if that was said."""

    sentence: str
    final: bool = False
    wait_seconds: int | None = None

    def __str__(self) -> str:
        """Give the sentence."""
        return self.sentence


@dataclass(frozen=True)
class Parcel:
    """A message for one target: its ``number`` stays the same however often it is sent."""

    number: str
    target: NotifyTarget
    network: str
    message: Message
    created_at: datetime


@dataclass(frozen=True)
class Answer:
    """What became of a parcel: delivered, or why not."""

    parcel: Parcel
    fault: Undelivered | None = None


def send_all(parcels: Sequence[Parcel], secret: bytes, *, seconds: float = SEND_SECONDS) -> list[Answer]:
    """Send parcels, those of one target one after the other, and give what became of each.

    Returns within ``seconds``: what is not answered by then is not delivered. Raises nothing.
    """
    answers: dict[str, Answer] = {}
    by_target: dict[str, list[Parcel]] = {}
    for parcel in parcels:
        by_target.setdefault(parcel.target.name, []).append(parcel)

    def send(some: Sequence[Parcel]) -> None:
        for parcel in some:
            answers[parcel.number] = _sent(parcel, secret)
            if answers[parcel.number].fault is not None:
                break  # in order: what is behind it waits with it

    threads = [threading.Thread(target=send, args=[some], daemon=True) for some in by_target.values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    given = []
    for some in by_target.values():
        for parcel in some:
            late = Undelivered(f"no answer within {seconds:g} s")
            given.append(answers.get(parcel.number) or Answer(parcel, late))
            if given[-1].fault is not None:
                break
    return given


def _sent(parcel: Parcel, secret: bytes) -> Answer:
    try:
        if parcel.target.scheme.lower() in WEBHOOKS:
            _send_webhook(parcel, secret)
        else:
            _send_by_apprise(parcel)
    except Undelivered as fault:
        return Answer(parcel, fault)
    except Exception as error:  # noqa: BLE001 - whatever a library of some service does, the others are told
        said = without_secrets(parcel.target.url, f"{type(error).__name__}: {error}")
        return Answer(parcel, Undelivered(said))
    return Answer(parcel)


# Our own webhook


def webhook_body(parcel: Parcel) -> bytes:
    """Give the bytes that are sent and signed: a JSON object in UTF-8."""
    message = parcel.message
    said: dict[str, Any] = {
        "format": "exchange-message/1",
        "id": parcel.number,
        "network": parcel.network,
        "created_at": to_rfc3339(parcel.created_at),
        "level": message.level,
        "title": message.title,
        "text": message.text,
        "alarms": list(message.alarms),
    }
    return json.dumps(said, ensure_ascii=False).encode()


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Sign a body at a time in seconds since 1970: HMAC-SHA256 over the time, a full stop and the body."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: what is signed for one receiver is not another's."""


def _send_webhook(parcel: Parcel, secret: bytes) -> None:
    body, timestamp = webhook_body(parcel), str(int(clock.seconds()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "exchange",
        "Exchange-Message": parcel.number,
        "Exchange-Timestamp": timestamp,
        "Exchange-Signature": signature(secret, timestamp, body),
    }
    url = parcel.target.url.partition("+")[2]
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - http or https, as the scheme says
    _ask(request, url)


def get(url: str) -> None:
    """Ask for a URL and take any answer below 300. Raises Undelivered."""
    _ask(urllib.request.Request(url, headers={"User-Agent": "exchange"}), url)  # noqa: S310 - checked in the settings


def _ask(request: urllib.request.Request, url: str) -> None:
    opener = urllib.request.build_opener(
        _NoRedirect(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            response.read(MOST_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, error.headers.get("Retry-After")) from None
    except urllib.error.URLError as error:
        raise Undelivered(without_secrets(url, _why(error.reason))) from None
    except (OSError, HTTPException, ValueError) as error:  # of a URL that can't be asked for, or no HTTP
        raise Undelivered(without_secrets(url, _why(error))) from None


def _refused(status: int, retry_after: str | None) -> Undelivered:
    if status // 100 == _REDIRECT:
        return Undelivered(f"it answered {status}, a redirect, which is not followed: correct the URL", final=True)
    if status // 100 == _REFUSED and status not in _AGAIN:
        return Undelivered(f"it answered {status}: it does not take this message, which is not sent again", final=True)
    wait = int(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,9}", retry_after) else None
    return Undelivered(f"it answered {status}", wait_seconds=None if wait is None else min(wait, LONGEST_WAIT))


def _why(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return f"{type(reason).__name__}: {reason}"


# Apprise


MISSING = "Apprise is not installed; pip install 'exchange[notify]'"


def unusable(target: NotifyTarget) -> str | None:
    """Say in a sentence why a target can't be used; None if it can, as far as that can be seen here."""
    if target.scheme.lower() in WEBHOOKS:
        return None
    try:
        _of_apprise(target)
    except Undelivered as fault:
        return fault.sentence
    return None


def _of_apprise(target: NotifyTarget) -> Any:
    try:
        import apprise  # noqa: PLC0415 - an extra, which takes half a second
    except ImportError:
        raise Undelivered(MISSING) from None
    # Its debug lines, and those of what it uses, have tokens in them.
    for name in ("urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apprise").propagate = False
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    asset = apprise.AppriseAsset(app_id="exchange", app_desc="exchange", http_redirects=False, async_mode=False)
    try:
        made = apprise.Apprise.instantiate(target.url, asset=asset)
    except Exception as error:  # noqa: BLE001 - whatever it is about this URL
        raise Undelivered(without_secrets(target.url, f"{type(error).__name__}: {error}")) from None
    if made is None:
        raise Undelivered(
            f"Apprise knows no {printable(target.scheme, 40)}:// URL of this form; see"
            f" https://github.com/caronc/apprise for what {target.name} needs",
        )
    return made


class _Heard(logging.Handler):
    """What Apprise says while this thread sends."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of ours, if it says what went wrong."""
        text = record.getMessage()
        if record.thread == self._thread and (record.levelno >= logging.WARNING or "Exception" in text):
            self.lines.append(text)


def _send_by_apprise(parcel: Parcel) -> None:
    service = _of_apprise(parcel.target)
    message, heard = parcel.message, _Heard()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    kinds = {"fault": "failure", "warning": "warning", "ok": "success"}
    # A service that shows pages says so: mail first of all.
    as_html = bool(message.html) and "html" in str(getattr(service, "notify_format", "text")).lower()
    try:
        taken = service.notify(
            title=message.title,
            body=message.html if as_html else message.text,
            body_format="html" if as_html else "text",
            notify_type=kinds[message.level],
        )
    finally:
        logger.removeHandler(heard)
    if not taken:
        said = "; ".join(heard.lines) or "it was not taken, and no reason was given"
        raise Undelivered(without_secrets(parcel.target.url, said))


def without_secrets(url: str, text: str) -> str:
    """Give a text without anything that stands in a URL but its scheme, for logs, pages and the database."""
    parts = urlsplit(url.partition("+")[2] if url.partition("://")[0].lower() in WEBHOOKS else url)
    words = {url, *re.split(r"[/?&=:@,;#]+", f"{parts.netloc}/{parts.path}?{parts.query}#{parts.fragment}")}
    words |= {unquote(word) for word in words} | {quote(word, safe="") for word in words}
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= _SHORTEST:
            text = text.replace(word, "...")
    return printable(text, 500)


_SHORTEST = 4
"""Shorter parts of a URL are words like any other."""

Sender = Callable[[Sequence[Parcel], bytes], list[Answer]]
