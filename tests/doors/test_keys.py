import stat
from pathlib import Path

import pytest

from exchange.format.errors import Untrusted
from exchange.keys import KeyFault, listed, load_signing_key, load_trusted, new, trust, trusted_from

LINE = b'{"format":"exchange-batch/1"}'


def test_what_one_side_signs_the_other_trusts_after_one_file_was_carried_over(tmp_path: Path) -> None:
    public = new(tmp_path / "ours", "request-2026a")
    trust(tmp_path / "theirs", public)
    key = load_signing_key(tmp_path / "ours")
    assert key is not None
    load_trusted(tmp_path / "theirs").check(LINE, key.sign(LINE))


def test_a_key_that_was_not_carried_over_is_not_trusted(tmp_path: Path) -> None:
    new(tmp_path, "own")
    key = load_signing_key(tmp_path)
    assert key is not None
    with pytest.raises(Untrusted):
        load_trusted(tmp_path).check(LINE, key.sign(LINE))


def test_a_private_key_is_for_its_user_alone(tmp_path: Path) -> None:
    new(tmp_path / "keys", "own")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys/own.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys/own.pem").stat().st_mode) == 0o644


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new(tmp_path, "own")
    before = (tmp_path / "own.key").read_bytes()
    with pytest.raises(KeyFault, match="choose another name"):
        new(tmp_path, "own")
    assert (tmp_path / "own.key").read_bytes() == before


def test_trusting_the_same_key_again_changes_nothing_and_another_of_its_name_is_refused(
    tmp_path: Path,
) -> None:
    public = new(tmp_path / "a", "own")
    trust(tmp_path / "theirs", public)
    trust(tmp_path / "theirs", public)
    with pytest.raises(KeyFault, match="another key of this name"):
        trust(tmp_path / "theirs", new(tmp_path / "b", "own"))
    trust(tmp_path / "theirs", tmp_path / "b/own.pem", name="own-b")
    assert sorted(load_trusted(tmp_path / "theirs").keys) == ["own", "own-b"]


def test_the_newest_key_signs_unless_one_is_named(tmp_path: Path) -> None:
    new(tmp_path, "z-old")
    new(tmp_path, "a-new")
    assert [(key.name, key.signs) for key in listed(tmp_path)] == [("z-old", False), ("a-new", True)]
    newest, named = load_signing_key(tmp_path), load_signing_key(tmp_path, "z-old")
    assert newest is not None
    assert named is not None
    assert (newest.name, named.name) == ("a-new", "z-old")


def test_no_key_at_all_is_no_fault_and_a_missing_named_one_is(tmp_path: Path) -> None:
    assert load_signing_key(tmp_path) is None
    with pytest.raises(KeyFault, match="No such file"):
        load_signing_key(tmp_path, "gone")


@pytest.mark.parametrize("content", [b"", b"no key\n", b"x" * 20_000, None])
def test_a_file_that_holds_no_public_key_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "other.pem"
    if content is not None:
        file.write_bytes(content)
    for refuse in (lambda: trust(tmp_path / "keys", file), lambda: trusted_from([file])):
        with pytest.raises(KeyFault) as caught:
            refuse()
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "keys").rglob("*.pem"))


def test_a_private_key_is_not_trusted_and_not_copied(tmp_path: Path) -> None:
    new(tmp_path, "own")
    with pytest.raises(KeyFault, match="found a private one"):
        trust(tmp_path / "theirs", tmp_path / "own.key")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "new\nline"])
def test_a_name_that_no_manifest_can_carry_names_no_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFault, match="expected a key's name"):
        new(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_this_sides_own_key_is_not_trusted_as_the_other_sides(tmp_path: Path) -> None:
    public = new(tmp_path, "request-2026")
    with pytest.raises(KeyFault, match="own key"):
        trust(tmp_path, public)
    assert not list((tmp_path / "trusted").glob("*"))
