"""Where the database, the broker and a service are, and what of it is a secret."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from exchange.format.errors import printable
from exchange.settings.faults import PREFIX, SECRET
from exchange.settings.files import one_line
from exchange.settings.kinds import absolute

_DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
_BROKERS = ("redis", "rediss", "redis+socket")


def checked_database(value: str, file: Path | None, password_file: str) -> str:
    """Read a database's URL, with the password of a file where there is one. Raises ValueError."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(f"expected a URL such as postgresql://user:password@host/name, found {SECRET}") from None
    if url.get_backend_name() == "sqlite" and "?" in value:
        raise ValueError("expected a SQLite file alone, found a ? and more; a ? of its path is written %3F")
    if file is not None:
        if url.password or "password" in url.query or url.get_backend_name() == "sqlite":
            raise ValueError(
                f"expected a PostgreSQL URL without password beside {PREFIX}{password_file}, found another"
            )
        url = url.set(password=one_line(file))
    return _checked_sqlite(url) if url.get_backend_name() == "sqlite" else _checked_postgresql(url)


def _checked_sqlite(url: URL) -> str:
    if url.drivername not in _DATABASES:
        raise ValueError(f"expected the driver sqlite, found {printable(url.drivername)}")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ValueError("expected a SQLite file, found a database in memory, which no second process can see")
    path = str(absolute(Path(url.database)))
    return url.set(database=path).render_as_string(hide_password=False)


def _checked_postgresql(url: URL) -> str:
    if url.drivername not in _DATABASES:
        raise ValueError(f"expected sqlite or postgresql (with psycopg 3), found {printable(url.drivername)}")
    if not url.database:
        raise ValueError("expected the name of a database after the host, found none")
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError("expected a driver for PostgreSQL, found none; pip install 'exchange[postgres]'")
    return url.render_as_string(hide_password=False)


def checked_broker(value: str | None, file: Path | None) -> str | None:
    """Read a broker's URL, with the password of a file where there is one. Raises ValueError."""
    if value is None:
        if file is not None:
            raise ValueError(f"expected the URL of a Redis beside {PREFIX}BROKER_PASSWORD_FILE, found none")
        return None
    if value.startswith("sentinel:"):
        return _sentinels(value)
    try:
        url = urlsplit(value)
        scheme, complete = url.scheme, bool(url.hostname or url.path) and url.port != 0
    except ValueError:
        scheme, complete = "", False
    if scheme not in _BROKERS or not complete:
        raise ValueError(f"expected a URL such as redis://:password@host:6379/0, found {SECRET}")
    return value if file is None else _with_broker_password(value, file)


def _sentinels(url: str) -> str:
    nodes, _, query = url.partition("?")
    try:
        complete = all(node.startswith("sentinel://") and urlsplit(node).hostname for node in nodes.split(";"))
    except ValueError:
        complete = False
    if not complete or not dict(parse_qsl(query)).get("master_name"):
        raise ValueError(
            f"expected a URL such as sentinel://:password@one:26379/0;sentinel://two:26379/0?master_name=name, found"
            f" {SECRET}"
        )
    return url


def _with_broker_password(url: str, file: Path) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss"} or parts.password is not None or "password=" in parts.query:
        raise ValueError(
            f"expected a redis:// URL without a password beside {PREFIX}BROKER_PASSWORD_FILE, found another"
        )
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(one_line(file), safe='')}@{place}"))


def broker_passwords(url: str) -> Iterator[str | None]:
    """Give the passwords in a broker's URL, as written and as they are meant."""
    for node in url.partition("?")[0].split(";"):
        with suppress(ValueError):
            written = urlsplit(node).password
            yield from (written, unquote(written)) if written else ()


def is_plain(url: str) -> bool:
    """Say whether a web address names a server and perhaps a path, and nothing else."""
    try:
        found = urlsplit(url)
        whole = bool(found.hostname) and found.port != 0 and "@" not in found.netloc
    except ValueError:
        return False
    plain = re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?", found.path) is not None
    return whole and plain and found.scheme in {"http", "https"} and "?" not in url and "#" not in url
