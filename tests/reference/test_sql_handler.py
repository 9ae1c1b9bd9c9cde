from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.database.engine import make_engine, now
from exchange.reference.handlers import Later, Question, Refused, Sources, load_handlers
from exchange.reference.sql_handler import look_at_database
from tests.databases import Databases

FILE = """
[warmest]
sql = "SELECT press, taken FROM reading WHERE press >= :press AND taken <= :until ORDER BY press"
rows = 3
[warmest.parameters]
press = { type = "integer", minimum = 1, maximum = 40 }
until = { type = "datetime", default = "2027-01-01T00:00:00.000000Z", maximum = 2027-01-01T00:00:00Z }

[exact]
sql = "SELECT * FROM kinds"

[named]
sql = "SELECT press FROM reading WHERE name = :name"
[named.parameters.name]
type = "text"
longest = 20

[optional]
sql = "SELECT count(*) FROM reading WHERE name = :name OR :name IS NULL"
[optional.parameters.name]
type = "text"
optional = true

[slow]
sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
seconds = 0.3

[large]
sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT 'xxxxxxxxxxxxxxxx' FROM n"
rows = 100000
bytes = 2000

[writing]
sql = "{writing}"
"""

WRITING = {
    "sqlite": "DELETE FROM reading",
    "postgresql": "WITH gone AS (DELETE FROM reading RETURNING 1) SELECT count(*) FROM gone",
}


READINGS = ((1, "a", "2026-11-22"), (7, "b", "2026-11-23"), (8, "c", "2026-11-24"), (9, "d", "2026-11-25"))

KINDS = {
    "sqlite": "SELECT 9223372036854775807 AS big, 0.1 AS f, 'ü' AS t, x'00ff' AS raw, NULL AS missing",
    "postgresql": "SELECT 12345678901234567890.10::numeric AS n, '2026-11-22 06:15:00.5+01'::timestamptz AS at,"
    " date '2026-11-22' AS day, '\\x00ff'::bytea AS raw, 9223372036854775807 AS big, true AS yes, 0.1::float8 AS f,"
    " '5f1c7b9e-0000-4000-8000-000000000001'::uuid AS id, NULL::int AS missing, interval '1 day 2 hours' AS during,"
    " '{\"a\": [1, 0.10000000000000000000001]}'::jsonb AS doc, array[1, 2] AS list",
}


def kind_of(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]


def _prepare(url: str) -> None:
    engine = make_engine(url)
    moment = {"sqlite": "text", "postgresql": "timestamptz"}[kind_of(url)]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE reading (press integer, name text, taken {moment})")
        for press, name, day in READINGS:
            values = f"{press}, '{name}', '{day} 06:15:00.000000'"
            connection.exec_driver_sql(f"INSERT INTO reading VALUES ({values})")
        connection.exec_driver_sql(f"CREATE TABLE kinds AS {KINDS[kind_of(url)]}")
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    return databases.fresh(request.param, "readings", _prepare)


def sources(url: str, folder: Path, text: str = FILE) -> Sources:
    file = folder / "queries.toml"
    file.write_text(text.replace("{writing}", WRITING[kind_of(url)]))
    return Sources(queries=file, database_url=url)


@pytest.fixture
def ask(url: str, tmp_path: Path) -> Callable[..., Any]:
    handlers = load_handlers("sql", sources(url, tmp_path))

    def asked(query: str, **parameters: Any) -> Any:
        return handlers.pick("any").handle(question(query, parameters))

    return asked


def question(query: str, parameters: dict[str, Any], kind: str = "sql") -> Question:
    return Question(uuid.uuid4(), "ada", kind, query, parameters, 5, now())


def test_a_query_gives_its_rows_and_says_where_there_are_more(ask: Callable[..., Any]) -> None:
    found = ask("warmest", press=8)
    assert found["columns"] == ["press", "taken"]
    assert [row[0] for row in found["rows"]] == [8, 9]
    assert found["truncated"] is None
    found = ask("warmest", press=1)
    assert [row[0] for row in found["rows"]] == [1, 7, 8]
    assert found["truncated"] == "there are more than 3 rows, these are the first"
    found = ask("large")
    assert 20 < len(found["rows"]) < 100
    assert "more than 2000 bytes" in found["truncated"]
    assert ask("warmest", press=1, until="2026-11-23T02:00:00+02:00")["rows"][0][0] == 1


def test_values_are_as_records_have_them(ask: Callable[..., Any], url: str) -> None:
    row = dict(zip((found := ask("exact"))["columns"], found["rows"][0], strict=True))
    assert (row["big"], row["f"], row["raw"], row["missing"]) == (9223372036854775807, 0.1, "AP8=", None)
    if url.startswith("postgresql"):
        assert (row["n"], row["at"], row["day"]) == (
            "12345678901234567890.10",
            "2026-11-22T05:15:00.500000Z",
            "2026-11-22",
        )
        assert (row["yes"], row["id"]) == (True, "5f1c7b9e-0000-4000-8000-000000000001")
        assert row["doc"] == '{"a":[1,0.10000000000000000000001]}'
        assert (row["list"], row["during"]) == ("{1,2}", "P1DT2H")
    else:
        assert row["t"] == "ü"


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize(
    "query, parameters, sentence",
    [
        ("coldest", {}, "there is no query 'coldest', only exact, large"),
        ("warmest", {}, "the parameter press: expected an integer from 1 to 40, found nothing"),
        ("warmest", {"press": 0}, "expected an integer from 1 to 40, found 0"),
        ("warmest", {"press": "1 OR 1=1"}, "press: expected a whole number"),
        ("warmest", {"press": 1, "until": "2030-01-01T00:00:00Z"}, "the parameter until: expected a datetime"),
        ("warmest", {"press": 1, "unit": "F"}, "has no parameter 'unit'; its parameters are press, until"),
        ("named", {"name": "x" * 21}, "expected a text of at most 20 characters"),
        ("named", {"name": "a\0b"}, "the parameter name: expected"),
        ("named", {"name": ["a"]}, "the parameter name: expected"),
    ],
)
def test_what_a_query_does_not_take_is_refused(
    ask: Callable[..., Any], query: str, parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        ask(query, **parameters)
    assert sentence in str(refused.value)


def test_a_parameter_is_bound_whatever_is_in_it(ask: Callable[..., Any]) -> None:
    for name in ("a' OR '1'='1", 'a"; --', ":name", "%s", "a\\' --"):
        assert ask("named", name=name)["rows"] == []
    assert ask("named", name="a")["rows"] == [[1]]
    assert ask("optional")["rows"] == [[4]]
    assert ask("optional", name="a")["rows"] == [[1]]


def test_the_database_itself_keeps_a_query_from_writing(ask: Callable[..., Any], url: str) -> None:
    with pytest.raises(Refused, match="the query writing"):
        ask("writing")
    engine = make_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM reading")) == 4
    engine.dispose()


HOSTILE = {
    "sqlite": (
        "ATTACH '{folder}/other.db' AS other",
        "PRAGMA query_only = OFF",
        "SELECT 1; DELETE FROM reading",
        "SELECT load_extension('x')",
        "VACUUM INTO '{folder}/other.db'",
    ),
    "postgresql": (
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT 1; COMMIT; DELETE FROM reading",
        "COPY reading TO PROGRAM 'true'",
        "SELECT nextval('numbers')",
        "CREATE TABLE other (n integer)",
        "SELECT * FROM reading FOR UPDATE",
    ),
}


def test_nothing_but_reading_passes(url: str, tmp_path: Path) -> None:
    for sql in HOSTILE[kind_of(url)]:
        text = f'[hostile]\nsql = "{sql.replace("{folder}", str(tmp_path))}"\n'
        handlers = load_handlers("sql", sources(url, tmp_path, text))
        with pytest.raises(Refused, match="the query hostile"):
            handlers.pick("any").handle(question("hostile", {}))
    assert not (tmp_path / "other.db").exists()


def test_a_query_that_takes_too_long_is_cancelled_at_the_server(ask: Callable[..., Any], url: str) -> None:
    with pytest.raises(Refused, match=r"the query slow took longer than 0\.3 seconds and was cancelled"):
        ask("slow")
    if url.startswith("postgresql"):
        engine = make_engine(url)
        with engine.connect() as connection:
            going = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'exchange sql' AND state = 'active'"
            )
            assert connection.scalar(going) == 0
        engine.dispose()


@pytest.mark.parametrize("away", ["sqlite:////nowhere/none.db", "postgresql://nobody:x@127.0.0.1:1/none"])
def test_a_database_that_is_away_is_no_answer(away: str, tmp_path: Path) -> None:
    text = '[one]\nsql = "SELECT 1"\n'
    made = sources(away, tmp_path, text)
    with pytest.raises(Later, match="its database can't be asked") as later:
        load_handlers("sql", made).pick("any").handle(question("one", {}))
    assert later.value.tries is None
    with pytest.raises(Later):
        look_at_database(made)


def test_a_text_that_is_not_utf8_is_refused_with_its_column(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "bad.db") as connection:
        connection.execute("CREATE TABLE t AS SELECT CAST(x'ff' AS TEXT) AS bad")
    made = sources(f"sqlite:///{tmp_path}/bad.db", tmp_path, '[bad]\nsql = "SELECT bad FROM t"\n')
    with pytest.raises(Refused, match="the query bad: bad: expected"):
        load_handlers("sql", made).pick("any").handle(question("bad", {}))


def test_doctor_has_the_database_look_at_each_query(url: str, tmp_path: Path) -> None:
    said = look_at_database(sources(url, tmp_path, '[one]\nsql = "SELECT 1"\n'))
    assert said.startswith("1 query of ")
    assert said.endswith("its role is a superuser's: give it one that may only SELECT") is (kind_of(url) != "sqlite")
    with pytest.raises(ValueError, match=r"queries.toml: the query one failed: .*nothing_of_this_name"):
        look_at_database(sources(url, tmp_path, '[one]\nsql = "SELECT nothing_of_this_name"\n'))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "it has no query"),
        ("[one]", "[one]: expected sql, a text, found none"),
        ("one = 1", "[one]: expected a table, found 1"),
        ("[one", "it is no TOML"),
        ('[one]\nsql = "SELECT :a"', "its sql has, but its parameters lack :a"),
        ('[one]\nsql = "SELECT 1"\nparameters.a = { type = "text" }', "its sql lacks :a"),
        ('[one]\nsql = "SELECT 1"\nlimit = 5', "'limit' is nothing that is read here"),
        ('[one]\nsql = "SELECT 1"\nrows = 0', "rows: expected a whole number from 1"),
        ('[one]\nsql = "SELECT 1"\nseconds = 30', "seconds: expected a number of seconds above 0 and below 30"),
        ('[one]\nsql = "SELECT :a"\nparameters.a = { type = "money" }', "type: expected one of text, integer"),
        ('[one]\nsql = "SELECT :a"\nparameters.a = { type = "date", minimum = "soon" }', "minimum: expected a date"),
        ('[one]\nsql = "SELECT :a"\nparameters.a = { type = "text", minimum = 1 }', "minimum: a text has none"),
    ],
)
def test_a_file_of_queries_that_makes_no_sense_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as fault:
        load_handlers("sql", sources("sqlite:///x.db", tmp_path, text))
    assert sentence in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_file_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    made = sources("sqlite:///x.db", tmp_path)
    assert made.queries is not None
    made.queries.chmod(0o666)
    with pytest.raises(ValueError, match="found mode 0666"):
        load_handlers("sql", made)
    with pytest.raises(ValueError, match="needs EXCHANGE_HANDLER_QUERIES"):
        load_handlers("sql", Sources())


@pytest.mark.same_on("postgresql")
def test_of_several_handlers_the_kind_takes_one(database: Engine, tmp_path: Path) -> None:
    made = sources(database.url.render_as_string(hide_password=False), tmp_path, '[one]\nsql = "SELECT 1"\n')
    handlers = load_handlers("sql, reports = sql, echo, exchange.reference.handlers:echo", made)
    assert [handlers.pick(kind).name for kind in ("sql", "reports", "echo", "other")] == [
        *("sql", "sql", "exchange.reference.handlers:echo", "exchange.reference.handlers:echo")
    ]
    with pytest.raises(Refused, match="nothing here answers requests of the kind 'other', only echo, sql"):
        load_handlers("sql,echo", made).pick("other")
    with pytest.raises(ValueError, match="the kind sql has two handlers"):
        load_handlers("sql,sql=echo", made)
    with pytest.raises(ValueError, match="all other kinds has two handlers"):
        load_handlers("echo,exchange.reference.handlers:echo,exchange.reference.handlers:echo", made)
