"""Key files: this side's own signing keys, and the other side's public keys that it trusts.

Own keys lie in one folder as ``<name>.key`` (PEM, for our eyes only) with the public half ``<name>.pem``
beside it, ready to be carried over; what is trusted lies below it in ``trusted/<name>.pem``. A file's stem is
the name that manifests carry. Nothing here overwrites a key or prints a private one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exchange.folders import held, make_private
from exchange.format.errors import printable
from exchange.format.manifest import KEY_NAME
from exchange.format.signing import SigningKey, TrustedKeys

MAX_PEM_BYTES = 16 * 1024
_PRIVATE = b"PRIVATE KEY-----"


class KeyFault(Exception):  # noqa: N818 - reads as what it is
    """A key or its file can't be used; the text is one sentence."""


@dataclass(frozen=True)
class KeyFile:
    """One key as ``exchange keys list`` shows it. ``signs`` marks the key that signs what this side sends."""

    name: str
    path: Path
    trusted: bool
    signs: bool


def new(folder: Path, name: str) -> Path:
    """Make a signing key and give the path of its public half. Raises KeyFault if the name is not free."""
    _check_name(name)
    key = SigningKey.generate(name)
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    if private.exists() or public.exists():
        raise KeyFault(f"{private}: there is a key of this name already; choose another name")
    _write(private, key.to_pem(), 0o600)
    _write(public, key.public_pem(), 0o644)
    return public


def trust(folder: Path, file: Path, name: str | None = None) -> Path:
    """Accept the public key in a PEM file under ``name`` (its stem if none) and give the path of our copy.

    Trusting the same key again changes nothing. Raises KeyFault with what is wrong with the file or name.
    """
    name = name or file.stem
    _check_name(name)
    pem = _read(file)
    if _PRIVATE in pem:
        raise KeyFault(f"{printable(str(file))}: expected a public key, found a private one; ask for its .pem file")
    _trusted({name: pem}, file)
    if any(own.with_suffix(".pem").read_bytes() == pem for own in _own(folder) if own.with_suffix(".pem").is_file()):
        raise KeyFault(f"{printable(str(file))}: this is this side's own key; trust the other side's .pem file")
    copy = folder / "trusted" / f"{name}.pem"
    if copy.exists() and copy.read_bytes() != pem:
        raise KeyFault(f"{copy}: another key of this name is trusted already; remove it first, or give a --name")
    if not copy.exists():
        _write(copy, pem, 0o600)
    return copy


def listed(folder: Path, signing: str | None = None) -> list[KeyFile]:
    """List own keys, oldest first, then trusted ones by name. ``signing`` as in ``load_signing_key``."""
    own = _own(folder)
    signs = signing or (own[-1].stem if own else None)
    return [KeyFile(path.stem, path, trusted=False, signs=path.stem == signs) for path in own] + [
        KeyFile(path.stem, path, trusted=True, signs=False) for path in sorted((folder / "trusted").glob("*.pem"))
    ]


def load_signing_key(folder: Path, name: str | None = None) -> SigningKey | None:
    """Read the key that signs: the named one or else the newest; None if there is none at all.

    Raises KeyFault if the named one is missing or a file holds no Ed25519 private key.
    """
    if name is None:
        own = _own(folder)
        if not own:
            return None
        name = own[-1].stem
    path = folder / f"{name}.key"
    try:
        return SigningKey.from_pem(name, _read(path))
    except ValueError as error:
        raise KeyFault(f"{path}: {error}") from error


def load_trusted(folder: Path) -> TrustedKeys:
    """Read every trusted key. Raises KeyFault naming the file that holds none."""
    return _trusted({path.stem: _read(path) for path in (folder / "trusted").glob("*.pem")}, folder / "trusted")


def load_own(folder: Path) -> TrustedKeys:
    """Read the public halves of all own keys. Raises KeyFault naming the file that holds none."""
    halves = [path.with_suffix(".pem") for path in _own(folder)]
    return _trusted({path.stem: _read(path) for path in halves if path.is_file()}, folder)


def trusted_from(files: list[Path]) -> TrustedKeys:
    """Read public keys from anywhere, each named by its file's stem. Raises KeyFault naming a bad file."""
    pems = {}
    for file in files:
        pems[file.stem] = _read(file)
        _trusted({file.stem: pems[file.stem]}, file)
    return _trusted(pems, Path())


def _trusted(pems: dict[str, bytes], where: Path) -> TrustedKeys:
    try:
        return TrustedKeys.from_pems(pems)
    except ValueError as error:
        raise KeyFault(f"{printable(str(where))}: {error}") from error


def _own(folder: Path) -> list[Path]:
    # The newest signs: the folder is ours alone and on our own disk, so its times can be told apart.
    return sorted(folder.glob("*.key"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _check_name(name: str) -> None:
    if not KEY_NAME.fullmatch(name):
        raise KeyFault(
            "expected a key's name of at most 64 letters, digits, '.', '_' and '-', a letter or digit first,"
            f" found {printable(repr(name))}"
        )


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            pem = stream.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise KeyFault(f"{printable(str(file))}: expected a PEM file, but {error.strerror}") from error
    if len(pem) > MAX_PEM_BYTES:
        raise KeyFault(f"{printable(str(file))}: expected a PEM file, found more than {MAX_PEM_BYTES} bytes")
    return pem


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file; a key made at the same moment is never replaced."""
    try:
        make_private(path.parent)
        with held(path.parent, follow=True) as folder, folder.write(path.name, mode=mode, replace=False) as stream:
            stream.write(content)
    except FileExistsError as error:
        raise KeyFault(f"{path}: there is a key of this name already; choose another name") from error
    except OSError as error:
        raise KeyFault(f"{path}: cannot be written: {error.strerror}") from error
