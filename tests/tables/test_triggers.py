"""What triggers note, and what they leave alone."""

from __future__ import annotations

import json
import sqlite3
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from exchange.channels import Channel, Stream
from exchange.channels.channel import at_network
from exchange.database import make_engine, tables
from exchange.tables import capture
from exchange.tables.loader.traits import TableFault, traits_of
from exchange.testing import servers
from tests.networks import until
from tests.tables.lab import Lab, deletes, items, upserts


def importing(lab: Lab, *streams: str) -> sa.Executable:
    """Write the statement with which an importer says what it writes."""
    if lab.engine.dialect.name == "postgresql":
        return sa.select(sa.func.set_config("exchange.importing", ",".join(streams), True))
    return sa.insert(tables.importing).values([{"stream": stream} for stream in streams])


def test_every_statement_is_noted_in_its_transaction(lab: Lab) -> None:
    table = items()
    lab.create(table)
    lab.run(
        sa.insert(table).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]),
        sa.update(table).values(name="c").where(table.c.id == 1),
        sa.delete(table).where(table.c.id == 2),
    )
    assert lab.noted() == [
        ("s0", "I", '{"id":1}'),
        ("s0", "I", '{"id":2}'),
        ("s0", "U", '{"id":1}'),
        ("s0", "D", '{"id":2}'),
    ]


def test_a_rollback_leaves_no_change(lab: Lab) -> None:
    table = items()
    lab.create(table)
    with lab.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(sa.insert(table).values(id=1))
        transaction.rollback()
    assert lab.noted() == []


def test_a_changed_key_is_one_row_gone_and_another_come(lab: Lab) -> None:
    table = items()
    lab.create(table)
    lab.run(sa.insert(table).values([{"id": 1}, {"id": 2}]))
    lab.forget()
    lab.run(sa.update(table).values(id=table.c.id + 10))
    assert sorted(lab.noted()) == [
        ("s0", "D", '{"id":1}'),
        ("s0", "D", '{"id":2}'),
        ("s0", "I", '{"id":11}'),
        ("s0", "I", '{"id":12}'),
    ]


def test_insert_on_conflict_notes_what_it_wrote(lab: Lab) -> None:
    table = items()
    lab.create(table)
    lab.run(sa.insert(table).values(id=1, name="a"))
    lab.forget()
    insert = postgresql.insert if lab.engine.dialect.name == "postgresql" else sqlite.insert
    statement: Any = insert(table).values([{"id": 1, "name": "b"}, {"id": 2, "name": "c"}])
    lab.run(statement.on_conflict_do_update(index_elements=["id"], set_={"name": statement.excluded.name}))
    assert lab.keys() == {'{"id":1}', '{"id":2}'}


def test_a_statement_that_touches_no_row_notes_nothing(lab: Lab) -> None:
    table = items()
    lab.create(table)
    lab.run(sa.update(table).values(name="x"), sa.delete(table))
    assert lab.noted() == []


def test_rows_that_the_importer_writes_are_not_noted(lab: Lab) -> None:
    table = items()
    lab.create(table)
    lab.run(importing(lab, "other", "s0"), sa.insert(table).values(id=1), sa.delete(tables.importing))
    assert lab.noted() == []
    lab.run(sa.insert(table).values(id=2))
    assert lab.noted() == [("s0", "I", '{"id":2}')]


def test_a_cascade_from_a_received_table_onto_an_owned_one_is_noted(lab: Lab) -> None:
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("parent.id", ondelete="CASCADE")),
        sa.Column("other_id", sa.ForeignKey("parent.id", ondelete="SET NULL")),
    )
    lab.create(parent, child)
    lab.run(
        sa.insert(parent).values([{"id": 1}, {"id": 2}]),
        sa.insert(child).values([{"id": n, "parent_id": 1 + n % 2, "other_id": 1} for n in range(1, 5)]),
    )
    lab.forget()
    lab.run(importing(lab, "s0"), sa.delete(parent).where(parent.c.id == 1), sa.delete(tables.importing))
    # SQLite sets null first and then deletes the same row: a change more, and no harm.
    assert {("s1", "U", '{"id":1}'), ("s1", "U", '{"id":3}')} < set(lab.noted())
    assert {key for _, op, key in lab.noted() if op == "D"} == {'{"id":2}', '{"id":4}'}
    assert {stream for stream, _, _ in lab.noted()} == {"s1"}


def test_truncate_notes_every_row_and_those_of_the_tables_it_reaches(postgres_lab: Lab) -> None:
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("parent.id")),
    )
    postgres_lab.create(parent, child)
    postgres_lab.run(sa.insert(parent).values([{"id": 1}, {"id": 2}]), sa.insert(child).values(id=5, parent_id=1))
    postgres_lab.forget()
    postgres_lab.run("TRUNCATE parent CASCADE")
    assert sorted(postgres_lab.noted()) == [
        ("s0", "D", '{"id":1}'),
        ("s0", "D", '{"id":2}'),
        ("s1", "D", '{"id":5}'),
    ]


def test_copy_and_merge_are_noted(postgres_lab: Lab) -> None:
    table = items()
    postgres_lab.create(table)
    with postgres_lab.engine.begin() as connection:
        cursor = connection.connection.cursor()
        with cursor.copy("COPY item (id, name) FROM STDIN") as copy:
            copy.write_row((1, "a"))
            copy.write_row((2, "b"))
    assert postgres_lab.keys() == {'{"id":1}', '{"id":2}'}
    postgres_lab.forget()
    postgres_lab.run(
        "MERGE INTO item USING (VALUES (2), (3)) v (id) ON v.id = item.id"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id)"
    )
    assert sorted(postgres_lab.noted()) == [("s0", "D", '{"id":2}'), ("s0", "I", '{"id":3}')]


def test_a_role_without_rights_on_the_log_is_captured_all_the_same(postgres_lab: Lab) -> None:
    postgres_lab.create(items())
    role = f"clerk_{uuid.uuid4().hex[:8]}"
    postgres_lab.run(
        f"CREATE ROLE {role}",
        f"GRANT INSERT ON item TO {role}",
        "ALTER TABLE exchange_change ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        f"SET LOCAL ROLE {role}",
        "SET LOCAL search_path = pg_temp",
        "INSERT INTO public.item (id) VALUES (1)",
    )
    assert postgres_lab.noted() == [("s0", "I", '{"id":1}')]
    postgres_lab.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_role_that_cannot_write_the_log_is_told_so_before_its_tables_can_not_be_written(postgres_lab: Lab) -> None:
    role = f"maker_{uuid.uuid4().hex[:8]}"
    postgres_lab.run(f"CREATE ROLE {role}", f"GRANT CREATE ON SCHEMA public TO {role}")
    table = items()
    stream = Stream(table)
    with postgres_lab.engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
        table.create(connection)
        with connection.begin_nested() as refused:
            with pytest.raises(capture.CaptureFault, match=f"role {role}'s, which may not insert into exchange_change"):
                capture.install(connection, "item")
            refused.rollback()
        connection.exec_driver_sql(f"RESET ROLE; GRANT INSERT ON exchange_change TO {role}; SET LOCAL ROLE {role}")
        capture.install(connection, "item")
        connection.execute(sa.insert(table).values(id=1))
        assert capture.check(connection, stream) == []
        connection.exec_driver_sql("RESET ROLE; ALTER TABLE exchange_change ENABLE ROW LEVEL SECURITY")
        (fault,) = capture.check(connection, stream)
        assert "is subject to row-level security on exchange_change: whoever writes the table fails" in str(fault)
        connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.postgres
def test_rows_that_a_subscription_brings_are_noted_and_a_published_log_is_emptied() -> None:
    with servers.postgres(wal_level="logical") as url:
        there, here = (make_engine(f"{url.rpartition('/')[0]}/{name}") for name in ("there", "here"))
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as admin:
            for engine in (there, here):
                admin.execute(f"CREATE DATABASE {engine.url.database}".encode())
        table = items()
        with there.begin() as connection:
            table.create(connection)
            connection.exec_driver_sql("CREATE PUBLICATION news FOR TABLE item")
        with there.begin() as connection:
            connection.exec_driver_sql("SELECT pg_create_logical_replication_slot('news', 'pgoutput')")
        tables.metadata.create_all(here)
        stream = Stream(table)
        with here.begin() as connection:
            table.create(connection)
            connection.exec_driver_sql("CREATE PUBLICATION everything FOR ALL TABLES")
            capture.install(connection, "item")
        source = f"{url.replace('+psycopg', '').rpartition('/')[0]}/there"
        with here.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(
                f"CREATE SUBSCRIPTION news CONNECTION '{source}' PUBLICATION news"
                " WITH (create_slot = false, slot_name = 'news', copy_data = false)"
            )
            (fault,) = capture.check(connection, stream)
            assert "written to it through a subscription fires none of its triggers" in str(fault)
            capture.install(connection, "item")
            assert capture.check(connection, stream) == []
        lab = Lab(here)
        with there.begin() as connection:
            connection.execute(sa.insert(table).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]))
            connection.execute(sa.update(table).values(name="c").where(table.c.id == 1))
        until(lambda: len(lab.noted()) == 3)
        with lab.exporting() as connection:
            capture.claim(connection, [stream], 10)
            assert upserts(connection, stream) == [{"id": 2, "name": "b"}, {"id": 1, "name": "c"}]
        assert lab.noted() == []
        for engine in (there, here):
            engine.dispose()


def test_session_settings_do_not_change_how_a_key_is_written(postgres_lab: Lab) -> None:
    table = sa.Table(
        "moment",
        sa.MetaData(),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("mark", sa.LargeBinary, primary_key=True),
        sa.Column("amount", sa.Numeric(10, 2), primary_key=True),
    )
    (stream,) = postgres_lab.create(table)
    postgres_lab.run("ALTER TABLE moment ALTER amount TYPE numeric")
    with postgres_lab.engine.begin() as connection:
        capture.install(connection, "moment", stream="s0")
    row = {"at": datetime(2026, 7, 1, 12, tzinfo=UTC), "mark": b"\x00\xff", "amount": Decimal("1.50")}
    postgres_lab.run(sa.insert(table).values(row))
    postgres_lab.run(
        "SET LOCAL TimeZone = 'Asia/Tokyo'",
        "SET LOCAL DateStyle = 'German'",
        "SET LOCAL bytea_output = 'escape'",
        sa.delete(table),
        sa.insert(table).values({**row, "amount": Decimal("1.5")}),
    )
    assert len(postgres_lab.keys()) == 1
    with postgres_lab.exporting() as connection:
        assert capture.claim(connection, [stream], 10).keys == {"s0": 1}
        assert len(upserts(connection, stream)) == 1


def test_the_applications_session_is_as_without_capture(postgres_lab: Lab) -> None:
    with postgres_lab.engine.begin() as connection:
        run = connection.exec_driver_sql
        run("CREATE TABLE boss (id serial PRIMARY KEY)")
        run(
            "CREATE TABLE item (id serial PRIMARY KEY, name text,"
            " boss integer REFERENCES boss DEFERRABLE INITIALLY IMMEDIATE)"
        )
        run("CREATE TABLE seen (what text)")
        run(
            "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO seen VALUES (TG_TABLE_NAME || ' ' || TG_OP); RETURN NEW; END$$"
        )
        run("CREATE TRIGGER a_watch BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION watch()")
        run("CREATE TRIGGER z_watch AFTER UPDATE ON item FOR EACH STATEMENT EXECUTE FUNCTION watch()")
        run("CREATE VIEW shown AS SELECT * FROM item")
        run(
            "CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN INSERT INTO item (name) VALUES (NEW.name); RETURN NEW; END$$"
        )
        run("CREATE TRIGGER put INSTEAD OF INSERT ON shown FOR EACH ROW EXECUTE FUNCTION put()")
        run(
            "CREATE FUNCTION rename(what text, OUT n integer, OUT f boolean) LANGUAGE plpgsql AS"
            " $$BEGIN UPDATE item SET name = what; GET DIAGNOSTICS n = ROW_COUNT; f := FOUND; END$$"
        )
        for table in ("item", "boss"):
            capture.install(connection, table)
    with postgres_lab.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.autocommit = True
        said: list[Any] = []
        driver.add_notice_handler(said.append)

        def one(statement: LiteralString) -> tuple[Any, ...] | None:
            return driver.execute(statement).fetchone()

        driver.execute("LISTEN news")
        driver.execute("SET plan_cache_mode = force_generic_plan")
        driver.execute("PREPARE more AS INSERT INTO item (name) VALUES ($1) RETURNING id")
        # A plan that was made while the log was empty is kept, and a number of the log is not what lastval() gives.
        assert one("SELECT n, f FROM rename('x')") == (0, False)
        for number in range(1, 8):
            assert one("EXECUTE more ('a')") == (number,)
            assert one("SELECT lastval(), currval('item_id_seq')") == (number, number)
        assert one("SELECT n, f FROM rename('x')") == (7, True)
        assert driver.execute("UPDATE item SET name = 'y' WHERE id < 3").rowcount == 2
        assert driver.execute("INSERT INTO shown (name) VALUES ('z')").rowcount == 1
        assert one("SELECT lastval()") == (8,)
        driver.execute("DELETE FROM exchange_change")
        with driver.transaction():
            with driver.transaction(force_rollback=True):
                driver.execute("DELETE FROM item")
            driver.execute("SET CONSTRAINTS ALL DEFERRED")
            driver.execute("UPDATE item SET boss = 1 WHERE id = 1")
            driver.execute("INSERT INTO boss VALUES (1)")
            driver.execute("NOTIFY news")
        with driver.transaction():
            driver.execute("SET LOCAL session_replication_role = replica")
            driver.execute("UPDATE item SET name = 'replicated' WHERE id = 2")
        assert len(list(driver.notifies(timeout=0, stop_after=1))) == 1
        assert said == []
        watched = driver.execute("SELECT what, count(*) FROM seen GROUP BY what ORDER BY what").fetchall()
        assert watched == [("item INSERT", 8), ("item UPDATE", 4)]
    assert postgres_lab.noted() == [("item", "U", '{"id":1}'), ("boss", "I", '{"id":1}'), ("item", "U", '{"id":2}')]


def test_sqlite_gives_the_application_its_own_numbers(sqlite_lab: Lab) -> None:
    sqlite_lab.create(items(sa.UniqueConstraint("name")))
    driver = sqlite3.connect(str(sqlite_lab.engine.url.database))
    with driver:
        for number, name in enumerate("abc", 1):
            inserted = driver.execute("INSERT INTO item (name) VALUES (?)", (name,))
            assert inserted.lastrowid == number
            assert driver.execute("SELECT last_insert_rowid(), changes()").fetchone() == (number, 1)
        assert driver.execute("UPDATE item SET name = name || 'x' WHERE id < 3").rowcount == 2
        assert driver.execute("SELECT last_insert_rowid(), changes()").fetchone() == (3, 2)
        replaced = driver.execute("INSERT OR REPLACE INTO item (id, name) VALUES (9, 'c') RETURNING id")
        assert replaced.fetchall() == [(9,)]
        driver.execute("SAVEPOINT s")
        assert driver.execute("DELETE FROM item").rowcount == 3
        driver.execute("ROLLBACK TO s")
    driver.close()
    assert [op for _, op, _ in sqlite_lab.noted()] == ["I", "I", "I", "U", "U", "D", "I"]


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO item (id, name) VALUES (3, 'a')",
        "UPDATE OR REPLACE item SET name = 'a' WHERE id = 2",
    ],
)
def test_rows_that_replace_removes_are_noted_whatever_the_connection_says(
    sqlite_lab: Lab, recursive: str, statement: str
) -> None:
    table = items(sa.UniqueConstraint("name"))
    (stream,) = sqlite_lab.create(table)
    sqlite_lab.run(sa.insert(table).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]))
    sqlite_lab.forget()
    other = sqlite3.connect(str(sqlite_lab.engine.url.database))
    with other:
        other.execute(f"PRAGMA recursive_triggers = {recursive}")
        other.execute(statement)
    other.close()
    with sqlite_lab.exporting() as connection:
        capture.claim(connection, [stream], 10)
        assert deletes(connection, stream) == [{"id": 1}]
        assert [row["name"] for row in upserts(connection, stream)] == ["a"]


def test_keys_of_every_kind_and_odd_names_are_found_again(lab: Lab) -> None:
    table = sa.Table(
        "Wei\"rd 'Tab%le:x",
        sa.MetaData(),
        sa.Column('Sel"ect', sa.BigInteger, primary_key=True),
        sa.Column("or'der %s:y\\", sa.Uuid, primary_key=True),
        sa.Column("user", sa.DateTime, primary_key=True),
        sa.Column("by tes", sa.LargeBinary, primary_key=True),
        sa.Column("amount", sa.Numeric(10, 2), primary_key=True),
        sa.Column("Text", sa.String(20), primary_key=True),
        sa.Column("kind", sa.Enum("a", "b c", name="Ki nd"), primary_key=True),
        sa.Column("yes", sa.Boolean, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("value", sa.Text),
    )
    (stream,) = lab.create(table)
    row = {
        'Sel"ect': 2**63 - 1,
        "or'der %s:y\\": uuid.UUID(int=7),
        "user": datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 - of a column without zone
        "by tes": b"\x00\xff'\"",
        "amount": Decimal("1234567.10"),
        "Text": "a\"'\\é😀 ",
        "kind": "b c",
        "yes": True,
        "day": datetime(2026, 1, 2, tzinfo=UTC).date(),
        "value": "here",
    }
    lab.run(sa.insert(table).values(row), sa.insert(table).values({**row, "Text": ""}))
    lab.run(sa.delete(table).where(table.c.Text == ""))
    with lab.exporting() as connection:
        assert capture.check(connection, stream) == []
        assert capture.claim(connection, [stream], 10).keys == {"s0": 2}
        here, gone = upserts(connection, stream), deletes(connection, stream)
    assert [found["value"] for found in here] == ["here"]
    assert gone == [{name: "" if name == "Text" else here[0][name] for name in gone[0]}]
    assert here[0]["Text"] == row["Text"]
    with lab.engine.begin() as connection:
        capture.drop(connection, table.name)
        assert capture.captured_tables(connection) == []


def test_a_table_with_a_very_long_name_is_captured(lab: Lab) -> None:
    table = sa.Table("t" * 63, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values(id=1))
    assert lab.keys() == {'{"id":1}'}
    with lab.engine.begin() as connection:
        assert capture.check(connection, stream) == []


def test_installing_again_changes_nothing_and_dropping_ends_it(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    with lab.engine.begin() as connection:
        capture.install(connection, "item", stream="s0")
        assert capture.check(connection, stream) == []
        assert capture.captured_tables(connection) == ["item"]
    lab.run(sa.insert(table).values(id=1))
    assert len(lab.noted()) == 1
    with lab.engine.begin() as connection:
        capture.drop(connection, "item")
        capture.drop(connection, "item")
    lab.run(sa.insert(table).values(id=2))
    assert len(lab.noted()) == 1


def test_check_names_what_is_missing(lab: Lab) -> None:
    table = items()
    stream = Stream(table)
    with lab.engine.begin() as connection:
        assert "does not exist" in str(capture.check(connection, stream)[0])
        table.create(connection)
        (triggers,) = capture.check(connection, stream)
        assert "are missing" in str(triggers)
        (version,) = capture.check(connection, stream, captured=False)
        assert "exchange_version" in str(version)
        assert capture.add_version_column(connection, "item")
        assert not capture.add_version_column(connection, "item")
        assert capture.check(connection, stream, captured=False) == []
        capture.drop_version_column(connection, "item")
        capture.install(connection, "item")
        assert capture.check(connection, stream) == []


def test_a_table_is_that_of_one_stream(lab: Lab) -> None:
    table = items()
    sent, received = Stream(table, name="it's"), Stream(table, name="received")
    with lab.engine.begin() as connection:
        table.create(connection)
        capture.add_version_column(connection, "item")
        capture.install(connection, "item", stream="it's")
        with pytest.raises(capture.CaptureFault, match='captured already, as stream "it\'s": of two streams over one'):
            capture.install(connection, "item", stream="received")
        assert capture.check(connection, sent) == []
        (fault,) = capture.check(connection, received)
        assert "captured as stream it's" in str(fault)
        assert not capture.renew(connection, received)
        (fault,) = capture.check(connection, received, captured=False)
        assert fault.stops
        (fault,) = capture.check(connection, sent, captured=False)
        assert fault.minor
        assert set(capture.shared_tables(connection, [sent, received])) == {"it's", "received"}
        assert capture.unreceivable(connection, [sent], [sent]) == {}
        assert set(capture.unreceivable(connection, [received], [received])) == {"received"}
        capture.drop(connection, "item")
        assert capture.unreceivable(connection, [received], [received]) == {}


def test_triggers_of_an_earlier_version_are_written_anew(lab: Lab) -> None:
    (stream,) = lab.create(items())
    if lab.engine.dialect.name == "postgresql":
        lab.run("ALTER FUNCTION exchange_capture_item() RESET row_security")
    else:
        lab.run(
            "DROP TRIGGER exchange_capture_delete_item",
            "CREATE TRIGGER exchange_capture_delete_item AFTER DELETE ON item BEGIN SELECT 1; END",
        )
    with lab.engine.begin() as connection:
        assert "out of date" in str(capture.check(connection, stream)[0])
        assert capture.renew(connection, stream)
        assert capture.check(connection, stream) == []
        assert not capture.renew(connection, stream)


def test_check_sees_disabled_triggers(postgres_lab: Lab) -> None:
    (stream,) = postgres_lab.create(items())
    postgres_lab.run("ALTER TABLE item DISABLE TRIGGER exchange_capture_update")
    with postgres_lab.engine.connect() as connection:
        (fault,) = capture.check(connection, stream)
    assert "its triggers are disabled" in str(fault)
    postgres_lab.run("ALTER TABLE item DISABLE TRIGGER ALL", "ALTER TABLE item ENABLE TRIGGER ALL")
    with postgres_lab.engine.begin() as connection:
        (fault,) = capture.check(connection, stream)
        assert "were disabled and enabled again since, and noted nothing meanwhile" in str(fault)
        assert "`exchange resync` sends, with the whole table" in str(fault)
        assert not capture.renew(connection, stream)
        capture.install(connection, "item", stream="s0")
        assert capture.check(connection, stream) == []


def test_check_sees_a_unique_constraint_that_came_later(sqlite_lab: Lab) -> None:
    (stream,) = sqlite_lab.create(items())
    sqlite_lab.run("CREATE UNIQUE INDEX later ON item (name)")
    with sqlite_lab.engine.connect() as connection:
        (fault,) = capture.check(connection, stream)
    assert "missing" in str(fault)


def test_what_cannot_be_captured_is_refused_with_a_sentence(lab: Lab) -> None:
    table = sa.Table("keyless", sa.MetaData(), sa.Column("value", sa.Integer))
    with lab.engine.begin() as connection:
        table.create(connection)
        with pytest.raises(capture.CaptureFault, match="there is no table 'nowhere' in this database"):
            capture.install(connection, "nowhere")
        with pytest.raises(capture.CaptureFault, match="'keyless' has no primary key"):
            capture.install(connection, "keyless")
        with pytest.raises(capture.CaptureFault, match="no column 'id'"):
            capture.install(connection, "keyless", key=["id"])
        with pytest.raises(capture.CaptureFault, match="comma"):
            capture.install(connection, "keyless", key=["value"], stream="a,b")
        tables.metadata.drop_all(connection)
        with pytest.raises(capture.CaptureFault, match="exchange_change is missing"):
            capture.install(connection, "keyless", key=["value"])


def test_keys_that_differ_only_in_case_are_two_where_their_column_takes_them_for_one(lab: Lab) -> None:
    on_sqlite = lab.engine.dialect.name == "sqlite"
    table = sa.Table(
        "word",
        sa.MetaData(),
        sa.Column("word", sa.Text(collation="NOCASE" if on_sqlite else None), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("value", sa.Text),
    )
    (stream,) = lab.create(table)
    if not on_sqlite:
        lab.run("CREATE EXTENSION citext", "ALTER TABLE word ALTER word TYPE citext")
        with lab.engine.begin() as connection:
            capture.install(connection, "word", stream="s0")
    lab.run(
        sa.insert(table).values([{"word": word, "part": 1, "value": "x"} for word in ("One", "two", "three")]),
        "UPDATE word SET word = 'oNE' WHERE word = 'ONE'",
        "DELETE FROM word WHERE word = 'THREE'",
    )
    if on_sqlite:
        lab.run("INSERT OR REPLACE INTO word (word, part) VALUES ('TWO', 1)")
    else:
        lab.run("DELETE FROM word WHERE word = 'two'", "INSERT INTO word (word, part) VALUES ('TWO', 1)")
    with lab.exporting() as connection:
        assert capture.check(connection, stream) == []
        assert capture.claim(connection, [stream], 100).keys == {"s0": 5}
        assert sorted(row["word"] for row in upserts(connection, stream)) == ["TWO", "oNE"]
        assert sorted(row["word"] for row in deletes(connection, stream)) == ["One", "three", "two"]


INSERTED, FUNCTION, ROLE = "exchange_capture_insert", "FUNCTION exchange_capture", "pg_monitor"
CHANGES = {
    "sqlite": (
        "DROP TRIGGER exchange_capture_update_item",
        "CREATE UNIQUE INDEX later ON item (name)",
        "ALTER TABLE item RENAME TO thing",
    ),
    "postgresql": (
        "ALTER TABLE item DISABLE TRIGGER exchange_capture_update",
        "ALTER TABLE item ENABLE TRIGGER exchange_capture_update",
        "DROP TRIGGER exchange_capture_delete ON item",
        "ALTER TABLE item RENAME COLUMN id TO number",
        "ALTER TABLE item RENAME TO thing",
        "CREATE TABLE child () INHERITS (item)",
        "ALTER FUNCTION exchange_capture_item() SECURITY INVOKER",
        "ALTER FUNCTION exchange_capture_item() OWNER TO pg_monitor",
        "CREATE TABLE later PARTITION OF part FOR VALUES IN (2)",
        "ALTER TABLE only_part DISABLE TRIGGER exchange_capture_insert",
        f"CREATE TABLE other (id int); CREATE TRIGGER {INSERTED} AFTER INSERT ON other EXECUTE {FUNCTION}_item()",
        "COMMENT ON FUNCTION exchange_capture_part() IS NULL",
        f"ALTER TABLE part ENABLE ROW LEVEL SECURITY; GRANT SELECT ON part, item TO {ROLE}; SET LOCAL ROLE {ROLE}",
        "SET LOCAL ROLE pg_monitor",
    ),
}
"""What a process that found all well must not miss afterwards."""


def test_tables_that_were_well_are_looked_at_again_when_anything_of_them_changes(lab: Lab) -> None:
    on_postgresql = lab.engine.dialect.name == "postgresql"
    item, key = items(), sa.Column("id", sa.Integer, primary_key=True)
    part = sa.Table("part", item.metadata, key, postgresql_partition_by="LIST (id)")
    streams = lab.create(item, part)
    if on_postgresql:
        lab.run("CREATE TABLE only_part PARTITION OF part FOR VALUES IN (1)")
        with lab.engine.begin() as connection:
            capture.install(connection, "part", stream="s1")
    for change in CHANGES[lab.engine.dialect.name]:
        with lab.engine.connect() as connection, connection.begin() as transaction:
            assert not any(capture.check_sent(connection, streams, streams).values())
            assert capture.check_sent(connection, streams, streams) == {}, "it was well just now"
            for statement in change.split(";"):
                connection.exec_driver_sql(statement)
            assert any(capture.check_sent(connection, streams, streams).values()), change
            transaction.rollback()


def test_keys_are_noted_as_files_call_them(lab: Lab) -> None:
    metadata = sa.MetaData()
    item = sa.Table(
        "item",
        metadata,
        sa.Column('the "id"', sa.Integer, primary_key=True),
        sa.Column("Größe", sa.Text, primary_key=True),
    )
    metadata.create_all(lab.engine)
    stream = Stream(item, name="s0", columns={'the "id"': "größe 'x'", "Größe": 'the "id"'})
    with lab.engine.begin() as connection:
        capture.install(connection, "item", stream="s0")
        (problem,) = capture.check(connection, stream)
        assert (
            "op.install_capture('item', stream='s0', key={'the \"id\"': \"größe 'x'\", 'Größe': 'the \"id\"'})"
            in problem.remedy
        )
        assert capture.renew(connection, stream)
        capture.install(connection, "item", dict(stream.in_files), stream="s0")
        assert capture.check(connection, stream) == []
    lab.run(*(sa.insert(item).values({'the "id"': n, "Größe": f"{n}:"}) for n in (1, 2)))
    lab.run(sa.delete(item).where(item.c["Größe"] == "1:"))
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 10)
        assert upserts(connection, stream) == [{"größe 'x'": 2, 'the "id"': "2:"}]
        assert deletes(connection, stream) == [{"größe 'x'": 1, 'the "id"': "1:"}]
        ((text, number),) = capture.row_page(connection, stream, [item.c['the "id"']], None, 10)
        assert (json.loads(text), number) == ({"größe 'x'": 2, 'the "id"': "2:"}, 2)
        assert capture.key_text(connection, stream, [2, "2:"]) == text
        assert capture.is_key(connection, stream, text)
        assert capture.row_of_key(connection, stream, text) is not None
        assert not capture.is_key(connection, stream, '{"the \\"id\\"": 2, "Größe": "2:"}')


def test_a_view_is_refused_with_what_to_send_in_its_place(lab: Lab) -> None:
    (stream,) = lab.create(items())
    seen = Stream(sa.Table("seen", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)), name="s1")
    lab.run("CREATE VIEW seen AS SELECT id FROM item")
    with lab.engine.begin() as connection:
        with pytest.raises(capture.CaptureFault, match="'seen' is a view, and what changes in it no trigger can note"):
            capture.install(connection, "seen")
        for captured in (True, False):
            (problem,) = capture.check(connection, seen, captured=captured)
            assert problem.message == "seen of stream s1 is a view, and what changes in it no trigger can note"
            assert problem.remedy.startswith("send the tables that it is made of")
        with pytest.raises(TableFault, match=r"seen of stream s1 is a view, .* Stream\(\.\.\., table="):
            traits_of(connection, seen)
        assert capture.check(connection, stream) == []


def test_a_schema_on_sqlite_is_refused_where_rows_are_sent_and_received(sqlite_lab: Lab) -> None:
    sqlite_lab.create(items())
    declared = [Channel("goods", "plant", "office", [Stream(items(), table={"plant": "stock.item"})])]
    with sqlite_lab.engine.begin() as connection:
        connection.exec_driver_sql("ATTACH ':memory:' AS stock")
        connection.exec_driver_sql("CREATE TABLE stock.item (id integer PRIMARY KEY, name text)")
        (there,), (here,) = (at_network(declared, network)[0].streams for network in ("plant", "office"))
        (problem,) = capture.check(connection, there)
        assert problem.message == "table item of stream item is declared in schema stock"
        assert 'no attached database is captured: Stream(..., table="item"), for this network alone' in problem.remedy
        assert capture.unreceivable(connection, [there], [there]) == {"item": problem}
        assert capture.unreceivable(connection, [here], [here]).keys() == {"item"}  # it is captured as s0
