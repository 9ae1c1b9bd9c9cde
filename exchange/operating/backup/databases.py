"""Databases made, filled, renamed and dropped on a PostgreSQL server: what a restore and a trial of one need."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from exchange.database.engine import make_engine
from exchange.database.errors import first_line, transient_errors
from exchange.format.errors import TransientError, printable

_ELSEWHERE = ("postgres", "template1")
"""Databases that every server has: from there others are made."""
_SHAPE = """
    SELECT pg_encoding_to_char(encoding) AS encoding, datcollate AS "collate", datctype AS ctype,
        coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
        coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale
    FROM pg_database d WHERE datname = current_database()"""
_SETTINGS = """
    SELECT unnest(setconfig) FROM pg_db_role_setting
    WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"""


def shape(connection: Connection) -> dict[str, Any]:
    """Give what another database is to be made with, to take in what is in this one. Reads in the caller's transaction.

    That is its encoding and locale, and settings that were made for all who connect to it.
    """
    row = connection.exec_driver_sql(_SHAPE).one()
    settings = [str(one) for one in connection.exec_driver_sql(_SETTINGS).scalars()]
    return {**row._mapping, "settings": settings}  # noqa: SLF001 - SQLAlchemy's own way to a dictionary


def renamed(url: str, name: str) -> str:
    """Give the URL of another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def name_of(url: str) -> str:
    """Give the name of the database that a URL is of."""
    return str(make_url(url).database)


def new_name(name: str, what: str) -> str:
    """Give the name of a database that stands beside another one: PostgreSQL takes 63 bytes."""
    return f"{name.encode()[:40].decode(errors='ignore')}_{what}"


@contextmanager
def beside(url: str) -> Iterator[Connection]:
    """Connect to the server that has a database, not to it itself, and commit each statement.

    Raises TransientError.
    """
    refusal: TransientError | None = None
    for name in _ELSEWHERE:
        engine = make_engine(renamed(url, name))
        try:
            with transient_errors():
                connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except TransientError as error:
            refusal = error
            engine.dispose()
            continue
        try:
            with connection:
                yield connection
        finally:
            engine.dispose()
        return
    assert refusal is not None
    raise refusal


def exists(connection: Connection, name: str) -> bool:
    """Say whether a server has a database of this name."""
    return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_database WHERE datname = :name"), {"name": name}))


def may_create(connection: Connection) -> bool:
    """Say whether this role may make databases."""
    asked = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
    return bool(connection.scalar(sa.text(asked)))


def user(connection: Connection) -> str:
    """Give the role that asks."""
    return str(connection.scalar(sa.text("SELECT current_user")))


def create(connection: Connection, name: str, wanted: Mapping[str, Any]) -> None:
    """Make an empty database of a shape. Raises TransientError with the server's sentence."""
    words = [f"ENCODING {_literal(wanted['encoding'])}", f"LC_COLLATE {_literal(wanted['collate'])}"]
    words.append(f"LC_CTYPE {_literal(wanted['ctype'])}")
    if wanted.get("provider") == "i":
        words += ["LOCALE_PROVIDER icu", f"ICU_LOCALE {_literal(wanted['locale'])}"]
    elif wanted.get("provider") == "b":
        words += ["LOCALE_PROVIDER builtin", f"BUILTIN_LOCALE {_literal(wanted['locale'])}"]
    ask(connection, f"CREATE DATABASE {quoted(name)} TEMPLATE template0 {' '.join(words)}")


def give_settings(url: str, settings: list[str]) -> None:
    """Make the settings for all who connect to a database that it had. Raises TransientError."""
    engine = make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for one in settings:
                name, _, value = one.partition("=")
                connection.execute(sa.text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value})
                ask(connection, f"ALTER DATABASE {quoted(name_of(url))} SET {quoted(name)} FROM CURRENT")
    finally:
        engine.dispose()


def drop(connection: Connection, name: str) -> None:
    """Drop a database that we made, if it is there, whoever is connected. Raises TransientError."""
    ask(connection, f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


def rename(connection: Connection, name: str, to: str) -> None:
    """Give a database another name: nobody may be connected to it. Raises TransientError."""
    ask(connection, f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(to)}")


def others(connection: Connection, name: str) -> list[str]:
    """Say who is connected to a database."""
    asked = sa.text(
        "SELECT coalesce(nullif(application_name, ''), usename, 'somebody') || ' pid ' || pid FROM pg_stat_activity"
        " WHERE datname = :name AND backend_type = 'client backend' ORDER BY 1"
    )
    return [printable(str(one), 80) for one in connection.scalars(asked, {"name": name})]


@contextmanager
def trial(url: str, wanted: Mapping[str, Any]) -> Iterator[str]:
    """Make a database to try a restore in, give its URL, and drop it. Raises TransientError."""
    name = f"exchange_verify_{secrets.token_hex(6)}"
    with beside(url) as connection:
        if not may_create(connection):
            role = user(connection)
            raise TransientError(
                f"the role {printable(role, 80)} may not make databases, so there is none to try the backup in; nothing"
                f" was done: have an administrator say ALTER ROLE {quoted(role)} CREATEDB, or name an empty one with"
                " --scratch URL"
            )
        create(connection, name, wanted)
        try:
            give_settings(renamed(url, name), wanted["settings"])
            yield renamed(url, name)
        finally:
            drop(connection, name)


# What goes with another one has no name any more.
_EMPTY_IT = """
    DO $$
    DECLARE found record;
    BEGIN
        FOR found IN SELECT format('DROP SCHEMA %I CASCADE', nspname) AS what FROM pg_namespace
            WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
        LOOP EXECUTE found.what; END LOOP;
        FOR found IN SELECT format('DROP EXTENSION %I CASCADE', extname) AS what FROM pg_extension
            WHERE extname <> 'plpgsql'
        LOOP EXECUTE found.what; END LOOP;
        FOR found IN SELECT format('DROP %s %s CASCADE', CASE relkind WHEN 'v' THEN 'VIEW'
                WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE'
                ELSE 'TABLE' END, oid::regclass) AS what
            FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        LOOP BEGIN EXECUTE found.what; EXCEPTION WHEN undefined_table OR syntax_error THEN NULL; END; END LOOP;
        FOR found IN SELECT format('DROP ROUTINE %s CASCADE', oid::regprocedure) AS what
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        LOOP BEGIN EXECUTE found.what; EXCEPTION WHEN undefined_function OR syntax_error THEN NULL; END; END LOOP;
        FOR found IN SELECT format('DROP TYPE %s CASCADE', oid::regtype) AS what FROM pg_type
            WHERE typnamespace = 'public'::regnamespace AND typtype IN ('c', 'd', 'e', 'r')
        LOOP BEGIN EXECUTE found.what; EXCEPTION WHEN undefined_object OR syntax_error THEN NULL; END; END LOOP;
    END $$"""


@contextmanager
def lent_trial(url: str) -> Iterator[str]:
    """Try a restore in a database that a person named: it has to be empty, and is emptied again.

    Raises TransientError.
    """
    engine = make_engine(url)
    try:
        with transient_errors(), engine.connect() as connection:
            found = has_anything(connection)
        if found:
            raise TransientError(
                f"the scratch database has {printable(found, 80)} already; nothing was done: name an empty one"
            )
        try:
            yield url
        finally:
            engine.dispose()
            with engine.begin() as connection:
                connection.exec_driver_sql(_EMPTY_IT.replace("%", "%%"))
    finally:
        engine.dispose()


def has_anything(connection: Connection) -> str | None:
    """Name a table, view, sequence or function that a database has; None if it is empty."""
    asked = """
        SELECT format('%s.%s', n.nspname, one.name) FROM (
            SELECT relname AS name, relnamespace AS place, oid FROM pg_class
            WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
            UNION ALL SELECT proname, pronamespace, oid FROM pg_proc
        ) one JOIN pg_namespace n ON n.oid = one.place
        WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = one.oid AND d.deptype = 'e') LIMIT 1"""
    found = connection.scalar(sa.text(asked))
    return None if found is None else str(found)


def ask(connection: Connection, statement: str) -> None:
    """Say something to a server, with names quoted by the caller. Raises TransientError with its sentence."""
    try:
        connection.exec_driver_sql(statement.replace("%", "%%"))
    except DBAPIError as error:
        raise TransientError(f"PostgreSQL refuses it: {first_line(error)}") from error


def quoted(name: str) -> str:
    """Write a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"
