"""A receiving table that is not as the model says, or changes and drops rows: its records are parked, others apply."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from exchange.channels import Channel, Stream
from exchange.database import tables
from exchange.database.locks import reading
from exchange.format.errors import Reason, Verdict
from exchange.tables.loader.fitness import unfit, unwritable
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, trusted_forger
from tests.crossing.forging import Forger, delete, upsert
from tests.crossing.sides import Side, quick_engine
from tests.databases import Databases

FIRST = 1_700_000_000_000_000


@dataclass(frozen=True)
class Case:
    """A stricter table: what made it so, a value that it takes, one that it does not, and words of the reason."""

    kind: Any
    ddl: str
    good: Any
    bad: Any
    why: str
    also_new: bool = True
    """Whether it refuses new rows, too, and not only changed ones."""


POSTGRESQL = {
    "an_enum": Case(
        sa.Enum("well", "ill", "tired", "calm", name="moods", native_enum=False),
        "CREATE TYPE mood AS ENUM ('well', 'ill'); ALTER TABLE {t} ALTER v TYPE mood USING v::mood",
        "well",
        "tired",
        "enum mood",
    ),
    "a_smaller_integer": Case(sa.BigInteger(), "ALTER TABLE {t} ALTER v TYPE smallint", 5, 70_000, "smallint"),
    "a_shorter_text": Case(sa.Text(), "ALTER TABLE {t} ALTER v TYPE varchar(5)", "short", "too long", "varying(5)"),
    "cut_blanks": Case(sa.Text(), "ALTER TABLE {t} ALTER v TYPE varchar(5)", "short", "cut    ", "keeps less"),
    "a_smaller_numeric": Case(
        sa.Numeric(12, 2), "ALTER TABLE {t} ALTER v TYPE numeric(4,2)", "1.25", "123.00", "overflow"
    ),
    "a_rounded_numeric": Case(
        sa.Numeric(12, 2), "ALTER TABLE {t} ALTER v TYPE numeric(12,1)", "1.50", "1.25", "keeps less"
    ),
    "a_rounded_element": Case(
        postgresql.ARRAY(sa.Numeric(12, 2)),
        "ALTER TABLE {t} ALTER v TYPE numeric(12,1)[]",
        ["1.50"],
        ["1.25"],
        "keeps less",
    ),
    "a_single_float": Case(sa.Double(), "ALTER TABLE {t} ALTER v TYPE real", 0.5, 0.1, "keeps less"),
    "whole_seconds": Case(
        sa.DateTime(),
        "ALTER TABLE {t} ALTER v TYPE timestamp(0)",
        "2026-01-01T00:00:00.000000",
        "2026-01-01T00:00:00.500000",
        "keeps less",
    ),
    "a_domain": Case(
        sa.Integer(),
        "CREATE DOMAIN even AS int NOT NULL CHECK (VALUE % 2 = 0); ALTER TABLE {t} ALTER v TYPE even",
        2,
        3,
        "even",
    ),
    "not_null": Case(sa.Text(), "ALTER TABLE {t} ALTER v SET NOT NULL", "x", None, "null value"),
    "an_index_row": Case(
        sa.Text(), "CREATE INDEX ON {t} (v)", "x", "".join(map(chr, range(0x4E00, 0x9F00))), "index row"
    ),
    "an_exclusion": Case(
        sa.Text(),
        "ALTER TABLE {t} ADD CONSTRAINT no_two EXCLUDE USING hash (v WITH =) WHERE (v = 'one')",
        "one",
        "one",
        "no_two",
    ),
    "a_late_exclusion": Case(
        sa.Text(),
        "ALTER TABLE {t} ADD CONSTRAINT not_two EXCLUDE USING hash (v WITH =) WHERE (v = 'one')"
        " DEFERRABLE INITIALLY DEFERRED",
        "one",
        "one",
        "not_two",
    ),
    "nulls_not_distinct": Case(
        sa.Text(), "CREATE UNIQUE INDEX one_null ON {t} (v) NULLS NOT DISTINCT", None, None, "one_null"
    ),
    "an_expression": Case(sa.Text(), "CREATE UNIQUE INDEX one_case ON {t} (lower(v))", "a", "A", "one_case"),
    "a_partial_index": Case(sa.Text(), "CREATE UNIQUE INDEX one_x ON {t} (v) WHERE v = 'x'", "x", "x", "one_x"),
    "a_late_trigger": Case(
        sa.Text(),
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'bad' THEN"
        " RAISE EXCEPTION 'late it is'; END IF; RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION late()",
        "good",
        "bad",
        "late it is",
    ),
    "an_inner_fault": Case(
        sa.Text(),
        "CREATE FUNCTION inner_fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'bad' THEN"
        " RAISE EXCEPTION 'inside' USING ERRCODE = 'XX000'; ELSIF NEW.v = 'worse' THEN PERFORM 1 FROM nowhere;"
        " END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER inner_fault BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION inner_fault()",
        "good",
        "bad",
        "inside",
    ),
    "a_trigger_that_reads_nowhere": Case(
        sa.Text(),
        "CREATE TRIGGER inner_fault BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION inner_fault()",
        "good",
        "worse",
        "nowhere",
    ),
    "a_stack_too_deep": Case(
        sa.Text(),
        "CREATE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN deep(n + 1); END $$;"
        " CREATE FUNCTION dive() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'deep' THEN"
        " PERFORM deep(1); END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER dive BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION dive()",
        "flat",
        "deep",
        "stack depth",
    ),
    "dropped": Case(
        sa.Text(),
        "CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_OP = 'DELETE' THEN"
        " RETURN CASE WHEN OLD.v = 'eaten' THEN NULL ELSE OLD END; END IF;"
        " RETURN CASE WHEN NEW.v = 'eaten' THEN NULL ELSE NEW END; END $$;"
        " CREATE TRIGGER eater BEFORE INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION eat()",
        "kept",
        "eaten",
        "eater",
    ),
    "a_generated_column": Case(
        sa.Text(),
        "ALTER TABLE {t} DROP v, ADD v text GENERATED ALWAYS AS ('x') STORED",
        None,
        "x",
        "generated",
    ),
    "no_partition": Case(
        sa.Text(),
        "DROP TABLE {t};"
        "CREATE TABLE {t} (id int PRIMARY KEY, v text, exchange_version bigint) PARTITION BY LIST (id);"
        " CREATE TABLE {t}_odd PARTITION OF {t} FOR VALUES IN (1, 3)",
        "x",
        "x",
        "no partition of relation",
    ),
    "a_late_key": Case(
        sa.Text(),
        "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey,"
        " ADD CONSTRAINT {t}_pkey PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED",
        "x",
        ...,
        "",
    ),
    "no_key": Case(sa.Text(), "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey", "x", ..., ""),
    "an_identity": Case(
        sa.Text(), "ALTER TABLE {t} ALTER id DROP DEFAULT, ALTER id ADD GENERATED ALWAYS AS IDENTITY", "x", ..., ""
    ),
    "rules": Case(
        sa.Text(),
        "CREATE TABLE seen (id int); CREATE RULE r AS ON UPDATE TO {t} DO ALSO INSERT INTO seen VALUES (NEW.id)",
        "x",
        ...,
        "",
    ),
}


def shape(cases: dict[str, Case]) -> tuple[sa.MetaData, tuple[Channel, ...]]:
    metadata = sa.MetaData()
    for name, case in cases.items():
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", case.kind))
    streams = [Stream(table) for table in metadata.sorted_tables]
    return metadata, (Channel("forth", "one", "two", streams),)


def letters(side: Side) -> dict[str, list[str]]:
    """Give the sentences of each stream's letters."""
    found: dict[str, list[str]] = {}
    for stream, message in side.all(sa.select(tables.dead_letter.c.stream, tables.dead_letter.c.message)):
        found.setdefault(stream, []).append(message)
    return found


def ask(side: Side, query: str) -> list[Any]:
    with reading(side.engine) as connection:
        return list(connection.execute(sa.text(query)))


def values(side: Side, table: str) -> list[Any]:
    return ask(side, f"SELECT id, CAST(v AS text) FROM {table} ORDER BY id")


@pytest.fixture
def unlike(tmp_path: Path, databases: Databases) -> Iterator[Side]:
    """Give a receiver on PostgreSQL, each of whose tables is stricter than its model."""
    metadata, channels = shape(POSTGRESQL)
    side = Side("two", "one", databases, "postgresql", tmp_path / "two", channels, metadata=metadata)
    side.limit(invalid_share=1.0)
    with side.engine.begin() as connection:
        for name, case in POSTGRESQL.items():
            connection.exec_driver_sql(case.ddl.replace("{t}", name), execution_options={"no_parameters": True})
    yield side
    side.engine.dispose()


@needs_postgres
def test_what_a_stricter_table_refuses_is_parked_with_its_reason_and_the_rest_applies(unlike: Side) -> None:
    forger = trusted_forger(unlike)
    bad = {name: case for name, case in POSTGRESQL.items() if case.bad is not ...}
    records = [
        upsert(name, FIRST + at, id=number, v=case.bad if number == 2 and name in bad else spread(case, number))
        for at, (name, case) in enumerate(POSTGRESQL.items())
        for number in (1, 2, 3)
    ]
    forger.send(records)

    (done,) = unlike.take_in().batches

    said = letters(unlike)
    assert done.verdict is Verdict.APPLIED, done.message
    assert said.keys() == bad.keys()
    assert {name: said[name] for name in bad if POSTGRESQL[name].why not in said[name][0]} == {}
    assert {name: len(some) for name, some in said.items() if len(some) != 1} == {"a_generated_column": 3}
    assert done.records.applied == len(records) - len(bad) - 2


def spread(case: Case, number: int) -> Any:
    """Give the good value once where no two rows may have it."""
    alone = number == 1 or any(word in case.ddl for word in ("UNIQUE", "EXCLUDE")) is False
    return case.good if alone else "else"


@needs_postgres
def test_changes_of_rows_that_are_there_fare_no_worse(unlike: Side) -> None:
    cases = {
        name: case
        for name, case in POSTGRESQL.items()
        if name not in {"a_generated_column", "an_identity", "no_partition"}
    }
    bad = {name for name, case in cases.items() if case.bad is not ...}
    forger = trusted_forger(unlike)
    forger.send([upsert(n, FIRST, id=one, v=spread(case, one)) for n, case in cases.items() for one in (1, 3)])
    assert {one.verdict for one in unlike.take_in().batches} == {Verdict.APPLIED}
    assert letters(unlike) == {}
    before = {name: values(unlike, name) for name in cases}

    forger.send(
        [
            upsert(name, FIRST + one, id=one, v=case.bad if one == 3 and name in bad else spread(case, one))
            for name, case in cases.items()
            for one in (1, 3)
        ]
    )
    (done,) = unlike.take_in().batches

    assert done.verdict is Verdict.APPLIED, done.message
    assert letters(unlike).keys() == bad
    assert done.records.applied == 2 * len(cases) - len(bad)
    assert {name: values(unlike, name) for name in cases} == before

    forger.send([delete(name, FIRST + 9, id=1) for name in cases])
    (done,) = unlike.take_in().batches

    assert done.records.applied == len(cases), done.message
    assert {name for name in cases if len(values(unlike, name)) != 1} == set()


@needs_postgres
def test_what_a_trigger_changes_or_drops_is_said_with_its_name(unlike: Side) -> None:
    with unlike.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO dropped (id, v) SELECT n, 'x' FROM generate_series(1, 2) n;"
            "ALTER TABLE dropped DISABLE TRIGGER eater; UPDATE dropped SET v = 'eaten' WHERE id = 1;"
            "ALTER TABLE dropped ENABLE TRIGGER eater;"
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW;"
            " END $$; CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON rules FOR EACH ROW EXECUTE FUNCTION shout()"
        )
    trusted_forger(unlike).send(
        [upsert("rules", FIRST, id=one, v="LOUD" if one == 1 else "soft") for one in range(1, 51)]
        + [delete("dropped", FIRST, id=one) for one in (1, 2)]
    )

    (done,) = unlike.take_in().batches

    assert done.message == "49 rows are not as sent: trigger loud of rules changed what was written"
    assert (done.records.applied, done.records.parked) == (51, 1)
    assert "its trigger eater dropped this delete of dropped without a word" in letters(unlike)["dropped"][0]
    assert unlike.all(sa.select(tables.batch.c.message)) == [(done.message,)]
    assert values(unlike, "dropped") == [(1, "eaten")]


@needs_postgres
def test_what_is_stricter_or_changes_rows_is_known_beforehand(unlike: Side, databases: Databases) -> None:
    unlike.execute("ALTER TABLE an_enum ADD more text NOT NULL")
    with reading(unlike.engine) as connection:
        streams = {one.name: one for channel in unlike.site.channels for one in channel.streams}
        found = {name: " / ".join(map(str, unfit(connection, one))) for name, one in streams.items()}
        shut = {name: said for name, one in streams.items() for said in map(str, unwritable(connection, one))}
    said = {
        "a_smaller_integer": "v of table a_smaller_integer is SMALLINT, and BIGINT in the model",
        "a_shorter_text": "is VARCHAR(5), and ",
        "a_smaller_numeric": "is NUMERIC(4, 2), and NUMERIC(12, 2)",
        "a_rounded_numeric": "is NUMERIC(12, 1)",
        "a_rounded_element": "is NUMERIC(12, 1)[], and NUMERIC(12, 2)[] in the model",
        "a_single_float": "is REAL, and ",
        "not_null": "is NOT NULL, and in the model it is not",
        "an_identity": "is GENERATED ALWAYS AS IDENTITY",
        "a_late_key": "no unique index",
        "no_key": "no unique index",
        "rules": "no unique index",
        "an_enum": "v of table an_enum does not know tired, calm",
        "dropped": "triggers of table dropped may change or drop rows that are received: eater",
    }
    assert shut.keys() == {"an_enum", "a_generated_column"}
    assert "more of table an_enum is NOT NULL without a default" in shut["an_enum"]
    assert {name: found[name] for name, words in said.items() if words not in found[name]} == {}
    assert {name: one for name, one in found.items() if one and name not in said} == {
        "cut_blanks": found["cut_blanks"],
        "a_domain": found["a_domain"],
        **{name: found[name] for name in ("a_stack_too_deep", "an_inner_fault", "a_trigger_that_reads_nowhere")},
    }

    engine = quick_engine(databases.fresh("postgresql", shop.metadata, _made))
    with reading(engine) as connection:
        assert [problem for one in shop.channels[0].streams for problem in unfit(connection, one)] == []
    engine.dispose()


def _made(url: str) -> None:
    engine = quick_engine(url)
    shop.metadata.create_all(engine)
    engine.dispose()


@needs_postgres
def test_row_level_security_of_a_receiving_table_is_said_and_its_channel_waits(unlike: Side) -> None:
    forger = trusted_forger(unlike)
    forger.send([upsert("a_domain", FIRST, id=one, v=2 * one) for one in (1, 2, 3)])
    unlike.take_in()
    role = f"limited_{secrets.token_hex(4)}"
    for statement in (
        f"CREATE ROLE {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
        "ALTER TABLE a_domain ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY small ON a_domain USING (v < 5)",
    ):
        unlike.execute(statement)
    try:
        unlike.engine.dispose()
        sa.event.listen(unlike.engine, "connect", lambda driver, _: driver.execute(f"SET ROLE {role}"))
        forger.send([delete("a_domain", FIRST + 1, id=one) for one in (2, 3)])
        with reading(unlike.engine) as connection:
            (stream,) = (one for one in unlike.site.channels[0].streams if one.name == "a_domain")
            assert "row-level security of table a_domain applies" in str(unwritable(connection, stream))
        (done,) = unlike.take_in().batches
        assert (done.verdict, done.reason) == (Verdict.WAITING, Reason.TABLE)
        assert "row-level security" in done.message
    finally:
        unlike.engine.dispose()
        admin = sa.create_engine(unlike.engine.url)
        with admin.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
        admin.dispose()


@needs_postgres
def test_a_table_that_nothing_can_be_written_to_holds_up_its_channel_alone(
    tmp_path: Path, databases: Databases
) -> None:
    metadata = sa.MetaData()
    there, gone = (
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.Text))
        for name in ("there", "gone")
    )
    key = sa.Column("id", sa.Numeric(6, 2), primary_key=True)
    rounded = sa.Table("rounded", metadata, key, sa.Column("v", sa.Text))
    channels = (
        Channel("forth", "one", "two", [Stream(gone)]),
        Channel("sixth", "one", "two", [Stream(there)]),
        Channel("third", "one", "two", [Stream(rounded)]),
    )
    side = Side("two", "one", databases, "postgresql", tmp_path / "two", channels, metadata=metadata)
    forger = trusted_forger(side)
    side.execute("ALTER TABLE gone DROP COLUMN v")
    forger.send([upsert("gone", FIRST, id=1, v="x")])
    forger.send([upsert("gone", FIRST, id=2, v="x")])
    Forger(side, forger.key, channel="sixth").send([upsert("there", FIRST, id=1, v="x")])
    side.limit(invalid_share=1.0)
    side.execute("ALTER TABLE rounded ALTER id TYPE numeric(6,1)")
    halves = [upsert("rounded", FIRST, id=one, v="x") for one in ("1.25", "1.50")]
    Forger(side, forger.key, channel="third").send(halves)

    for _ in range(4):
        run = side.take_in()
        assert [(one.channel, one.verdict, one.reason) for one in run.batches if one.channel == "forth"] == [
            ("forth", Verdict.WAITING, Reason.TABLE)
        ]
        assert 'column "v" of relation "gone" does not exist' in (run.trouble or "")
    assert values(side, "there") == [(1, "x")]
    waiting = "SELECT state, reason FROM exchange_batch WHERE channel = 'forth' AND sequence = 1"
    assert ask(side, waiting) == [("waiting", "table")]
    assert ask(side, "SELECT sequence FROM exchange_gap WHERE channel = 'forth' AND state = 'missing'") == []

    side.execute("ALTER TABLE gone ADD COLUMN v text")
    assert [one.verdict for one in side.take_in().batches] == [Verdict.APPLIED] * 2
    assert values(side, "gone") == [(1, "x"), (2, "x")]
    assert ask(side, "SELECT id FROM rounded") == [(Decimal("1.5"),)]
    assert "column id of rounded keeps less" in letters(side)["rounded"][0]
    side.engine.dispose()


LITE = {
    "strict": Case(sa.Text(), "CREATE TABLE {t} (id INTEGER PRIMARY KEY, v INT, {version}) STRICT", "5", "five", "INT"),
    "checked": Case(
        sa.Text(),
        "CREATE TABLE {t} (id INTEGER PRIMARY KEY, v TEXT CHECK (length(v) < 5), {version})",
        "x",
        "too long",
        "CHECK",
    ),
    "generated": Case(
        sa.Text(),
        "CREATE TABLE {t} (id INTEGER PRIMARY KEY, v TEXT AS ('x') STORED, {version})",
        None,
        "x",
        "generated",
    ),
    "ignoring": Case(
        sa.Text(),
        "CREATE TRIGGER eater BEFORE INSERT ON {t} WHEN NEW.v = 'eaten' BEGIN SELECT RAISE(IGNORE); END;"
        "CREATE TRIGGER second BEFORE UPDATE ON {t} WHEN NEW.v = 'eaten' BEGIN SELECT RAISE(IGNORE); END",
        "kept",
        "eaten",
        "eater, second",
    ),
    "failing": Case(
        sa.Text(),
        "CREATE TRIGGER failing AFTER INSERT ON {t} WHEN NEW.v = 'bad' BEGIN SELECT RAISE(FAIL, 'no good'); END",
        "good",
        "bad",
        "no good",
    ),
    "reads_nowhere": Case(
        sa.Text(),
        "CREATE TRIGGER malformed AFTER INSERT ON {t} WHEN NEW.v = 'bad' BEGIN SELECT json('{'); END",
        "good",
        "bad",
        "JSON",
    ),
    "changing": Case(
        sa.JSON(),
        "CREATE TRIGGER changing AFTER INSERT ON {t} BEGIN UPDATE {t} SET v = '5' WHERE id = 2; END",
        {"a": 1},
        ...,
        "",
    ),
    "no_index": Case(sa.Text(), "CREATE TABLE {t} (id INTEGER, v TEXT, {version})", "x", ..., ""),
}


def on_sqlite(side: Side, cases: dict[str, Case]) -> None:
    with side.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for name, case in cases.items():
            if "CREATE TABLE" in case.ddl:
                driver.execute(f"DROP TABLE {name}")
            driver.executescript(case.ddl.replace("{t}", name).replace("{version}", f"{tables.VERSION_COLUMN} INT"))


def test_on_sqlite_too(tmp_path: Path, databases: Databases) -> None:
    metadata, channels = shape(LITE)
    side = Side("two", "one", databases, "sqlite", tmp_path / "two", channels, metadata=metadata)
    side.limit(invalid_share=1.0)
    on_sqlite(side, LITE)
    bad = {name: case for name, case in LITE.items() if case.bad is not ...}
    forger = trusted_forger(side)
    for again in range(2):
        forger.send(
            [
                upsert(name, FIRST + again, id=one, v=case.bad if one == 2 and name in bad else case.good)
                for name, case in LITE.items()
                for one in (1, 2, 3)
            ]
        )

    runs = side.take_in().batches

    assert [one.verdict for one in runs] == [Verdict.APPLIED] * 2, runs
    assert runs[0].message == "1 row is not as sent: trigger changing of changing changed what was written"
    said = letters(side)
    assert {name: said.get(name) for name in bad if bad[name].why not in said.get(name, [""])[0]} == {}
    assert {name: len(some) for name, some in said.items() if len(some) != 1} == {"generated": 3}
    assert [one.records.applied for one in runs] == [3 * len(LITE) - len(bad) - 2] * 2

    # What ends the transaction ends the batch: none of it is there, and its place is not taken.
    on_sqlite(side, {"checked": Case(None, "CREATE TRIGGER over AFTER INSERT ON {t} WHEN NEW.id = 8 BEGIN SELECT"
              " RAISE(ROLLBACK, 'it is over'); END", "", "", "")})  # fmt: skip
    forger.send([upsert("checked", FIRST, id=one, v="y") for one in (7, 8, 9)])
    (ended,) = side.take_in().batches
    assert ended.verdict is Verdict.WAITING
    assert ask(side, "SELECT count(*) FROM checked WHERE id > 6") == [(0,)]
    assert len(side.all(sa.select(tables.batch.c.id).where(tables.batch.c.state == "applied"))) == 2
    side.engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_keys_that_are_unlike_at_their_source_and_one_here_never_overwrite_each_other(
    kind: str, tmp_path: Path, databases: Databases
) -> None:
    metadata = sa.MetaData()
    word = sa.Table("word", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("v", sa.Text))
    channels = (Channel("forth", "one", "two", [Stream(word)]),)
    side = Side("two", "one", databases, kind, tmp_path / "two", channels, metadata=metadata)
    side.limit(invalid_share=1.0)
    if kind == "sqlite":
        ddl = "CREATE TABLE {t} (id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT, {version})"
        on_sqlite(side, {"word": Case(None, ddl, "", "", "")})
    else:
        # A collation of this kind would need ICU, which not every PostgreSQL was built with.
        side.execute("CREATE EXTENSION citext")
        side.execute("ALTER TABLE word ALTER id TYPE citext")
    forger = trusted_forger(side)

    forger.send([upsert("word", FIRST, id="a", v="1"), upsert("word", FIRST, id="A", v="2")])
    forger.send([upsert("word", FIRST + 1, id="A", v="3"), upsert("word", FIRST + 1, id="b", v="4")])
    forger.send([delete("word", FIRST + 2, id="B")])
    done = side.take_in().batches

    assert [(one.records.applied, one.records.parked) for one in done] == [(1, 1), (1, 1), (1, 0)]
    assert ask(side, "SELECT id, v FROM word ORDER BY id") == [("a", "1"), ("b", "4")]
    assert all("the key of word" in one for one in letters(side)["word"]), letters(side)

    forger.send([upsert("word", FIRST + 3, id="A", v="5"), delete("word", FIRST + 3, id="a")])
    (renamed,) = side.take_in().batches
    assert (renamed.records.applied, renamed.records.parked) == (2, 0), letters(side)
    assert ask(side, "SELECT id, v FROM word ORDER BY id") == [("A", "5"), ("b", "4")]
    side.engine.dispose()
