"""What somebody else could have written is neither read nor imported: a ``.env``, and the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exchange.channels.channel import ChannelFaults, load_channels
from exchange.files.ownership import WrongOwner, read_ours, refuse_imports
from exchange.settings import SettingsFaults, load_settings, variables

SOURCE = Path(__file__).parents[2]
STRANGER = 12345
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to somebody else")
TRAP = "import pathlib\npathlib.Path({!r}).touch()\nraise SystemExit(9)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder of ours with a ``.env`` that names a module in it; nothing else is set."""
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.delenv("EXCHANGE_ENV_FILE", raising=False)
    made = tmp_path / "shared" / "folder"
    made.mkdir(parents=True, mode=0o755)
    made.parent.chmod(0o755)
    made.chmod(0o755)
    monkeypatch.chdir(made)
    (made / ".env").write_text("EXCHANGE_NETWORK=request\nEXCHANGE_PEER=response\nEXCHANGE_APP=trap:channels\n")
    (made / ".env").chmod(0o644)
    (made / "trap.py").write_text(TRAP.format(str(tmp_path / "sprung")))
    return made


def give_file(folder: Path) -> None:
    os.chown(folder / ".env", STRANGER, -1)


def give_folder(folder: Path) -> None:
    os.chown(folder, STRANGER, -1)


def give_parent(folder: Path) -> None:
    os.chown(folder.parent, STRANGER, -1)


def open_file(folder: Path) -> None:
    (folder / ".env").chmod(0o666)


def open_file_to_a_group(folder: Path) -> None:
    os.chown(folder / ".env", -1, STRANGER)
    (folder / ".env").chmod(0o664)


def open_folder(folder: Path) -> None:
    folder.chmod(0o777)


def open_parent(folder: Path) -> None:
    folder.parent.chmod(0o777)


def link_of_a_stranger(folder: Path) -> None:
    (folder / ".env").rename(folder / "ours.env")
    (folder / ".env").symlink_to("ours.env")
    os.chown(folder / ".env", STRANGER, -1, follow_symlinks=False)


OPEN = [open_file, open_folder, open_parent]
GIVEN = [give_file, give_folder, give_parent, open_file_to_a_group, link_of_a_stranger]
WAYS = [*OPEN, *(pytest.param(one, marks=AS_ROOT) for one in GIVEN)]


@pytest.mark.parametrize("spoil", WAYS)
def test_an_env_file_that_somebody_else_could_have_written_is_refused_in_one_sentence(
    folder: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    with pytest.raises(SettingsFaults) as caught:
        load_settings()
    sentence = caught.value.faults[0]
    assert ".env: " in sentence
    assert "expected " in sentence
    assert "found " in sentence
    assert sentence.endswith("; nothing of it was read")
    assert "\n" not in sentence
    assert any("EXCHANGE_NETWORK is not set" in fault for fault in caught.value.faults)


@pytest.mark.parametrize("spoil", WAYS)
def test_the_same_file_under_its_name_is_refused_from_anywhere(
    folder: Path, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    monkeypatch.setenv("EXCHANGE_ENV_FILE", str(folder / ".env"))
    monkeypatch.chdir("/")
    with pytest.raises(SettingsFaults, match="nothing of it was read"):
        load_settings()


def test_what_is_ours_is_read_also_in_a_sticky_folder_and_through_our_own_link(folder: Path) -> None:
    assert load_settings().app == "trap:channels"
    folder.parent.chmod(0o1777)
    folder.chmod(0o1777)
    (folder / ".env").rename(folder / "ours.env")
    (folder / ".env").symlink_to("ours.env")
    assert load_settings().network == "request"
    (folder / ".env").unlink()
    (folder / ".env").mkdir()  # as some name their virtual environment
    assert read_ours(folder / ".env") is None


@pytest.mark.parametrize(
    "spoil", [open_folder, open_parent, *(pytest.param(one, marks=AS_ROOT) for one in (give_folder, give_parent))]
)
def test_nothing_is_imported_from_a_folder_that_somebody_else_could_have_written(
    folder: Path, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.path", [one for one in sys.path if one not in {"", str(folder)}])
    spoil(folder)
    refuse_imports()  # nothing of it is on the path
    with pytest.raises(ChannelFaults) as caught:
        load_channels("trap:channels")
    assert "it was not looked for in the working folder" in caught.value.faults[0]
    assert str(folder) not in sys.path
    monkeypatch.setattr("sys.path", [str(folder), *sys.path])
    with pytest.raises(WrongOwner, match="Python would import from it, so nothing was done: go to another folder"):
        refuse_imports()
    assert not (tmp_path / "sprung").exists()


def test_a_sticky_folder_is_not_imported_from_as_anybody_adds_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o1777)
    monkeypatch.setattr("sys.path", [str(folder), *sys.path])
    with pytest.raises(WrongOwner, match="found mode 1777"):
        refuse_imports()


@AS_ROOT
@pytest.mark.processes
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "exchange", "status"],
        ["-m", "celery", "-A", "exchange", "call", "exchange.prune"],
        ["-c", "from exchange.cli import main; main()", "status"],
        ["-c", "from exchange.cli import main; main()", "up"],
        ["-c", "from exchange.cli import main; main()", "init"],
    ],
    ids=["python -m exchange", "celery", "exchange", "exchange up", "exchange init"],
)
def test_no_command_runs_a_strangers_module_even_as_root(folder: Path, tmp_path: Path, command: list[str]) -> None:
    for path in (folder, folder / ".env", folder / "trap.py"):
        os.chown(path, STRANGER, -1)
    for name in ("structlog", "redis", "typer", "rich", "sqlalchemy"):
        (folder / f"{name}.py").write_text((folder / "trap.py").read_text())
    # As the installed commands begin: without the working folder on Python's path.
    safe = ["-P"] if command[0] == "-c" else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    done = subprocess.run(
        [sys.executable, *safe, *command],
        env=environment | {"PYTHONPATH": str(SOURCE)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"expected it to belong to root, found it belongs to user {STRANGER}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sprung").exists()
