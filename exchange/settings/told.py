"""Those who are told: by which URL, and what of it no log may show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from exchange.settings.faults import SECRET
from exchange.settings.files import lines

_TARGET = re.compile(r"((?P<name>[a-z][a-z0-9_-]{0,30})=)?(?P<url>(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,31})://\S+)")

WEBHOOKS = ("exchange+https", "exchange+http")
"""Schemes of our own signed webhook."""


@dataclass(frozen=True)
class NotifyTarget:
    """Somebody who is told: by ``name`` everywhere, as ``url`` holds secrets."""

    name: str
    url: str = dataclasses.field(repr=False)

    @property
    def scheme(self) -> str:
        """How they are told."""
        return self.url.partition("://")[0]


def targets(words: list[str]) -> tuple[NotifyTarget, ...]:
    """Read who is told. Raises ValueError, without a word of any URL."""
    found: dict[str, NotifyTarget] = {}
    for number, word in enumerate(words, 1):
        match = _TARGET.fullmatch(word)
        if match is None:
            raise ValueError(f"expected a URL such as mailtos://user:password@host as number {number}, found {SECRET}")
        name = match["name"] or f"{match['scheme'].lower().rpartition('+')[2]}-{number}"
        if name in found:
            raise ValueError(f"expected another name for number {number}, found {name} twice")
        if re.search(r"[?&]verify=(no|false|0)", word, re.IGNORECASE):
            raise ValueError(
                f"expected a certificate that is verified, found {name} with verify=no; REQUESTS_CA_BUNDLE names a file"
                " with the authority of your own"
            )
        found[name] = NotifyTarget(name, match["url"])
    return tuple(found.values())


def all_targets(text: str | None, file: Path | None) -> list[str]:
    """Give the words that name who is told, of a setting and of a file. Raises ValueError."""
    return [*(text or "").split(), *(lines(file) if file else ())]


def secrets_of(url: str) -> Iterator[str]:
    """Give what a URL of somebody who is told has to hide: passwords, and all else that is no word, nor a server."""
    scheme, _, rest = url.partition("://")
    server, _, path = rest.partition("/")
    user, _, host = server.rpartition("@")
    password = user.partition(":")[2]
    places = () if scheme in {"http", "https", *WEBHOOKS} or "." in host else (host,)  # else it may be a token
    words = re.split(r"[/?&=:@,;#]+", "/".join([user, *places, path]))
    found = {password, *(one for one in (path, path.partition("?")[0], *words) if _LIKE_A_TOKEN.search(one))}
    yield from sorted({form for one in found for form in (one, unquote(one), quote(one, safe=""))} - {""})


_LIKE_A_TOKEN = re.compile(r"(?=.{8})([0-9A-Z%_]|.{16})", re.DOTALL)
"""Words such as those of our own lines are none: what has figures or capitals is, and what is long."""
