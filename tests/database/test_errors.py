from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from exchange.cli import runtime
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import change
from exchange.format.errors import TransientError


def test_a_database_without_our_tables_is_answered_with_one_sentence(engine: Engine) -> None:
    with pytest.raises(TransientError, match="exchange migrate"), transient_errors(), reading(engine) as connection:
        connection.execute(sa.select(change))


def test_whatever_a_database_refuses_is_told_a_person_in_one_sentence(engine: Engine) -> None:
    asked = "SELECT json('{')" if engine.dialect.name == "sqlite" else "SELECT 1 / 0"
    with pytest.raises(DBAPIError) as refused, reading(engine) as connection:
        connection.execute(sa.text(asked))
    [sentence] = runtime._explained(refused.value)[0]
    assert sentence.startswith("the database refused it: ")
    assert sentence.endswith("; what was not committed is undone")
    assert runtime._explained(KeyError("a fault of ours"))[0] == []
