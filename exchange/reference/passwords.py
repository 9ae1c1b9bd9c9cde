"""Password hashes of the reference application: scrypt, with its costs kept beside the salt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_COST = 2**14
_BLOCK = 8
_PARALLEL = 5
_SALT_BYTES = 16


def hash_password(password: str) -> str:
    """Hash a password for keeping: ``scrypt$cost$block$parallel$salt$hash``, the last two in base64."""
    salt = secrets.token_bytes(_SALT_BYTES)
    derived = hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL)
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(salt)}${_text(derived)}"


def check_password(password: str, kept: str | None) -> bool:
    """Tell whether ``password`` is the one that ``kept`` was made from; nobody's is where none is kept."""
    if kept is None:
        return False
    _, cost, block, parallel, salt, expected = kept.split("$")
    derived = hashlib.scrypt(password.encode(), salt=base64.b64decode(salt), n=int(cost), r=int(block), p=int(parallel))
    return hmac.compare_digest(derived, base64.b64decode(expected))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
