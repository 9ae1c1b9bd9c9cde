"""Passwords: kept as Argon2 hashes with the library's present parameters, and checked a few at a time."""

from __future__ import annotations

import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from exchange.format.errors import TransientError

SHORTEST = 12
LONGEST = 1024
"""So many characters a password has."""
AT_ONCE = 2
"""So many passwords are checked at once: each takes 64 MiB."""
WAIT_SECONDS = 5.0
"""So long one waits for its turn."""

_turns = threading.BoundedSemaphore(AT_ONCE)
_hasher = PasswordHasher()


class WeakPassword(ValueError):  # noqa: N818 - an answer to a person
    """A password that is not taken; the text is one sentence without a word of it."""


def hash_password(password: str, name: str) -> str:
    """Give what is kept of a new password. Raises WeakPassword."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise WeakPassword(f"password: expected {SHORTEST} to {LONGEST} characters, found {len(password)}")
    if len(set(password)) < 4 or name.lower() in password.lower():  # noqa: PLR2004
        raise WeakPassword("password: expected one without the user's name, and more than three different characters")
    return _hasher.hash(password)


def is_right(kept: str | None, password: str) -> bool:
    """Tell whether it is the password; where none is kept that takes as long. Raises TransientError if many ask."""
    if not _turns.acquire(timeout=WAIT_SECONDS):
        raise TransientError("too many sign in at once; try again in a moment")
    try:
        _hasher.verify(kept or _nobodys(), password[: LONGEST + 1])
    except (Argon2Error, InvalidHashError):
        return False
    else:
        return kept is not None
    finally:
        _turns.release()


def is_outdated(kept: str) -> bool:
    """Tell whether a hash has other parameters than a new one would."""
    return _hasher.check_needs_rehash(kept)


def hash_anew(password: str) -> str:
    """Give the hash of a password that was right, with the present parameters."""
    return _hasher.hash(password)


@cache
def _nobodys() -> str:
    return _hasher.hash(secrets.token_urlsafe())
