"""Key files: this side's own signing keys, and the other side's public keys that it trusts.

Own keys lie in one folder as ``<name>.key`` (PEM, for our eyes only) with the public half ``<name>.pem``
beside it, ready to be carried over; what is trusted lies below it in ``trusted/<name>.pem``, written anew from the key
that was loaded, and beside it in ``<name>.json`` what that key may sign, if that is limited. A file's stem is
the name that manifests carry. Nothing here overwrites a key or prints a private one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from exchange.files import durable
from exchange.files.folder import held, make_private
from exchange.format.errors import printable
from exchange.format.key_terms import MAX_TERMS_BYTES, NO_LIMITS, Terms
from exchange.format.names import KEY_NAME
from exchange.format.signing import SigningKey, TrustedKeys, fingerprint, to_pem

MAX_PEM_BYTES = 16 * 1024
LAST_GROUP = 8
"""So many characters of a fingerprint are its last group: what a person types who was told it by telephone."""

_PRIVATE = b"PRIVATE KEY-----"
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class KeyFault(Exception):  # noqa: N818 - reads as what it is
    """A key or its file can't be used; the text is one sentence."""


@dataclass(frozen=True)
class KeyFile:
    """One key as ``exchange keys list`` shows it. ``signs`` marks the key that signs what this side sends.

    ``fault`` says why its file can't be used; then there is no ``fingerprint``.
    """

    name: str
    path: Path
    trusted: bool
    signs: bool
    fingerprint: str | None = None
    terms: Terms = NO_LIMITS
    fault: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A public key that somebody may come to trust, read once: what people compared is what is kept."""

    name: str
    file: Path
    key: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """What people compare it by."""
        return fingerprint(self.key)

    @property
    def shown_part(self) -> str:
        """The fingerprint without its last group."""
        return self.fingerprint[:-LAST_GROUP]

    def check(self, said: str) -> None:
        """See that this is the key that the other side meant. Raises KeyFault."""
        if said != self.fingerprint:
            raise KeyFault(f"{self._shown_file}: expected the key {said}, found {self.fingerprint}; {_DIFFERS}")

    def check_last_group(self, typed: str) -> None:
        """See that a person was told the fingerprint's last group, or more of its end. Raises KeyFault."""
        if len(typed) < LAST_GROUP or not self.fingerprint.endswith(typed):
            raise KeyFault(f"{self._shown_file}: its fingerprint does not end as was typed; {_DIFFERS}")

    @property
    def _shown_file(self) -> str:
        return printable(str(self.file))


_DIFFERS = "nothing was done: find out who has changed the file on its way, and have it brought by another road"


def new(folder: Path, name: str) -> Path:
    """Make a signing key and give the path of its public half. Raises KeyFault if the name is not free."""
    _check_name(name)
    key = SigningKey.generate(name)
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    if private.exists() or public.exists():
        raise KeyFault(f"{private}: there is a key of this name already; choose another name")
    newest = max((path.stat().st_mtime_ns for path in _own(folder)), default=0)
    _write(private, key.to_pem(), 0o600)
    if private.stat().st_mtime_ns <= newest:  # a clock was set back: the newest key signs all the same
        later = newest + _TELLS_APART_NS
        os.utime(private, ns=(later, later))
    _write(public, key.public_pem(), 0o644)
    return public


_TELLS_APART_NS = 2_000_000_000
"""So far apart file times have to be on any file system to be two."""


def candidate(file: Path, name: str | None = None) -> Candidate:
    """Read a public key out of a file that was brought, to be trusted under ``name`` (its stem if none).

    Raises KeyFault with what is wrong with the file or the name.
    """
    name = name or file.stem
    _check_name(name)
    pem = _read(file)
    if _PRIVATE in pem:
        raise KeyFault(f"{printable(str(file))}: expected a public key, found a private one; ask for its .pem file")
    return Candidate(name, file, _public_key(file, name, pem))


def candidate_of(pem: bytes, name: str) -> Candidate:
    """Read a public key that was kept since somebody proposed to trust it. Raises KeyFault."""
    _check_name(name)
    file = Path(f"{name}.pem")
    return Candidate(name, file, _public_key(file, name, pem))


def trust(folder: Path, wanted: Candidate, terms: Terms | None = None) -> Path:
    """Accept a key whose fingerprint was compared, within ``terms``, and give the path of our copy.

    Of a key that is trusted already only what it may sign changes; without ``terms`` that stays, too. Raises KeyFault.
    """
    if any(wanted.fingerprint == one.fingerprint for one in listed(folder) if not one.trusted):
        raise KeyFault(f"{printable(str(wanted.file))}: this is this side's own key; trust the other side's .pem file")
    copy = _trusted_path(folder, wanted.name)
    there = _public_key(copy, wanted.name, _read(copy)) if copy.exists() else None
    if there not in (None, wanted.key):
        raise KeyFault(
            f"{copy}: another key of this name is trusted already; give a --name, or end that one's with"
            f" `exchange keys untrust {wanted.name}`"
        )
    if terms is not None or there is None:
        _limit(folder, wanted.name, terms or NO_LIMITS)
    if there is None:  # last: without it nothing is trusted, so no key ever counts without its limits
        _write(copy, to_pem(wanted.key), 0o600)
    return copy


def untrust(folder: Path, name: str) -> str | None:
    """Trust a key no longer, from the next batch on; give its fingerprint, if its file could be read.

    Raises KeyFault if no key of this name is trusted.
    """
    copy = _trusted_path(folder, name)
    found = _described(copy, trusted=True, signs=False)
    try:
        copy.unlink()  # first: no reader ever finds the key and not its limits
        _terms_path(folder, name).unlink(missing_ok=True)
        with held(copy.parent, follow=True) as kept:
            kept.sync()
    except FileNotFoundError as error:
        raise KeyFault(
            f"no key {printable(name, 80)} is trusted here; nothing was done; `exchange keys list` shows those that are"
        ) from error
    except OSError as error:
        raise KeyFault(f"{error.filename}: {error.strerror}; see with `exchange keys list` what is trusted") from error
    return found.fingerprint


def _limit(folder: Path, name: str, terms: Terms) -> None:
    """Keep what a key may sign, in one step."""
    path = _terms_path(folder, name)
    if terms == NO_LIMITS:
        path.unlink(missing_ok=True)
        return
    try:
        make_private(path.parent)
        durable.write(path, terms.encode(), mode=0o600)
    except OSError as error:
        raise KeyFault(f"{path}: cannot be written: {error.strerror}") from error


def _trusted_path(folder: Path, name: str) -> Path:
    _check_name(name)
    return folder / "trusted" / f"{name}.pem"


def _terms_path(folder: Path, name: str) -> Path:
    return folder / "trusted" / f"{name}.json"


def listed(folder: Path, signing: str | None = None) -> list[KeyFile]:
    """List own keys, oldest first, then trusted ones by name. ``signing`` as in ``load_signing_key``."""
    own = _own(folder)
    signs = signing or (own[-1].stem if own else None)
    return [_described(path, trusted=False, signs=path.stem == signs) for path in own] + [
        _described(path, trusted=True, signs=False) for path in _trusted_files(folder)
    ]


def _described(path: Path, *, trusted: bool, signs: bool) -> KeyFile:
    name = path.stem
    try:
        if not trusted:
            return KeyFile(name, path, trusted, signs, read_signing_key(path.parent, name).fingerprint)
        key = _public_key(path, name, _read(path))
        return KeyFile(name, path, trusted, signs, fingerprint(key), _terms(path.parent.parent, name))
    except KeyFault as fault:
        return KeyFile(name, path, trusted, signs, fault=str(fault))


def files_of(key: KeyFile) -> list[Path]:
    """Name the files of a trusted key: its own, and the one with its limits if it has any."""
    terms = key.path.with_name(f"{key.name}.json")
    return [key.path, terms] if terms.exists() else [key.path]


def load_signing_key(folder: Path, name: str | None = None) -> SigningKey | None:
    """Read the key that signs: the named one or else the newest; None if there is none at all.

    Raises KeyFault if the named one is missing or a file holds no Ed25519 private key.
    """
    if name is None:
        own = _own(folder)
        if not own:
            return None
        name = own[-1].stem
    return read_signing_key(folder, name)


def read_signing_key(folder: Path, name: str) -> SigningKey:
    """Read one of our own keys. Raises KeyFault if it is missing or no Ed25519 private key."""
    path = folder / f"{name}.key"
    if not path.exists():
        msg = f"{path}: there is no such key; make one (`exchange keys new`), and have EXCHANGE_SIGNING_KEY name it"
        raise KeyFault(msg)
    try:
        return SigningKey.from_pem(name, _read(path))
    except ValueError as error:
        raise KeyFault(f"{path}: {error}") from error


def load_trusted(folder: Path, *, but: str | None = None) -> TrustedKeys:
    """Read every trusted key ``but`` one, and its limits. Raises KeyFault naming the file that is faulty.

    May be called while keys are being trusted or trusted no longer: one that goes meanwhile is not trusted.
    """
    found = {path.stem: _key_and_terms(path) for path in _trusted_files(folder) if path.stem != but}
    kept = {name: both for name, both in found.items() if both is not None}
    limited = {name: terms for name, (_, terms) in kept.items() if terms != NO_LIMITS}
    return TrustedKeys({name: key for name, (key, _) in kept.items()}, limited)


def _key_and_terms(path: Path) -> tuple[Ed25519PublicKey, Terms] | None:
    """Read a trusted key and its limits as they belong together, whoever changes them meanwhile; None if it went."""
    folder, name = path.parent.parent, path.stem
    while True:
        terms = _terms(folder, name)
        pem = _read_if_there(path)
        if pem is None:
            return None
        if terms == _terms(folder, name):
            return _public_key(path, name, pem), terms


def load_own(folder: Path) -> TrustedKeys:
    """Read the public halves of all own keys. Raises KeyFault naming the file that holds none."""
    return trusted_from([path for own in _own(folder) if (path := own.with_suffix(".pem")).is_file()])


def trusted_from(files: list[Path]) -> TrustedKeys:
    """Read public keys from anywhere, each named by its file's stem. Raises KeyFault naming a bad file."""
    return TrustedKeys({file.stem: _public_key(file, file.stem, _read(file)) for file in files})


def _public_key(file: Path, name: str, pem: bytes) -> Ed25519PublicKey:
    try:
        return TrustedKeys.from_pems({name: pem}).keys[name]
    except ValueError as error:
        raise KeyFault(f"{printable(str(file))}: {error}") from error


def _terms(folder: Path, name: str) -> Terms:
    """Read what a trusted key may sign. Raises KeyFault: what can't be read is never no limit."""
    path = _terms_path(folder, name)
    content = _read_if_there(path, MAX_TERMS_BYTES, "a JSON file")
    try:
        return NO_LIMITS if content is None else Terms.parse(content)
    except ValueError as error:
        raise KeyFault(
            f"{path}: {error}; mend it, or give the key its limits anew with `exchange keys trust`"
        ) from error


def _read_if_there(file: Path, most: int = MAX_PEM_BYTES, what: str = "a PEM file") -> bytes | None:
    try:
        return _read(file, most, what)
    except KeyFault as fault:
        if isinstance(fault.__cause__, FileNotFoundError):
            return None
        raise


def _trusted_files(folder: Path) -> list[Path]:
    return sorted((folder / "trusted").glob("*.pem"))


def _own(folder: Path) -> list[Path]:
    # The newest signs: the folder is ours alone and on our own disk, so its times can be told apart.
    return sorted(folder.glob("*.key"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _check_name(name: str) -> None:
    if not KEY_NAME.fullmatch(name):
        raise KeyFault(
            "expected a key's name of at most 64 letters, digits, '.', '_' and '-', a letter or digit first,"
            f" found {printable(repr(name))}"
        )


def _read(file: Path, most: int = MAX_PEM_BYTES, what: str = "a PEM file") -> bytes:
    """Read a plain file of bounded size; nothing else that has its name is waited for."""
    shown = printable(str(file))
    try:
        with open(file, "rb", opener=lambda path, _: os.open(path, _OPEN_FLAGS)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise KeyFault(f"{shown}: expected {what}, found no plain file")
            content = stream.read(most + 1)
    except OSError as error:
        raise KeyFault(f"{shown}: expected {what}, but {error.strerror}") from error
    if len(content) > most:
        raise KeyFault(f"{shown}: expected {what}, found more than {most} bytes")
    return content


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file; a key made at the same moment is never replaced."""
    try:
        make_private(path.parent)
        durable.write(path, content, mode=mode, replace=False)
    except FileExistsError as error:
        raise KeyFault(f"{path}: there is a key of this name already; choose another name") from error
    except OSError as error:
        raise KeyFault(f"{path}: cannot be written: {error.strerror}") from error
