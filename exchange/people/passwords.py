"""Passwords: kept as Argon2id hashes and checked a few at a time.

Those of people who look after a side cost what the library has for one; those of users who ask over HTTP, of whom many
sign in at once, a quarter of that, which is more than the least that OWASP names (19 MiB twice).
"""

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
"""So many passwords are checked at once: each takes up to 64 MiB, and all of a core."""
WAIT_SECONDS = 5.0
"""So long one waits for its turn."""

_turns = threading.BoundedSemaphore(AT_ONCE)
_hasher = PasswordHasher()
_hasher_of_many = PasswordHasher(time_cost=3, memory_cost=24 * 1024, parallelism=1)


class WeakPassword(ValueError):  # noqa: N818 - an answer to a person
    """A password that is not taken; the text is one sentence without a word of it."""


def hash_password(password: str, name: str, *, of_many: bool = False) -> str:
    """Give what is kept of a new password: ``of_many`` of a user who asks over HTTP. Raises WeakPassword."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise WeakPassword(f"password: expected {SHORTEST} to {LONGEST} characters, found {len(password)}")
    if len(set(password)) < 4 or name.lower() in password.lower():  # noqa: PLR2004
        raise WeakPassword("password: expected one without the user's name, and more than three different characters")
    return hash_anew(password, of_many=of_many)


def is_right(kept: str | None, password: str, *, of_many: bool = False) -> bool:
    """Tell whether it is the password; where none is kept that takes as long. Raises TransientError if many ask."""
    if not _turns.acquire(timeout=WAIT_SECONDS):
        raise TransientError("too many sign in at once; try again in a moment")
    try:
        _hasher.verify(kept or _nobodys(of_many=of_many), password[: LONGEST + 1])
    except (Argon2Error, InvalidHashError):
        return False
    else:
        return kept is not None
    finally:
        _turns.release()


def is_outdated(kept: str, *, of_many: bool = False) -> bool:
    """Tell whether a hash has other parameters than a new one would."""
    return _of(of_many=of_many).check_needs_rehash(kept)


def hash_anew(password: str, *, of_many: bool = False) -> str:
    """Give the hash of a password that was right, with the present parameters."""
    return _of(of_many=of_many).hash(password)


@cache
def _nobodys(*, of_many: bool) -> str:
    return hash_anew(secrets.token_urlsafe(), of_many=of_many)


def _of(*, of_many: bool) -> PasswordHasher:
    return _hasher_of_many if of_many else _hasher
