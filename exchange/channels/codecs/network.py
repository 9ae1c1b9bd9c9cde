"""Addresses of networks and of devices, and strings of bits: PostgreSQL's own types whose text is short."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import Any

from exchange.channels.codecs.base import SpelledCodec

_BITS = {socket.AF_INET: 32, socket.AF_INET6: 128}
_ZEROS = re.compile("(?:^|(?<=:))0(?::0)+(?=:|$)")
_IPV4_MAPPED = 0xFFFF
_LENGTH = re.compile("0|[1-9][0-9]{0,2}")


@dataclass(frozen=True)
class AddressCodec(SpelledCodec):
    """Addresses of IPv4 and IPv6, spelled as PostgreSQL does.

    With a number of bits behind a slash where it is not that of a whole address; a ``network`` (CIDR) always has it,
    and no bit set behind it.
    """

    network: bool

    @property
    def expected(self) -> str:
        if self.network:
            return "a network such as 10.0.0.0/8 or 2001:db8::/32, without bits behind its length"
        return "an address such as 10.0.0.1, 10.0.0.1/8 or 2001:db8::1"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^[0-9a-f.:]{{2,45}}(/[0-9]{{1,3}}){'' if self.network else '?'}$"}

    def from_postgresql(self, text: str) -> str:
        whole = "/128" if ":" in text else "/32"
        return text if self.network else text.removesuffix(whole)

    def check(self, text: str) -> str:
        address, slash, length = text.partition("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            packed = socket.inet_pton(family, address)
        except OSError:
            raise ValueError from None
        bits = _BITS[family]
        if slash and not _LENGTH.fullmatch(length):
            raise ValueError
        kept = int(length) if slash else bits
        if kept > bits or bool(slash) != (self.network or kept < bits) or _spelled(packed) != address:
            raise ValueError
        if self.network and int.from_bytes(packed) & ((1 << bits - kept) - 1):
            raise ValueError("it has bits behind its length")
        return text


def _spelled(packed: bytes) -> str:
    """Write an address as PostgreSQL does: the first longest run of zeros left out, an IPv4 one within it dotted."""
    dotted = ".".join(map(str, packed[-4:]))
    if len(packed) == len(b"IPv4"):
        return dotted
    groups = struct.unpack("!8H", packed)
    if not any(groups[:5]) and (groups[5] == _IPV4_MAPPED or (groups[5] == 0 and groups[6] != 0)):
        return f"::ffff:{dotted}" if groups[5] else f"::{dotted}"
    text = ":".join(f"{group:x}" for group in groups)
    zeros = max(_ZEROS.finditer(text), key=lambda run: len(run[0]), default=None)
    if zeros is None:
        return text
    return f"{text[: zeros.start()].removesuffix(':')}::{text[zeros.end() :].removeprefix(':')}"


@dataclass(frozen=True)
class DeviceCodec(SpelledCodec):
    """Addresses of devices (MACADDR, MACADDR8): so many bytes in hex, with colons."""

    octets: int

    @property
    def expected(self) -> str:
        return f"{self.octets} bytes in lower-case hex with colons, such as {':'.join(['08'] * self.octets)}"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self._pattern()}$"}

    def _pattern(self) -> str:
        return f"[0-9a-f]{{2}}(?::[0-9a-f]{{2}}){{{self.octets - 1}}}"

    def check(self, text: str) -> str:
        if re.fullmatch(self._pattern(), text):
            return text
        raise ValueError


@dataclass(frozen=True)
class BitsCodec(SpelledCodec):
    """Strings of bits: of just ``length``, or of at most so many (None: any number) if ``varying``."""

    length: int | None
    varying: bool

    @property
    def long(self) -> bool:  # type: ignore[override]
        return self.length is None

    @property
    def expected(self) -> str:
        bound = "" if self.length is None else f"{'at most ' if self.varying else ''}{self.length} "
        return f"a string of {bound}characters 0 and 1"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self._pattern()}$"}

    def _pattern(self) -> str:
        if self.length is None:
            return "[01]*"
        return f"[01]{{{'0,' if self.varying else ''}{self.length}}}"

    def check(self, text: str) -> str:
        if re.fullmatch(self._pattern(), text):
            return text
        raise ValueError
