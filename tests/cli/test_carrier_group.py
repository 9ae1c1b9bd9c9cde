"""Who on this machine can read what is exported: tried by reading it, as other users, where root runs the tests."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exchange.files import read_access
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.errors import TransientError
from exchange.format.names import BatchName, data_name, manifest_name
from tests.cli.conftest import Pair, Side, settle
from tests.databases import Databases

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try what other users may")


def some_group() -> grp.struct_group:
    """Give a group that this process may give files to, another one than its own if there is one."""
    if os.geteuid() == 0:
        return next(one for one in grp.getgrall() if one.gr_gid not in {os.getegid(), NOBODY})
    return grp.getgrgid(next((one for one in os.getgroups() if one != os.getegid()), os.getegid()))


GROUP = some_group()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def told(side: Side, check: str) -> dict[str, str]:
    (line,) = (line for line in side.run("doctor", "--json").lines if line["check"] == check)
    return line


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without any rights, in this process, until the block ends."""
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def reads(path: Path, group: int) -> bool:
    """Try whether a stranger who is in this group alone can read a file."""
    tried = subprocess.run(
        ["/bin/cat", path], user=NOBODY, group=NOBODY, extra_groups=[group], capture_output=True, check=False
    )
    return tried.returncode == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a folder that everybody can pass through, unlike a test's own."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def exported(side: Side) -> list[Path]:
    side.do("init", "--carrier-group", GROUP.gr_name)
    side.do("migrate")
    side.do("seed")
    side.do("export")
    return [path for path in (side.home / "outgoing").iterdir() if not path.name.startswith(".")]


def test_what_is_exported_belongs_to_the_carriers_group_and_is_closed_to_others(side: Side) -> None:
    files = exported(side)

    assert len(files) >= 2
    for file in files:
        assert (mode(file), file.stat().st_gid) == (0o640, GROUP.gr_gid)
    for folder, wanted in (("outgoing", 0o750), ("incoming", 0o770)):
        assert (mode(side.home / folder), (side.home / folder).stat().st_gid) == (wanted, GROUP.gr_gid)
    for private in ("sealed", "archive", "keys", "exchange.db"):
        assert mode(side.home / private) & 0o077 == 0


def test_the_group_is_kept_as_a_setting_so_that_publishing_knows_it(side: Side) -> None:
    side.environment.clear()
    side.do("init", "--network", "response", "--peer", "request", "--carrier-group", GROUP.gr_name)
    assert f"EXCHANGE_CARRIER_GROUP='{GROUP.gr_name}'" in Path(".env").read_text()
    side.do("init", "--carrier-group", GROUP.gr_name)
    before = Path(".env").read_bytes()
    assert "says" in side.refused("init", "--carrier-group", "nogroup", code=2)
    assert Path(".env").read_bytes() == before


def test_an_installation_that_is_there_is_closed_by_naming_the_group(side: Side) -> None:
    side.environment.clear()
    side.do("init", "--network", "response", "--peer", "request", "--home", "home")
    assert mode(Path("home/outgoing")) == 0o755
    with Path(".env").open("a") as file:
        file.write("# no line end here")
    done = side.do("init", "--carrier-group", str(GROUP.gr_gid))
    assert "(EXCHANGE_CARRIER_GROUP added)" in done.out
    assert Path(".env").read_text().endswith(f"# no line end here\nEXCHANGE_CARRIER_GROUP='{GROUP.gr_gid}'\n")
    assert mode(Path("home/outgoing")) == 0o750


@pytest.mark.parametrize("name", ["no-such-group", "4294967294", "9" * 30])
def test_a_group_that_is_not_there_is_one_sentence_and_changes_nothing(side: Side, name: str) -> None:
    side.environment.clear()
    said = side.refused("init", "--network", "response", "--peer", "request", "--carrier-group", name, code=2)
    assert said.startswith("--carrier-group: expected a group of this machine, found none called")
    assert not list(Path().iterdir())
    said = side.refused("status", code=2, EXCHANGE_NETWORK="a", EXCHANGE_PEER="b", EXCHANGE_CARRIER_GROUP=name)
    assert said.startswith("EXCHANGE_CARRIER_GROUP: expected a group of this machine")


def test_a_permission_that_is_written_down_and_lets_others_in_is_not_overruled_in_silence(side: Side) -> None:
    side.environment["EXCHANGE_FILE_MODE"] = "0644"
    said = side.refused("init", "--carrier-group", GROUP.gr_name, EXCHANGE_CARRIER_GROUP=GROUP.gr_name, code=2)
    assert "EXCHANGE_FILE_MODE: --carrier-group asks for 0640" in said
    assert not side.home.exists()


@as_root
def test_a_group_that_this_user_is_not_in_is_one_sentence(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side("response", public / "home")
    side.environment.clear()
    side.run("init")  # what it imports is read before
    os.chown(public, NOBODY, NOBODY)
    monkeypatch.chdir(public)
    with as_nobody():
        said = side.refused("init", "--network", "a", "--peer", "b", "--carrier-group", GROUP.gr_name, code=2)
    assert said.startswith(f"--carrier-group: this user is not in the group {GROUP.gr_name}")
    assert "usermod" in said
    assert not list(public.iterdir())


@as_root
def test_nothing_is_published_to_others_while_it_cannot_be_given_to_the_group(public: Path) -> None:
    os.chown(public, NOBODY, NOBODY)
    name = BatchName("forth", "0123456789ab", 1)
    with as_nobody():
        own = Folders(public / "home", public / "outgoing", public / "incoming")
        Spool(own).prepare(make=True)
        (own.sealed / data_name(name, ())).write_bytes(b"data")
        (own.sealed / manifest_name(name)).write_bytes(b"manifest")
        theirs = Folders(**{**vars(own), "group": GROUP.gr_gid})
        with pytest.raises(TransientError, match="add the user to it") as told_of:
            Spool(theirs).publish(name, ())
        assert "the batch stays sealed" in str(told_of.value)
        assert not (own.outgoing / data_name(name, ())).exists()
        with pytest.raises(TransientError, match="add the user to it"):
            Spool(theirs).shared[0].mark()


@as_root
def test_a_folder_of_another_user_is_one_sentence(public: Path) -> None:
    (public / "outgoing").mkdir(mode=0o777)
    (public / "home").mkdir()
    os.chown(public / "home", NOBODY, NOBODY)
    places = Folders(public / "home", public / "outgoing", public / "incoming", group=NOBODY)
    with as_nobody(), pytest.raises(TransientError, match=r"belongs to another user.*chown"):
        Spool(places).shared[0].mark()


@as_root
def test_the_group_reads_what_is_exported_and_a_stranger_does_not(public: Path) -> None:
    side = Side("response", public / "home")
    file = exported(side)[0]
    assert reads(file, GROUP.gr_gid)
    assert not reads(file, NOBODY)
    assert told(side, "readers")["message"] == (
        f"what is exported can be read by this user and the group {GROUP.gr_name}"
    )
    public.chmod(0o700)
    assert not reads(file, GROUP.gr_gid)
    lines = [line["message"] for line in side.run("doctor", "--json").lines if line["check"] == "readers"]
    assert f"{public} lets it not through" in lines[1]


@as_root
@pytest.mark.parametrize("closed", ["nothing", "files", "folder", "above"])
def test_init_and_doctor_say_who_can_read_what_is_exported(public: Path, databases: Databases, closed: str) -> None:
    place = public / "here"
    place.mkdir(mode=0o700 if closed == "above" else 0o755)
    modes = {"files": {"EXCHANGE_FILE_MODE": "0600"}, "folder": {"EXCHANGE_FOLDER_MODE": "0700"}}
    side = Side("response", place / "home", modes.get(closed, {}))
    said = side.do("init").out
    settle(side, databases, "migrate", "seed")
    side.do("export")
    file = next((side.home / "outgoing").glob("*.manifest.jsonl"))
    everybody = closed == "nothing"
    assert reads(file, NOBODY) is everybody
    words = "can be read by every user of this machine" if everybody else "can be read by this user alone"
    assert f"what is exported {words}" in said
    found = told(side, "readers")
    assert (found["message"], found["level"]) == (f"what is exported {words}", "warning" if everybody else "ok")
    assert bool(found["remedy"]) is everybody


@as_root
@pytest.mark.parametrize("folder_mode", [0o710, 0o750, 0o700, 0o755, 0o2750, 0o705])
@pytest.mark.parametrize("file_mode", [0o600, 0o640, 0o644, 0o604])
def test_who_can_read_is_what_the_kernel_says(public: Path, folder_mode: int, file_mode: int) -> None:
    folder = public / "outgoing"
    folder.mkdir()
    os.chown(folder, -1, GROUP.gr_gid)
    folder.chmod(folder_mode)
    file = folder / "file"
    file.touch()
    file.chmod(file_mode)
    seen = read_access.look(Folders(public / "home", folder, public, folder_mode, file_mode))
    assert seen.everybody is reads(file, NOBODY)
    assert (seen.group is not None) is reads(file, GROUP.gr_gid)


@as_root
def test_doctor_says_that_others_can_read_a_file_with_a_password(
    public: Path, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(public)
    side.do("init")
    for name in (".env", "word"):
        (public / name).write_text("")
    variables = {
        "EXCHANGE_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "EXCHANGE_DATABASE_PASSWORD_FILE": "word",
    }
    (public / "word").write_text("hidden")
    for mode, told_of in ((0o644, [".env", "word"]), (0o640, [])):
        for name in (".env", "word"):
            (public / name).chmod(mode)
        found = [line for line in side.run("doctor", "--json", **variables).lines if line["check"] == "settings"]
        assert [line["command"] for line in found[1:]] == [f"chmod o-r {public / name}" for name in told_of]


def test_doctor_says_that_the_folder_is_not_the_groups(pair: Pair) -> None:
    other = {"EXCHANGE_CARRIER_GROUP": GROUP.gr_name}
    if (pair.request.home / "outgoing").stat().st_gid == GROUP.gr_gid:
        pytest.skip("this user is in no other group")
    lines = [one for one in pair.request.run("doctor", "--json", **other).lines if one["check"] == "readers"]
    assert (lines[-1]["level"], lines[-1]["remedy"]) == ("warning", "run `exchange init`")
    pair.request.do("init", **other)
    lines = [one for one in pair.request.run("doctor", "--json", **other).lines if one["check"] == "readers"]
    assert "is not the group" not in str(lines)
