"""This side's keys in one file that only a recipient can open: a tar, encrypted as ``age`` does it."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exchange.files.keys import MAX_PEM_BYTES, KeyFault
from exchange.format.errors import printable

_KEY_FILE = re.compile(r"(trusted/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.(key|pem|json)")


def pack(folder: Path, recipient: str) -> bytes:
    """Encrypt all key files, own and trusted, to a recipient such as ``age1...``. Raises KeyFault and OSError."""
    files = [path for path in sorted(folder.rglob("*")) if _KEY_FILE.fullmatch(str(path.relative_to(folder)))]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in files:
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_nobodys)
    age = _age()
    try:
        return bytes(age.encrypt(packed.getvalue(), [age.x25519.Recipient.from_str(recipient)]))
    except (age.RecipientError, age.EncryptError) as error:
        raise KeyFault(f"the recipient of the keys: expected a public key of age (age1...): {error}") from None


def check_recipient(recipient: str) -> None:
    """See that keys can be encrypted to a recipient, before all the work. Raises KeyFault."""
    age = _age()
    try:
        age.x25519.Recipient.from_str(recipient)
    except age.RecipientError as error:
        raise KeyFault(f"the recipient of the keys: expected a public key of age (age1...): {error}") from None


def unpack(content: bytes, identity: Path) -> dict[str, tuple[bytes, float]]:
    """Decrypt key files with an identity's file: what each holds and its time, by its name below the keys' folder.

    Raises KeyFault and OSError.
    """
    age = _age()
    lines = [line.strip() for line in identity.read_text(encoding="utf-8", errors="replace").splitlines()]
    try:
        known = [age.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]
        if not known:
            raise KeyFault(f"{printable(str(identity))}: expected a line that begins with AGE-SECRET-KEY-, found none")
        packed = age.decrypt(content, known)
    except age.IdentityError as error:
        raise KeyFault(f"{printable(str(identity))}: expected an identity of age: {error}") from None
    except age.DecryptError:
        raise KeyFault(f"{printable(str(identity))}: the keys are not encrypted to this identity") from None
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for one in archive:
            if one.isreg() and _KEY_FILE.fullmatch(one.name) and one.size <= MAX_PEM_BYTES:
                file = archive.extractfile(one)
                assert file is not None
                found[one.name] = (file.read(), float(one.mtime))
    return found


def names_in(files: Mapping[str, Any]) -> list[str]:
    """Name the own keys among such files."""
    return sorted(name.removesuffix(".key") for name in files if name.endswith(".key"))


def _nobodys(one: tarfile.TarInfo) -> tarfile.TarInfo:
    one.uid = one.gid = 0
    one.uname = one.gname = ""
    return one


def _age() -> Any:
    try:
        import pyrage  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError:
        raise KeyFault(
            "keys can't be encrypted or decrypted, as pyrage is not installed; pip install 'exchange[backup]', or leave"
            " the keys out"
        ) from None
    return pyrage
