"""What carriers do to names and bytes, told from what came: said to a person, and never mended here.

A file that was changed on its way is not the one that was signed. What was done to it says what has to be done about
its carrier, which "damaged" does not.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import BinaryIO

from exchange.format.errors import Corrupt, Fault
from exchange.format.manifest import Manifest
from exchange.format.names import DATA_ENDINGS, EPOCH, MANIFEST_ENDING, NAME, BatchName

# Names

_STEM = re.compile(rf"({NAME.pattern})-({EPOCH.pattern})-([0-9]{{10}})(?:\.r([1-9][0-9]{{0,8}})(?![0-9]))?")
_UNDER_WAY = re.compile(r"\..*|.*\.(tmp|temp|part|partial|filepart|crdownload|!sync)")
_BESIDE = re.compile(r"\._.*|.*(:zone\.identifier|\.(sha\d*|md5|crc32|sfv|sig))(sums?)?")
"""What systems and carriers put beside a file, such as its digest: it has the file's name, and none of its bytes."""
_HOW = (
    (re.compile(r".*/.*"), "given a whole path as its name"),
    (re.compile(r".*(conflict|konflikt).*"), "made a conflict copy by what keeps folders alike"),
    (re.compile(r".*\.(gz|bz2|xz|zip|7z|lz4|br|gpg|pgp|asc)"), "packed or encrypted"),
    (re.compile(r".*\.(txt|bin|dat|json|ndjson)"), "given another ending"),
    (re.compile(r".*(\([0-9]+\)|copy|kopie|copie|copia|~[0-9]*|\.[0-9]{1,4}|;[0-9]+).*"), "taken for a further copy"),
)
"""What was done to a name, by what it looks like now, in small letters and without its stem; the first that fits."""


@dataclass(frozen=True)
class Renamed:
    """A name that a batch's file had before somebody gave it another one.

    ``under_way``: its carrier still may be at work; ``spare``: the file itself may be there beside it.
    """

    expected: str
    how: str
    under_way: bool = False

    @property
    def spare(self) -> bool:
        """Whether it may be one too many."""
        return any(words in self.how for words in ("copy", "was renamed"))


def renamed(name: str) -> Renamed | None:
    """Tell which file of a batch has come under a name that is none; None for what does not look like one."""
    plain = unicodedata.normalize("NFKC", name).replace("\\", "/")
    match = _STEM.search(plain.rpartition("/")[2].lower())
    if match is None or _BESIDE.fullmatch(name.lower()):
        return None
    try:
        batch = BatchName(match[1], match[2], int(match[3]), max(int(match[4] or 1), 1))
    except ValueError:
        return None
    rest = plain.rpartition("/")[2].lower()[match.end() :]
    ending = MANIFEST_ENDING if "manifest" in rest else DATA_ENDINGS[("zstd",) if ".zst" in rest else ()]
    expected = f"{batch}{ending}"
    if _UNDER_WAY.fullmatch(name.lower()):
        return Renamed(expected, "has the name of a copy that its carrier has not ended", under_way=True)
    return Renamed(expected, f"was {_how(plain, expected, rest)} on its way")


def _how(plain: str, expected: str, rest: str) -> str:
    if plain == expected:
        return "given a name of other characters"
    if plain.lower() == expected:
        return "given a name of upper-case letters"
    path = "/" if "/" in plain else ""
    return next((how for looks, how in _HOW if looks.fullmatch(path + rest)), "renamed")


# A manifest

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


def restored(content: bytes) -> tuple[bytes, str] | None:
    """Give a manifest file as it was before its carrier took it for a text, and what was done to it, if it can be told.

    Nothing vouches for the bytes: the caller checks their signature.
    """
    done = []
    plain = content
    if plain.startswith(_WIDE_BOMS):
        try:
            plain = plain.decode("utf-16").encode()
        except UnicodeDecodeError:
            return None
        done.append("it was written anew in UTF-16")
    if plain.startswith(_BOM):
        plain = plain.removeprefix(_BOM)
        done.append("a byte order mark was put before it")
    if b"\r" in plain:
        plain = plain.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        done.append("its line ends were changed, as a transfer in text mode does")
    trimmed = plain.rstrip(b"\n \t\x1a\x00") + b"\n"
    if len(trimmed) < len(plain):
        done.append(_added(len(plain) - len(trimmed)))
    elif len(trimmed) > len(plain):
        done.append("the newline at its end was cut off")
    return (trimmed, "; ".join(done)) if done else None


def altered_manifest(what: str) -> Corrupt:
    """Say what was done to a manifest file that was signed before that."""
    said = f"the manifest file is not as it was signed: {what}; its carrier has to leave every byte as it is"
    return Corrupt(said, Fault.MANIFEST)


def _added(count: int) -> str:
    return f"{count} byte{'' if count == 1 else 's'} more came behind its end"


def only_nul(content: bytes) -> bool:
    """Say whether a file is there in length alone: its machine went down before what was written reached the disk."""
    return bool(content) and not content.strip(b"\x00")


# A data file

_PACKED_AS = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_CHUNK = 1024 * 1024
_MOST_NUL = 16
"""More NUL bytes than that no file that was sealed ends in."""


def changed_data(file: BinaryIO, size: int, manifest: Manifest) -> str | None:
    """Say what was done to a data file that is not what its manifest speaks of; None if that can't be told.

    Reads a file of ``size`` bytes from its beginning, once, in constant memory, and opens nothing that is in it.
    """
    if not size:
        return "it is empty, as a full disk leaves it"
    if size > 2 * max(manifest.bytes, manifest.content_bytes) + len(_BOM):
        return None
    file.seek(0)
    trial = _DataTrial(manifest)
    while piece := file.read(_CHUNK):
        trial.take(piece)
    return trial.verdict(size)


class _DataTrial:
    """The digests that a data file has once what carriers do is undone."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._whole, self._unix, self._beginning = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._without_mark = hashlib.sha256()
        self._left = manifest.bytes
        self._head = b""
        self._held = b""
        self._nul_tail = 0

    def take(self, piece: bytes) -> None:
        """Take the file's next piece, which ends anywhere, into every digest."""
        first = not self._head
        if first:
            self._head = piece[:8]
        self._whole.update(piece)
        self._without_mark.update(piece.removeprefix(_BOM) if first else piece)
        self._beginning.update(piece[: self._left])
        self._left -= min(self._left, len(piece))
        # A CR at the end of a piece may be the first half of a line end.
        text = self._held + piece
        self._held = b"\r" if text.endswith(b"\r") else b""
        self._unix.update((text[:-1] if self._held else text).replace(b"\r\n", b"\n"))
        kept = len(piece.rstrip(b"\x00"))
        self._nul_tail = len(piece) - kept + (0 if kept else self._nul_tail)

    def verdict(self, size: int) -> str | None:
        """Say what was done to the file, of ``size`` bytes, once all of it was taken; None if that is not known."""
        manifest, ended = self._manifest, self._whole.copy()
        self._unix.update(self._held)
        ended.update(b"\n")
        sealed, content = manifest.sha256, manifest.content_sha256
        packed = next((name for mark, name in _PACKED_AS.items() if self._head.startswith(mark)), None)
        down = "a machine went down before what it wrote was on its disk"
        found = (
            (self._whole.hexdigest() == content, "it was unpacked on its way"),
            (
                self._unix.hexdigest() in {sealed, content},
                "its line ends were changed, as a transfer in text mode does",
            ),
            (self._without_mark.hexdigest() == sealed, "a byte order mark was put before it"),
            (self._beginning.hexdigest() == sealed, _added(size - manifest.bytes)),
            (ended.hexdigest() == sealed, "the newline at its end was cut off"),
            (packed is not None, f"it was packed as {packed} on its way"),
            (self._nul_tail == size, f"it holds nothing but NUL bytes: {down}"),
            (self._nul_tail > _MOST_NUL, f"its last {self._nul_tail} bytes are NUL: {down}"),
        )
        return next((what for true, what in found if true), None)
