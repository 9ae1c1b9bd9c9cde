"""A database that can't be used as it is: what is said of it, by every command alike."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from exchange.testing import servers
from tests.cli.conftest import Side, settle
from tests.databases import Databases

pytestmark = pytest.mark.postgres

COMMANDS = ("migrate", "status", "export", "import", "prune", "reconcile")


@pytest.fixture
def made(side: Side, databases: Databases) -> Iterator[Side]:
    """Give a side with a database, and a role that may do nothing in it."""
    side.do("init")
    settle(side, databases, "migrate", kind="postgresql")
    with psycopg.connect(side.database_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("CREATE ROLE nobody_here LOGIN")
        yield side
        admin.execute("DROP OWNED BY nobody_here")
        admin.execute("DROP ROLE nobody_here")


def _as_nobody(url: str) -> str:
    return url.replace("postgres@", "nobody_here@")


def test_each_command_says_what_keeps_it_from_the_database(made: Side) -> None:
    url = made.database_url
    server, _, name = url.rpartition("/")
    elsewhere = server.rpartition(":")[0]
    for given, said in (
        (_as_nobody(url), "does not let this role do that: permission denied for table"),
        (f"{server}/{name}_gone", "does not exist"),
        (f"{elsewhere}:1/{name}", "Connection refused"),
    ):
        for command in COMMANDS:
            assert said in made.refused(command, code=1, EXCHANGE_DATABASE_URL=given)


def test_tables_that_a_role_does_not_find_are_not_made_a_second_time(made: Side) -> None:
    url = made.database_url
    name = url.rpartition("/")[2]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE nobody_here IN DATABASE {name} SET search_path = ''".encode())
        said = made.refused("migrate", code=1, EXCHANGE_DATABASE_URL=_as_nobody(url))
        assert "tables lie in schema public, which this role's search_path does not reach" in said
        admin.execute("CREATE SCHEMA own AUTHORIZATION nobody_here")
        admin.execute(f"ALTER ROLE nobody_here IN DATABASE {name} SET search_path = own".encode())
        assert "tables lie in schema public" in made.refused("migrate", code=1, EXCHANGE_DATABASE_URL=_as_nobody(url))
        admin.execute("ALTER TABLE exchange_network RENAME TO other_network")
        admin.execute(f"ALTER ROLE nobody_here IN DATABASE {name} SET search_path = ''".encode())
        said = made.refused("migrate", code=1, EXCHANGE_DATABASE_URL=_as_nobody(url))
        assert "this role's search_path leads to no schema" in said


@contextmanager
def standby(folder: Path) -> Iterator[str]:
    """Run a server that only replays, in a copy of what another one left."""
    user = servers._unprivileged()
    with servers.postgres() as url, psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as admin:
        [(data,)] = admin.execute("SHOW data_directory").fetchall()
        admin.execute("SELECT pg_backup_start('standby', true)")
        shutil.copytree(data, folder)
        [(label,)] = admin.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchall()
        shutil.copytree(Path(data) / "pg_wal", folder / "pg_wal", dirs_exist_ok=True)
    (folder / "backup_label").write_text(label)
    (folder / "postmaster.pid").unlink(missing_ok=True)
    (folder / "standby.signal").touch()
    folder.chmod(0o700)
    port = servers.free_port()
    command = [*user.prefix, str(servers._postgres_binary("postgres")), "-D", str(folder), "-p", str(port)]
    with subprocess.Popen([*command, "-h", "127.0.0.1", "-k", ""], stderr=subprocess.DEVNULL) as server:
        try:
            while not servers._postgres_answers(port):
                assert server.poll() is None
                time.sleep(0.05)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()


@pytest.mark.torture
def test_a_standby_can_be_read_and_says_so_where_something_is_written(side: Side, tmp_path: Path) -> None:
    side.do("init")
    with standby(tmp_path / "data") as url:
        assert "the database is a standby" in side.refused("migrate", code=1, EXCHANGE_DATABASE_URL=url)
        assert "`exchange migrate`" in side.refused("status", code=1, EXCHANGE_DATABASE_URL=url)
