"""Who is at work: the person or the process, as locks, events and the audit name it."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_NAME_BYTES = 63
"""What PostgreSQL keeps of a connection's name."""


acting_person: ContextVar[str | None] = ContextVar("person", default=None)


@contextmanager
def acting_for(person: str) -> Iterator[None]:
    """Name a person, too, in the locks, events and attempts of what is done meanwhile."""
    token = acting_person.set(person)
    try:
        yield
    finally:
        acting_person.reset(token)


def whoami() -> str:
    """Name who works here, in locks, events and attempts: the person if one asked, user, host and process id."""
    try:
        user = os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())
    except AttributeError:  # pragma: no cover - no getuid on Windows
        user = "unknown"
    process = f"{user}@{socket.gethostname()} pid {os.getpid()}"
    asked = acting_person.get()
    return f"{asked}, {process}" if asked else process


def person() -> str:
    """Name the person who asked, or else the operating system's user."""
    return acting_person.get() or user()


def user() -> str:
    """Name the operating system's user, by the process's own id: an environment says what one tells it to."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def login_user() -> str:
    """Name whoever logged in to the session that this process is of, else the operating system's user.

    Linux keeps it from there on, through sudo and su, and nobody but root can change it: of several who work as the
    service's user it tells one from the other. A container or a service without a login has none.
    """
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:  # noqa: PTH123 - no Path at a command's start
            number = int(file.read())
        return user() if number == _NO_LOGIN else pwd.getpwuid(number).pw_name
    except (OSError, ValueError, KeyError):
        return user()


_NO_LOGIN = 2**32 - 1
