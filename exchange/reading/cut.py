"""Places at which a large file can be cut into parts, found while its bytes pass to be hashed."""

from __future__ import annotations

from exchange.reading import FileFormat, Place
from exchange.reading.source import is_direct
from exchange.reading.splitting import Grammar, count_lines, split, whole_lines


class Cutter:
    """Finds where rows begin, about every ``every`` bytes, exactly where ``read`` would see them begin.

    It finds none in what is compressed or written in an encoding of several bytes a character, and none behind a row
    that is longer than ``most`` bytes or that nothing closes. Memory is bounded by ``most``.
    """

    def __init__(self, written: FileFormat, every: int, most: int) -> None:
        """Begin before the first byte of a file."""
        self._grammar = Grammar.of(written)
        self._every, self._most = every, most
        self._skip = written.start
        self._at = Place(written.start, written.line)
        self._rest = bytearray()
        self._stopped = bool(written.compression) or not is_direct(written.encoding)
        self.places: list[Place] = []
        """The beginnings of parts, without that of the first one."""
        self._last = written.start

    def feed(self, piece: bytes) -> None:
        """Look at the file's next bytes."""
        if self._stopped:
            return
        if self._skip:
            skipped = min(self._skip, len(piece))
            self._skip -= skipped
            piece = piece[skipped:]
        searched = len(self._rest)
        self._rest += piece
        # The last byte may be the first half of a line's end.
        seen = bytes(self._rest[:-1] if self._rest.endswith(b"\r") else self._rest)
        cut = whole_lines(seen, searched - 1 if searched else 0)
        if not cut and len(self._rest) > self._most:
            self._stopped = True
        if not cut:
            return
        data = seen[:cut]
        if self._grammar is None or self._grammar.quote not in data:
            used = cut
            lines = count_lines(data)
        else:
            found = split(data, self._grammar, last=False)
            used = found.used
            lines = len(found.records) if found.lines is None else sum(found.lines)
            if not used and len(data) > self._most:
                self._stopped = True
        del self._rest[:used]
        self._at = Place(self._at.position + used, self._at.line + lines)
        if used and self._at.position - self._last >= self._every:
            self.places.append(self._at)
            self._last = self._at.position
