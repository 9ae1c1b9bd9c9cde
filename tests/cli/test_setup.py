import os
import re
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Pair, Side
from tests.crossing.planting import Outside


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bare(side: Side, *words: str, code: int = 0, **environment: str) -> str:
    """Run a command with nothing but a .env to go by, and what is given."""
    side.environment.clear()
    done = side.run(*words, **environment)
    assert done.code == code, done.err
    return done.out + done.err


def test_init_writes_settings_folders_and_a_key_and_says_what_comes_next(side: Side) -> None:
    home = Path("it's #1 h\u00f6me?a=%20b")
    out = bare(side, "init", "--network", "request", "--peer", "response", "--home", str(home))
    assert "exchange migrate" in out
    assert re.search(r"exchange keys trust request-\d{4}\.pem --fingerprint SHA256:[A-Za-z0-9+/]{43}\n", out)
    assert _mode(Path(".env")) == 0o600
    assert _mode(home) == 0o711
    assert _mode(home / "outgoing") == 0o755
    assert (home / "incoming/.exchange-folder").exists()
    (key,) = (home / "keys").glob("*.key")
    assert _mode(key) == 0o600
    assert "the database is at" in bare(side, "migrate")
    assert "request, epoch" in bare(side, "status")
    assert {path.name for path in Path().iterdir()} == {".env", home.name}
    assert (home / "exchange.db").exists()


def test_init_again_changes_nothing(side: Side) -> None:
    bare(side, "init", "--network", "request", "--peer", "response")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    bare(side, "init", "--network", "request", "--peer", "response")
    bare(side, "init")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_init_never_overwrites_settings_that_say_something_else(side: Side) -> None:
    bare(side, "init", "--network", "request", "--peer", "response")
    before = Path(".env").read_bytes()
    assert "asked for other" in bare(side, "init", "--network", "other", code=2)
    assert Path(".env").read_bytes() == before


def test_init_looks_at_the_application_at_once_and_keeps_the_database_named(side: Side) -> None:
    Path("wrong_app.py").write_text(
        "from sqlalchemy import Column, Integer, MetaData, Table\n"
        "from exchange.channels import Channel, Stream\n"
        "keyless = Table('keyless', MetaData(), Column('id', Integer))\n"
        "channels = [Channel('all', source='request', target='response', streams=[Stream(keyless)])]\n"
    )
    names = ("--network", "request", "--peer", "response", "--home", "home")
    said = bare(side, "init", *names, "--app", "wrong_app:channels", "--database", "sqlite:///own.db", code=2)
    assert "exchange keys trust" in said
    assert "table keyless has no primary key" in said
    assert "importing nowhere_app failed" in bare(side, "init", *names, code=2, EXCHANGE_APP="nowhere_app:channels")
    said = bare(side, "init", "--database", "postgresql://me:hidden@host/db", code=2)
    assert "EXCHANGE_DATABASE_URL: asked for" in said
    assert "hidden" not in said
    said = bare(side, "init", "--database", "sqlite:///own.db", "--migrate", EXCHANGE_APP="exchange.reference:channels")
    assert "the database is at" in said
    assert "exchange migrate " not in said
    assert Path("own.db").exists()


@pytest.mark.parametrize("shape", ["link to nothing", "link to a folder", "pipe", "socket", "folder"])
def test_init_writes_no_settings_where_somebody_planted_something(side: Side, tmp_path: Path, shape: str) -> None:
    outside = Outside(tmp_path / "outside")
    with outside.untouched():
        outside.plant(Path(".env"), shape)
        said = bare(side, "init", "--network", "request", "--peer", "response", code=2)
    assert "expected a file or nothing there; move it away" in said
    assert [path.name for path in Path().iterdir()] == [".env"]


@pytest.mark.parametrize("words", [(), ("--network", "request"), ("--network", "Not A Name", "--peer", "b")])
def test_init_leaves_no_settings_that_do_not_hold(side: Side, words: tuple[str, ...]) -> None:
    bare(side, "init", *words, code=2)
    assert not list(Path().iterdir())


def test_migrate_tells_the_owner_of_an_application_what_its_tables_lack(side: Side) -> None:
    Path("shop_app.py").write_text(
        "from sqlalchemy import Column, Integer, MetaData, Table\n"
        "from exchange.channels import Channel, Stream\n"
        "order = Table('order', MetaData(), Column('id', Integer, primary_key=True))\n"
        "channels = [Channel('orders', source='response', target='request', streams=[Stream(order)])]\n"
    )
    done = side.do("migrate", "--json", EXCHANGE_APP="shop_app:channels")
    assert done.line["revisions"] == ["core_0029"]
    assert done.line["missing"] == ["table order of stream order does not exist; run the application's migrations"]


def test_a_channel_to_a_network_that_nobody_knows_is_refused_wherever_channels_are_read(side: Side) -> None:
    Path("misspelt_app.py").write_text(
        "from sqlalchemy import Column, Integer, MetaData, Table\n"
        "from exchange.channels import Channel, Stream\n"
        "tables = [Table(name, MetaData(), Column('id', Integer, primary_key=True)) for name in 'abc']\n"
        "ends = [('response', 'request'), ('response', 'reqeust'), ('responce', 'request')]\n"
        "channels = [Channel(f'to_{t.name}', *end, [Stream(t)]) for t, end in zip(tables, ends)]\n"
    )
    misspelt = {"EXCHANGE_APP": "misspelt_app:channels"}
    faults = (
        "EXCHANGE_APP: channel to_b: response to reqeust, but this side knows response and request, not reqeust; ",
        "EXCHANGE_APP: channel to_c: responce to request, but this side knows response and request, not responce; ",
    )
    for command in ("export", "import", "status", "migrate"):
        done = side.run(command, **misspelt)
        assert done.code == 2
        assert all(fault in done.err for fault in faults)
    assert all(fault in side.run("doctor", "--json", **misspelt).out for fault in faults)


def test_doctor_finds_a_healthy_side_healthy(any_pair: Pair) -> None:
    done = any_pair.request.run("doctor", "--json")
    lines = done.lines
    assert done.code == 3
    assert {line["check"] for line in lines} >= {
        "settings",
        "clock",
        "folders",
        "outgoing",
        "incoming",
        "space",
        "keys",
        "broker",
        "channels",
        "database",
        "migrations",
        "tables",
    }
    assert {line["level"] for line in lines} == {"ok", "warning"}
    assert [line["check"] for line in lines if line["level"] == "warning"] == ["broker", "work", "work", "link"]


def faults(side: Side, **environment: str) -> list[tuple[str, str]]:
    done = side.run("doctor", "--json", **environment)
    found = [line for line in done.lines if line["level"] == "fault"]
    assert all(line["remedy"] for line in found)
    assert done.code == (1 if found else 3 if any(line["level"] == "warning" for line in done.lines) else 0)
    return [(line["check"], line["message"]) for line in found]


def test_doctor_names_what_is_wrong_with_folders_and_keys(pair: Pair) -> None:
    home = pair.request.home
    (home / "incoming/.exchange-folder").unlink()
    (home / "outgoing").rename(home / "elsewhere")
    (home / "outgoing").symlink_to(home / "elsewhere")
    (home / "archive").chmod(0o755)
    next((home / "keys").glob("*.key")).chmod(0o644)
    next((home / "keys/trusted").glob("*.pem")).unlink()
    found = faults(pair.request)
    assert [check for check, _ in found] == ["folders", "outgoing", "incoming", "keys", "keys"]
    assert "archive is 0755" in found[0][1]
    assert "outgoing is a link" in found[1][1]
    assert "no marker" in found[2][1]
    assert "no key of response is trusted" in found[3][1]
    assert "others can read" in found[4][1]


def test_doctor_names_a_missing_trigger(pair: Pair) -> None:
    pair.request.execute("DROP TRIGGER exchange_capture_insert_request")
    ((check, message),) = faults(pair.request)
    assert check == "tables"
    assert "request is not captured" in message


def test_doctor_names_a_database_that_is_not_migrated(side: Side) -> None:
    side.do("init")
    assert ("database", f"{side.home}/exchange.db does not exist") in faults(side)
    (side.home / "exchange.db").touch()
    assert [check for check, _ in faults(side)][-1] == "migrations"


def test_doctor_names_a_database_of_another_network(pair: Pair) -> None:
    (*_, (check, message)) = faults(pair.request, EXCHANGE_DATABASE_URL=pair.response.database_url)
    assert check == "database"
    assert "belongs to network response" in message


def test_doctor_looks_at_the_broker(pair: Pair, valkey_url: str) -> None:
    found = faults(pair.request, EXCHANGE_BROKER_URL="redis://127.0.0.1:1/0")
    assert [check for check, _ in found] == ["broker"]
    assert all(check == "broker" for check, _ in faults(pair.request, EXCHANGE_BROKER_URL=valkey_url))


def test_doctor_names_a_handler_that_cannot_be_imported(pair: Pair) -> None:
    ((check, message),) = faults(pair.response, EXCHANGE_HANDLER="nowhere:answer")
    assert check == "handler"
    assert "nowhere:answer" in message
    assert not faults(pair.request, EXCHANGE_HANDLER="nowhere:answer")


def test_doctor_says_every_wrong_setting(side: Side) -> None:
    found = faults(side, EXCHANGE_PEER="Not A Name", EXCHANGE_IMPORT_EVERY="soon")
    assert [check for check, _ in found] == ["settings", "settings"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_doctor_names_a_folder_that_cannot_be_written(pair: Pair) -> None:
    (pair.request.home / "incoming").chmod(0o555)
    assert "can't be written" in faults(pair.request)[0][1]


@pytest.mark.parametrize("command", ["status", "export", "import", "batches", "prune"])
@pytest.mark.parametrize(
    "variable, value, code, said",
    [
        ("EXCHANGE_NETWORK", "", 2, "EXCHANGE_NETWORK is not set"),
        ("EXCHANGE_DATABASE_URL", "nonsense", 2, "EXCHANGE_DATABASE_URL"),
        ("EXCHANGE_DATABASE_URL", "postgresql://nobody:hidden@127.0.0.1:1/x", 1, "database can't go on"),
        ("EXCHANGE_DATABASE_URL", "sqlite:///nowhere/x.db", 1, "there is no database yet"),
        ("EXCHANGE_APP", "no_such_module:channels", 2, "importing no_such_module failed"),
        ("EXCHANGE_SIGNING_KEY", "gone", 2, "gone.key"),
        ("EXCHANGE_SCHEMAS", "/nowhere", 2, "expected a folder, found none at /nowhere"),
        ("EXCHANGE_ENV_FILE", "/nowhere", 2, "EXCHANGE_ENV_FILE"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    side: Side, command: str, variable: str, value: str, code: int, said: str
) -> None:
    sentence = side.refused(command, code=code, **{variable: value})
    assert said in sentence
    assert "hidden" not in sentence


def test_a_file_that_is_no_database_is_one_sentence(side: Side) -> None:
    Path("text.db").write_text("this is a text file, and not a short one" * 100)
    for command in ("status", "migrate"):
        sentence = side.refused(command, code=1, EXCHANGE_DATABASE_URL="sqlite:///text.db")
        assert "file is not a database" in sentence


def test_a_database_of_another_network_is_left_alone(pair: Pair) -> None:
    for command in ("status", "import", "migrate"):
        sentence = pair.request.refused(command, code=1, EXCHANGE_DATABASE_URL=pair.response.database_url)
        assert "belongs to network response" in sentence


def test_a_home_that_is_a_file_is_one_sentence(side: Side) -> None:
    side.home.write_text("")
    for command in ("init", "migrate"):
        assert str(side.home) in side.refused(command, code=1)


def test_a_schema_is_shown_written_and_checked(side: Side) -> None:
    shown = side.do("schema", "request", "--json").line
    assert shown["additionalProperties"] is False
    written = side.do("schema", "--write", "schemas", "--json").lines
    assert {line["stream"] for line in written} == {"profile_type", "user", "request", "response"}
    side.do("schema", "--check", "schemas")
    Path("schemas/streams/request/1.json").write_text("{}")
    done = side.run("schema", "request", "--check", "schemas")
    assert done.code == 1
    assert "schemas/streams/request/1.json" in done.err


def test_a_demo_leaves_a_folder_of_something_else_alone(side: Side) -> None:
    Path("precious").mkdir()
    Path("precious/file").write_text("kept")
    assert "left alone" in side.refused("demo", "--home", "precious", code=2)
    assert Path("precious/file").read_text() == "kept"


def test_a_migration_is_told_before_it_is_done_and_taken_back_with_what_is_lost(pair: Pair) -> None:
    side = pair.response
    assert "nothing is to be done" in side.do("migrate", "--plan").err
    assert "expected --yes" in side.run("migrate", "--down", "core_0016").err
    told = side.do("migrate", "--down", "core_0016", "--plan").out
    assert "lost: table exchange_process: 0 rows" in told
    assert side.do("migrate", "--down", "core_0016", "--yes").out == told
    planned = side.do("migrate", "--plan").out
    assert "-- core_0017" in planned
    assert "CREATE TABLE exchange_process" in planned
    assert {one["revision"] for one in side.do("migrate", "--plan", "--json").lines} >= {"core_0017", "core_0018"}
    side.do("migrate")
    assert "nothing is to be done" in side.do("migrate", "--plan").err
