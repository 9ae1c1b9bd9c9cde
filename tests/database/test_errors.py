from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from exchange.cli import runtime
from exchange.database.engine import make_engine
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import change
from exchange.format.errors import TransientError
from exchange.testing import servers


def test_a_database_without_our_tables_is_answered_with_one_sentence(engine: Engine) -> None:
    with pytest.raises(TransientError, match="exchange migrate"), transient_errors(), reading(engine) as connection:
        connection.execute(sa.select(change))


def test_whatever_a_database_refuses_is_told_a_person_in_one_sentence(engine: Engine) -> None:
    asked = "SELECT json('{')" if engine.dialect.name == "sqlite" else "SELECT 1 / 0"
    with pytest.raises(DBAPIError) as refused, reading(engine) as connection:
        connection.execute(sa.text(asked))
    [sentence] = runtime.explained(refused.value)[0]
    assert sentence.startswith("the database refused it: ")
    assert sentence.endswith("; what was not committed is undone")
    assert runtime.explained(KeyError("a fault of ours"))[0] == []


def refusal(url: sa.URL) -> str:
    """Give the sentence of a connection that is refused."""
    engine = make_engine(url.render_as_string(hide_password=False))
    with pytest.raises(TransientError) as refused, transient_errors(), engine.connect():
        pass
    return str(refused.value)


def test_a_file_that_this_user_can_not_use_is_a_thing_to_mend(tmp_path: Path) -> None:
    said = refusal(sa.make_url(f"sqlite:///{tmp_path}/nowhere/exchange.db"))
    assert said.startswith("the database's file can't be used: unable to open database file; see that it is there")
    assert "tries again" not in said


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.URL]:
    """Give a server that asks for passwords, and has somebody for every reason to be refused."""
    allowed = "host all postgres,nologin,full 127.0.0.1/32 trust\nhost all worker 127.0.0.1/32 scram-sha-256\n"
    hba = tmp_path_factory.mktemp("hba") / "pg_hba.conf"
    hba.write_text(f"local all all trust\n{allowed}")
    hba.parent.chmod(0o755)
    hba.parent.parent.chmod(0o755)
    with servers.postgres(hba_file=str(hba)) as url:
        engine = make_engine(url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for made in ("nologin", "worker LOGIN PASSWORD 'right'", "full LOGIN CONNECTION LIMIT 0", "stranger LOGIN"):
                connection.execute(sa.text(f"CREATE ROLE {made}"))
            connection.execute(sa.text("CREATE DATABASE closed"))
            connection.execute(sa.text("REVOKE CONNECT ON DATABASE closed FROM public"))
        engine.dispose()
        yield sa.make_url(url)


SETTINGS_TO_MEND = {
    'password authentication failed for user "worker"': {"username": "worker", "password": "wrong"},
    "no password supplied": {"username": "worker"},
    'role "nologin" is not permitted to log in': {"username": "nologin"},
    'no pg_hba.conf entry for host "127.0.0.1", user "stranger"': {"username": "stranger"},
    'database "nowhere" does not exist': {"database": "nowhere"},
    'permission denied for database "closed"': {"username": "worker", "password": "right", "database": "closed"},
    "server does not support SSL, but SSL was required": {"query": {"sslmode": "require"}},
}


@pytest.mark.thorough
@pytest.mark.parametrize("words", SETTINGS_TO_MEND)
def test_whoever_is_not_let_in_is_told_of_a_setting_to_mend_and_not_that_it_is_tried_again(
    strict: sa.URL, words: str
) -> None:
    said = refusal(strict.set(**SETTINGS_TO_MEND[words]))  # type: ignore[arg-type]
    assert said.startswith("the database does not let us in: connection failed")
    assert words in said
    assert "mend EXCHANGE_DATABASE_URL, or the role and its rights at the server" in said
    assert "tries again" not in said


@pytest.mark.thorough
def test_too_many_connections_and_a_server_that_is_away_end_by_themselves(strict: sa.URL) -> None:
    assert "too many connections" in (said := refusal(strict.set(username="full")))
    assert said.endswith("the next run tries again")
    assert refusal(strict.set(port=1)).endswith("the next run tries again")
