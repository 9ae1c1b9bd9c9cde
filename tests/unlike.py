"""PostgreSQL as others have it: all that our own databases are not.

Behind a PgBouncer that pools transactions; two roles, of which neither is a superuser, one owns the tables and one
works with the rights that `deploy/README.md` lists; a schema of their own, row security, triggers of the application's
on every table, settings of database and role that contradict ours, and encodings that can't store every text.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from exchange.testing import servers
from tests.postgresql import Base, Prepare

OWNER, WORKER = "shop_owner", "exchange_worker"
SCHEMA = "Shop's own"

SETTINGS = {
    "TimeZone": "Asia/Kolkata",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "0",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "synchronous_commit": "off",
    "statement_timeout": "1min",
    "idle_in_transaction_session_timeout": "1min",
    "lock_timeout": "1min",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "backslash_quote": "off",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
    "client_min_messages": "error",
    "plan_cache_mode": "force_generic_plan",
    "check_function_bodies": "off",
}

_TRIGGERS: LiteralString = """
    CREATE TABLE {schema}.written (id bigserial, what text);
    CREATE FUNCTION {schema}.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$BEGIN INSERT INTO {schema}.written (what) VALUES (TG_TABLE_NAME); RETURN NULL; END$$;
    CREATE FUNCTION {schema}.leave() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RETURN NEW; END$$"""

_ON_EACH_TABLE: LiteralString = """
    CREATE TRIGGER a_note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.note();
    CREATE TRIGGER a_leave BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.leave();
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY none ON {table} USING (false)"""

_GRANTS: LiteralString = """
    GRANT USAGE ON SCHEMA {schema} TO {worker};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {worker};
    REVOKE UPDATE, DELETE ON {schema}.exchange_audit FROM {worker};
    GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {worker}"""


@contextlib.contextmanager
def pgbouncer(server: str) -> Iterator[str]:
    """Run one in front of a server, pooling transactions, and give the URL that leads through it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    user = servers._unprivileged()
    host, _, port = server.rpartition("/")[0].rpartition("@")[2].partition(":")
    with servers._folder("bouncer-", user) as folder:
        ours = servers.free_port()
        (folder / "users").write_text(f'"{OWNER}" ""\n"{WORKER}" ""\n')
        (folder / "settings").write_text(
            f"[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {ours}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
            "default_pool_size = 4\nserver_idle_timeout = 1\n"
        )
        command = [*user.prefix, program, f"{folder}/settings"]
        guard = servers._start_guard(folder, command, signal.SIGINT, user)
        assert guard.stdin is not None
        try:
            if not servers._until_ready(ours, guard, _answers):
                raise servers.ServerFailed((folder / "server.log").read_text())
            yield f"postgresql+psycopg://{{role}}@127.0.0.1:{ours}/{{database}}"
        finally:
            guard.stdin.close()
            guard.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


class UnlikeDatabases:
    """Makes such databases, each in an encoding of its own."""

    def __init__(self, server: str, bouncer: str, encoding: str) -> None:
        self._server, self._bouncer, self._encoding = server, bouncer, encoding
        self.made: list[str] = []

    def fresh(self, _kind: str, _shape: object = None, prepare: Prepare | None = None, base: Base | None = None) -> str:
        """Give the worker's URL of one that ``base`` and ``prepare`` made as the owner."""
        name = f"unlike_{self._encoding.lower()}"
        self.made.append(name)
        names = {"schema": sql.Identifier(SCHEMA), "worker": sql.Identifier(WORKER), "owner": sql.Identifier(OWNER)}
        with self.admin("postgres") as admin:
            for role, more in ((OWNER, ""), (WORKER, "BYPASSRLS")):
                if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchall():
                    admin.execute(f"CREATE ROLE {role} LOGIN {more}".encode())
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{self._encoding}' LOCALE 'C'".encode())
            for setting, value in SETTINGS.items():
                for whose in (f"DATABASE {name}", f"ROLE {WORKER} IN DATABASE {name}"):
                    admin.execute(f"ALTER {whose} SET {setting} = '{value}'".encode())
            for role in (OWNER, WORKER):
                path = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}, public").format(
                    sql.Identifier(role), sql.Identifier(name), names["schema"]
                )
                admin.execute(path)
        with self.admin(name) as admin:
            admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            admin.execute(sql.SQL("CREATE SCHEMA {schema} AUTHORIZATION {owner}").format(**names))
        for step in (base[1] if base else None, prepare):
            if step is not None:
                step(self._bouncer.format(role=OWNER, database=name))
        with self.admin(name) as admin:
            admin.execute(sql.SQL(_TRIGGERS).format(**names))
            tables = admin.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = %s::regnamespace"
                " AND relname <> 'written' AND relname NOT LIKE 'exchange%%' AND NOT relispartition",
                [f'"{SCHEMA}"'],
            ).fetchall()
            for (table,) in tables:
                admin.execute(sql.SQL(_ON_EACH_TABLE).format(table=sql.Identifier(SCHEMA, table), **names))
            admin.execute(sql.SQL(_GRANTS).format(**names))
        return self._bouncer.format(role=WORKER, database=name)

    def admin(self, database: str) -> psycopg.Connection:
        """Connect as the superuser, past PgBouncer and the database's settings."""
        url = f"{self._server.rpartition('/')[0]}/{database}".replace("+psycopg", "")
        options = "-c default_transaction_read_only=off -c search_path= -c client_encoding=utf8"
        return psycopg.connect(url, autocommit=True, options=options)

    def drop(self) -> None:
        """Drop what was made."""
        with self.admin("postgres") as admin:
            for name in self.made:
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
