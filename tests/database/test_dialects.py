from __future__ import annotations

import ast
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import mysql

from exchange.database import dialects

PACKAGE = Path(dialects.__file__).parents[1]


def test_which_database_it_is_is_asked_nowhere_else() -> None:
    asking = [
        f"{path}, line {node.lineno}: {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(dialects.__file__)
        for text in [path.read_text()]
        if "dialect.name" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Compare, ast.Subscript, ast.Assign)) and "dialect.name" in ast.unparse(node)
    ]

    assert not asking, "ask exchange.database.dialects.dialect_of"


def test_a_connection_its_engine_and_its_dialect_are_of_one_database(engine: Engine) -> None:
    with engine.connect() as connection:
        assert dialects.dialect_of(engine) is dialects.dialect_of(connection) is dialects.dialect_of(engine.dialect)


def test_no_other_database_is_known() -> None:
    with pytest.raises(ValueError, match="not on mysql"):
        dialects.dialect_of(mysql.dialect())


def test_upsert_writes_the_row_of_a_key_once(engine: Engine) -> None:
    table = sa.Table(
        "word", sa.MetaData(), sa.Column("key", sa.Text, primary_key=True), sa.Column("said", sa.Text, nullable=False)
    )
    with engine.begin() as connection:
        table.create(connection)
        for said in ("yes", "no"):
            dialects.upsert(connection, table, {"key": "a"}, {"said": said})

        assert connection.execute(sa.select(table)).all() == [("a", "no")]
