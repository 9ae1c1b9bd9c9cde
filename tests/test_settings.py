from pathlib import Path

import pytest
from sqlalchemy import make_url

from exchange.database.tables import DeadLetterState
from exchange.limits import Limits
from exchange.settings import Settings, SettingsFaults, load_settings, misspelt, variables


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.delenv("EXCHANGE_ENV_FILE", raising=False)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in ({"NETWORK": "request", "PEER": "response"} | values).items():
        monkeypatch.setenv(f"EXCHANGE_{name}", value)
    return load_settings()


def faults(monkeypatch: pytest.MonkeyPatch, **values: str) -> list[str]:
    with pytest.raises(SettingsFaults) as caught:
        load(monkeypatch, **values)
    return caught.value.faults


def test_two_names_are_enough_and_everything_lies_below_the_networks_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load(monkeypatch)
    assert settings.home == tmp_path / "var/request"
    assert settings.outgoing == tmp_path / "var/request/outgoing"
    assert settings.incoming == tmp_path / "var/request/incoming"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/request/exchange.db"
    assert settings.broker_url is None
    assert settings.require_signature


def test_a_path_is_the_databases_whatever_characters_it_is_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = f"{tmp_path}/my #1 home?a=%20b&ü:x@y"
    assert make_url(load(monkeypatch, HOME=home).database_url).database == f"{home}/exchange.db"
    assert "a ? of its path is written %3F" in faults(monkeypatch, DATABASE_URL="sqlite:////a?b/x.db")[0]


def test_a_path_that_leads_nowhere_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no home to begin it with" in faults(monkeypatch, HOME="~nobody-of-this-name/x")[0]
    assert "in UTF-8" in faults(monkeypatch, HOME="x\udcff")[0]


def test_a_limit_holds_that_nobody_set_and_another_one_where_somebody_did(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).limits == Limits()
    others = load(monkeypatch, COPY_EVERY="1", MAX_RECORDS="2", RETENTION_DISCARDED_DAYS="3", LOOK_AHEAD="4").limits
    found = (
        others.copy_seconds,
        others.read.max_records,
        others.letter_days[DeadLetterState.DISCARDED],
        others.look_ahead,
    )
    assert found == (1, 2, 3, 4)


def test_without_names_each_missing_one_is_a_sentence() -> None:
    with pytest.raises(SettingsFaults) as caught:
        load_settings()
    assert [fault.split(" is not set: ")[0] for fault in caught.value.faults] == [
        "EXCHANGE_NETWORK",
        "EXCHANGE_PEER",
    ]


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = faults(
        monkeypatch,
        PEER="request",
        EXPORT_EVERY="often",
        INVALID_SHARE="2",
        FOLDER_MODE="0777",
        FILE_MODE="99",
        LOG_LEVEL="loud",
        APP="channels",
        REDBEAT="true",
        OUTGOING="/x",
        INCOMING="/x",
        GRACE_SECONDS="nan",
        SIGNING_KEY="../key",
    )
    assert {fault.split(":")[0].removeprefix("EXCHANGE_") for fault in found} == {
        *("PEER", "EXPORT_EVERY", "INVALID_SHARE", "FOLDER_MODE", "FILE_MODE", "LOG_LEVEL", "APP", "REDBEAT"),
        *("INCOMING", "GRACE_SECONDS", "SIGNING_KEY"),
    }
    assert all("expected" in fault and "found" in fault and "\n" not in fault for fault in found)
    assert "EXCHANGE_EXPORT_EVERY: expected a number of seconds above 0, found 'often'" in found


@pytest.mark.parametrize(
    "url",
    [
        "nonsense:secret",
        "mysql://me:secret@host/name",
        "postgresql://me:secret@host",
        "postgresql+pg8000://me:secret@host/name",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_an_unusable_database_is_refused_without_showing_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (fault,) = faults(monkeypatch, DATABASE_URL=url)
    assert fault.startswith("EXCHANGE_DATABASE_URL: expected")
    assert "secret" not in fault


@pytest.mark.parametrize(
    "url", ["redis", "http://me:secret@host", "redis://:secret@host:port/0", "memory://", "sentinel://:secret@host"]
)
def test_an_unusable_broker_is_refused_without_showing_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (fault,) = faults(monkeypatch, BROKER_URL=url)
    assert fault.startswith("EXCHANGE_BROKER_URL: expected")
    assert "secret" not in fault


def test_settings_are_shown_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, DATABASE_URL="postgresql://me:secret@host/name", BROKER_URL="redis://:secret@host:6379/0"
    )
    assert "secret" not in repr(settings)
    assert settings.shown_database_url == "postgresql://me:***@host/name"


def test_a_misspelt_variable_is_a_fault_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = faults(monkeypatch, IMPORT_EVRY="5")
    assert fault == "EXCHANGE_IMPORT_EVRY: expected a setting, found none of this name; EXCHANGE_IMPORT_EVERY?"


def test_a_variable_of_somebody_else_is_left_alone() -> None:
    assert misspelt({"EXCHANGE_PORT", "EXCHANGE_SERVICE_HOST", "OTHER_IMPORT_EVRY"}) == []


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, BROKER_URL="", EXPORT_EVERY="").export_every == 300


def test_the_process_goes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EXCHANGE_EXPORT_EVERY=7\nEXCHANGE_IMPORT_EVERY=8\n")
    settings = load(monkeypatch, IMPORT_EVERY="9")
    assert (settings.export_every, settings.import_every) == (7, 9)


def test_a_misspelt_line_of_the_file_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EXCHANGE_IMPORT_EVRY=7\n")
    assert "EXCHANGE_IMPORT_EVERY" in faults(monkeypatch)[0]


def test_paths_start_at_the_named_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/side.env").write_text("EXCHANGE_HOME=data\nEXCHANGE_DATABASE_URL=sqlite:///own.db\n")
    settings = load(monkeypatch, ENV_FILE=str(tmp_path / "etc/side.env"))
    assert settings.home == tmp_path / "etc/data"
    assert settings.database_url == f"sqlite:///{tmp_path}/etc/own.db"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_named_file_that_cannot_be_read_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "side.env"
    if content is not None:
        file.write_bytes(content)
    (fault,) = faults(monkeypatch, ENV_FILE=str(file))
    assert str(file) in fault
    assert "expected a file of NAME=value lines" in fault


def test_every_variable_says_what_it_is_and_its_written_default_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(monkeypatch)
    for variable in variables():
        assert variable.description.endswith(".")
        if variable.default is not None:
            monkeypatch.setenv(variable.name, variable.default)
    assert load_settings() == settings
