"""One PostgreSQL server, and databases on it that are emptied between tests rather than made and dropped.

A database is made once in a shape: what a function did to an empty one. Given back, it is brought into that shape
again: what a test created is dropped, what it wrote is deleted, counters begin anew. Where a test changed what the
shape has (a column, a trigger, a setting, statistics), the database is dropped and made from its template.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

Prepare = Callable[[str], None]
"""What brings an empty database into its shape. It gets the URL."""

Base = tuple[Hashable, Prepare]
"""A shape from which others are made, and what brings an empty database into it: migrations cost more than the rest."""

_numbers = itertools.count(1)

_FEW_PAGES = 8
"""A table that grew beyond is truncated: a scan reads what was deleted, too."""

# Everything that DDL, ANALYZE or VACUUM would leave in a database, each row with the transaction that wrote it.
_CATALOGUE: LiteralString = """
    SELECT md5(string_agg(entry, ' ' ORDER BY entry)) FROM (
        SELECT concat_ws(':', 'class', oid, xmin, relpages, reltuples) FROM pg_class WHERE oid >= 16384
        UNION ALL SELECT concat_ws(':', 'column', attrelid, attnum, xmin) FROM pg_attribute WHERE attrelid >= 16384
        UNION ALL SELECT concat_ws(':', 'default', oid, xmin) FROM pg_attrdef
        UNION ALL SELECT concat_ws(':', 'constraint', oid, xmin) FROM pg_constraint WHERE oid >= 16384
        UNION ALL SELECT concat_ws(':', 'index', indexrelid, xmin) FROM pg_index WHERE indexrelid >= 16384
        UNION ALL SELECT concat_ws(':', 'trigger', oid, xmin) FROM pg_trigger
        UNION ALL SELECT concat_ws(':', 'event trigger', oid, xmin) FROM pg_event_trigger
        UNION ALL SELECT concat_ws(':', 'function', oid, xmin) FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT concat_ws(':', 'type', oid, xmin) FROM pg_type WHERE oid >= 16384
        UNION ALL SELECT concat_ws(':', 'label', oid, xmin) FROM pg_enum
        UNION ALL SELECT concat_ws(':', 'rule', oid, xmin) FROM pg_rewrite WHERE oid >= 16384
        UNION ALL SELECT concat_ws(':', 'policy', oid, xmin) FROM pg_policy
        UNION ALL SELECT concat_ws(':', 'child', inhrelid, inhparent) FROM pg_inherits
        UNION ALL SELECT concat_ws(':', 'schema', oid, xmin) FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)_'
        UNION ALL SELECT concat_ws(':', 'extension', oid, xmin) FROM pg_extension
        UNION ALL SELECT concat_ws(':', 'statistics', starelid, staattnum, xmin) FROM pg_statistic
            WHERE starelid >= 16384
        UNION ALL SELECT concat_ws(':', 'rights', oid, xmin) FROM pg_default_acl
        UNION ALL SELECT concat_ws(':', 'setting', setrole, xmin) FROM pg_db_role_setting
            WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS entries (entry)"""

_OBJECTS: LiteralString = """
    SELECT oid, format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE oid >= 16384
    UNION ALL SELECT oid, format('DROP %s %s CASCADE', CASE relkind
            WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
            oid::regclass)
        FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relpersistence <> 't'
    UNION ALL SELECT oid, format('DROP ROUTINE %s CASCADE', oid::regprocedure) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT oid, format('DROP %s %s CASCADE', CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
            oid::regtype)
        FROM pg_type WHERE oid >= 16384 AND typtype IN ('e', 'd')"""

# Each by itself, for one may go with another: a sequence with its table, a type with its schema. What is gone has no
# name.
_DROP: LiteralString = """
    DO $$
    DECLARE found record;
    BEGIN
        FOR found IN SELECT made.what FROM ({objects}) AS made (oid, what) WHERE made.oid <> ALL ({kept}) LOOP
            BEGIN
                EXECUTE found.what;
            EXCEPTION WHEN undefined_object OR undefined_table OR undefined_function OR invalid_schema_name
                OR dependent_objects_still_exist OR syntax_error THEN
            END;
        END LOOP;
    END $$"""

# Those of capture fire always, but for streams that are named here.
_UNCAPTURED: LiteralString = """
    SELECT set_config('exchange.importing', string_agg(substring(prosrc FROM 'IF E?''([^'']*)'' = ANY'), ','), false)
    FROM pg_proc WHERE proname ~ '^exchange_capture_'"""


@dataclass
class _Database:
    """A database of a shape, and what the shape is by the numbers of this database's objects."""

    shape: Hashable
    url: str
    admin: psycopg.Connection
    objects: list[int]
    catalogue: str
    kept: dict[str, bytes]
    """The tables that have rows in this shape, and these as COPY has them."""
    counters: set[tuple[str, int, bool]]
    """The sequences: name, last value, whether it was given out."""


class Cluster:
    """A PostgreSQL server, on which databases are made, lent and taken back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._base = url.rpartition("/")[0]
        self._admin = _connect(url)
        self._templates: dict[Hashable, str] = {}
        self._lent: dict[str, _Database] = {}
        self._free: dict[Hashable, list[_Database]] = defaultdict(list)

    def create(self, template: str = "template0") -> str:
        """Make a database and give its URL."""
        for lent in self._lent.values():
            if lent.url.endswith(f"/{template}"):
                lent.admin.close()  # nobody may be connected to what is copied
        name = f"test_{next(_numbers)}"
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
        return f"{self._base}/{name}"

    def overwrite(self, name: str, copy: str) -> None:
        """Put a database that ``create`` made in the place of another one, whoever is connected to that."""
        self.drop(name)
        template = copy.rpartition("/")[2]
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())

    def drop(self, url: str) -> None:
        """Drop a database, if it is there, whoever is still connected."""
        self._admin.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)".encode())

    def template(self, shape: Hashable, prepare: Prepare, base: Base | None = None) -> str:
        """Prepare a database once per process, to make others from; ``prepare`` gets its URL."""
        if shape not in self._templates:
            url = self.create(self.template(*base)) if base else self.create()
            prepare(url)
            self._templates[shape] = url.rpartition("/")[2]
        return self._templates[shape]

    def lend(self, shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None) -> str:
        """Give the URL of a database as ``prepare`` leaves one of ``base``, or an empty one; to be given back."""
        free = self._free[shape]
        if not free:
            template = self.template(shape, prepare, base) if prepare else "template0"
            free.append(_looked_at(shape, self.create(template)))
        lent = free.pop()
        self._lent[lent.url] = lent
        return lent.url

    def give_back(self, url: str) -> None:
        """Take a database back after its test, whoever is still connected."""
        restored = self.restore(url)
        database = self._lent.pop(url)
        if restored:
            self._free[database.shape].append(database)
        else:
            database.admin.close()
            self.drop(url)

    def restore(self, url: str) -> bool:
        """Bring a database that is lent into its shape again, whoever is connected; False if it has another now."""
        database = self._lent[url]
        try:
            if database.admin.closed:
                database.admin = _connect(url)
            _disconnect_others(database.admin)
            return _restored(database)
        except psycopg.OperationalError:  # a test dropped it, or ended our connection
            return False

    def close(self) -> None:
        """Let go of the server."""
        for database in [*self._lent.values(), *itertools.chain(*self._free.values())]:
            database.admin.close()
        self._admin.close()


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _disconnect_others(admin: psycopg.Connection) -> None:
    """End what others have open, and wait until it is gone: the server's own wait looks ten times a second only."""
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    while admin.execute(ended).fetchall():
        time.sleep(0.001)


def _looked_at(shape: Hashable, url: str) -> _Database:
    admin = _connect(url)
    objects = [int(oid) for oid, _ in admin.execute(_OBJECTS)]
    kept = {name: _content(admin, name) for name in _with_rows(admin)}
    return _Database(shape, url, admin, objects, _catalogue(admin), kept, _counters(admin))


def _catalogue(admin: psycopg.Connection) -> str:
    row = admin.execute(_CATALOGUE).fetchone()
    assert row is not None
    return str(row[0])


def _tables(admin: psycopg.Connection) -> list[tuple[str, int]]:
    """Name the tables, each with its pages."""
    query = (
        "SELECT oid::regclass::text, pg_relation_size(oid) / 8192 FROM pg_class"
        " WHERE oid >= 16384 AND relkind = 'r' AND relpersistence <> 't' AND relnamespace <> 'pg_toast'::regnamespace"
        " AND pg_relation_size(oid) > 0"
    )
    return [(str(name), int(pages)) for name, pages in admin.execute(query)]


def _with_rows(admin: psycopg.Connection) -> dict[str, int]:
    """Name the tables that have rows, each with its pages."""
    pages = dict(_tables(admin))
    if not pages:
        return {}
    asked = " UNION ALL ".join(f"SELECT {_literal(name)} WHERE EXISTS (SELECT FROM {name})" for name in pages)
    return {name: pages[name] for (name,) in admin.execute(asked.encode())}


def _counters(admin: psycopg.Connection) -> set[tuple[str, int, bool]]:
    names = [str(name) for (name,) in admin.execute("SELECT oid::regclass FROM pg_class WHERE relkind = 'S'")]
    if not names:
        return set()
    asked = " UNION ALL ".join(f"SELECT {_literal(name)}, last_value, is_called FROM {name}" for name in names)
    return {(str(name), int(last), bool(called)) for name, last, called in admin.execute(asked.encode())}


def _literal(text: str) -> str:
    return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _content(admin: psycopg.Connection, table: str) -> bytes:
    with admin.cursor() as cursor, cursor.copy(f"COPY {table} TO STDOUT".encode()) as copy:
        return b"".join(map(bytes, copy))


def _restored(database: _Database) -> bool:
    """Bring a database into its shape again; False if that is more than dropping and deleting."""
    admin = database.admin
    if _catalogue(admin) != database.catalogue:
        kept = sql.SQL("{}::oid[]").format(sql.Literal(database.objects))
        admin.execute(sql.SQL(_DROP).format(objects=sql.SQL(_OBJECTS), kept=kept))
        if _catalogue(admin) != database.catalogue:
            return False
    grown = dict(_tables(admin))
    written = _with_rows(admin)
    large = [name for name in grown if name not in database.kept and grown[name] > _FEW_PAGES]
    # Neither foreign keys nor triggers, which guard some tables against just this.
    admin.execute("SET session_replication_role = replica")
    admin.execute(_UNCAPTURED)
    for name in written.keys() - database.kept.keys() - set(large):
        admin.execute(f"DELETE FROM {name}".encode())
    if large:
        admin.execute(f"TRUNCATE {', '.join(large)} CASCADE".encode())
    for name, rows in database.kept.items():
        if _content(admin, name) != rows:
            admin.execute(f"DELETE FROM {name}".encode())
            with admin.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN".encode()) as copy:
                copy.write(rows)
    admin.execute("RESET session_replication_role")
    admin.execute("RESET exchange.importing")
    for counter in database.counters - _counters(admin):
        admin.execute("SELECT setval(%s::regclass, %s, %s)", counter)
    if large:
        database.catalogue = _catalogue(admin)
    return True
