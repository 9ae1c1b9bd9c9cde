"""Every page that links lead to, a few of each kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from html import unescape
from urllib.parse import urlsplit

MOST_OF_A_KIND = 3
_LINK = re.compile(r'<a\b[^>]*\bhref="([^"]+)"')


def crawl(look: Callable[[str], str], *begin: str, most_of_a_kind: int = MOST_OF_A_KIND) -> Iterator[tuple[str, str]]:
    """Give addresses and bodies; ``look`` gives the body of a page. Leaves out what is a download or leads out."""
    waiting, seen, kinds = list(begin), set(begin), Counter[str]()
    while waiting:
        address = waiting.pop(0)
        kind = re.sub(r"[0-9a-f]*\d[^/]*", "N", urlsplit(address).path) + str(sorted(_names(address)))
        kinds[kind] += 1
        if kinds[kind] > most_of_a_kind:
            continue
        body = look(address)
        yield address, body
        for link in map(unescape, _LINK.findall(body)):
            if link.startswith("/") and link not in seen and not link.startswith(("/static", "/metrics", "/api")):
                seen.add(link)
                waiting.append(link)


def _names(address: str) -> set[str]:
    return {part.partition("=")[0] for part in urlsplit(address).query.split("&") if part}
