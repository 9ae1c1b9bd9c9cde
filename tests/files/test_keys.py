import base64
import hashlib
import os
import re
import socket
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exchange.files import keys
from exchange.files.keys import (
    KeyFault,
    candidate,
    listed,
    load_own,
    load_signing_key,
    load_trusted,
    new,
    trust,
    trusted_from,
    untrust,
)
from exchange.format.errors import Untrusted
from exchange.format.key_terms import NO_LIMITS, Terms
from exchange.format.signing import SigningKey, TrustedKeys, fingerprint

LINE = b'{"format":"exchange-batch/1"}'


def test_what_one_side_signs_the_other_trusts_after_one_file_was_carried_over(tmp_path: Path) -> None:
    public = new(tmp_path / "ours", "request-2026a")
    trust(tmp_path / "theirs", candidate(public))
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
    trust(tmp_path / "theirs", candidate(public))
    trust(tmp_path / "theirs", candidate(public))
    with pytest.raises(KeyFault, match="another key of this name"):
        trust(tmp_path / "theirs", candidate(new(tmp_path / "b", "own")))
    trust(tmp_path / "theirs", candidate(tmp_path / "b/own.pem", "own-b"))
    assert sorted(load_trusted(tmp_path / "theirs").keys) == ["own", "own-b"]


def test_the_newest_key_signs_unless_one_is_named(tmp_path: Path) -> None:
    new(tmp_path, "z-old")
    new(tmp_path, "a-new")
    assert [(key.name, key.signs) for key in listed(tmp_path)] == [("z-old", False), ("a-new", True)]
    newest, named = load_signing_key(tmp_path), load_signing_key(tmp_path, "z-old")
    assert newest is not None
    assert named is not None
    assert (newest.name, named.name) == ("a-new", "z-old")


def test_the_newest_key_signs_whatever_the_clock_said_when_the_others_were_made(tmp_path: Path) -> None:
    keys.new(tmp_path, "first")
    ahead = (tmp_path / "first.key").stat().st_mtime + 365 * 86400
    os.utime(tmp_path / "first.key", (ahead, ahead))
    for name in ("second", "before_second"):
        keys.new(tmp_path, name)
        key = keys.load_signing_key(tmp_path)
        assert key is not None
        assert key.name == name


def test_no_key_at_all_is_no_fault_and_a_missing_named_one_is(tmp_path: Path) -> None:
    assert load_signing_key(tmp_path) is None
    with pytest.raises(KeyFault, match="there is no such key; make one"):
        load_signing_key(tmp_path, "gone")


@pytest.mark.parametrize("content", [b"", b"no key\n", b"x" * 20_000, None])
def test_a_file_that_holds_no_public_key_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "other.pem"
    if content is not None:
        file.write_bytes(content)
    for refuse in (lambda: candidate(file), lambda: trusted_from([file])):
        with pytest.raises(KeyFault) as caught:
            refuse()
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_private_key_is_not_trusted(tmp_path: Path) -> None:
    new(tmp_path, "own")
    with pytest.raises(KeyFault, match="found a private one"):
        candidate(tmp_path / "own.key")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "new\nline"])
def test_a_name_that_no_manifest_can_carry_names_no_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFault, match="expected a key's name"):
        new(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_this_sides_own_key_is_not_trusted_as_the_other_sides(tmp_path: Path) -> None:
    public = new(tmp_path, "request-2026")
    with pytest.raises(KeyFault, match="own key"):
        trust(tmp_path, candidate(public))
    assert not list((tmp_path / "trusted").glob("*"))


# One block and nothing else, and the number that people compare is the loaded key's


def beside(text: bytes) -> bytes:
    """Give the inner lines of a PEM block, which look like those of a key and are read as a comment."""
    return b"".join(line + b"\n" for line in text.splitlines() if b"-----" not in line)


HONEST, COURIER = SigningKey.generate("honest"), SigningKey.generate("courier")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(beside(HONEST.public_pem()) + COURIER.public_pem(), id="the honest key's line above"),
        pytest.param(COURIER.public_pem() + beside(HONEST.public_pem()), id="the honest key's line below"),
        pytest.param(HONEST.public_pem() + COURIER.public_pem(), id="two blocks"),
        pytest.param(COURIER.public_pem() * 2, id="twice the same"),
        pytest.param(b"# a comment\n" + COURIER.public_pem(), id="a comment"),
        pytest.param(COURIER.public_pem() + b"\0", id="a NUL behind"),
        pytest.param(b"\xef\xbb\xbf" + COURIER.public_pem(), id="a byte order mark"),
        pytest.param(COURIER.public_pem() + COURIER.to_pem(), id="a private one behind"),
    ],
)
def test_a_file_with_anything_beside_its_key_is_refused_wherever_keys_are_read(tmp_path: Path, content: bytes) -> None:
    brought, kept = tmp_path / "brought.pem", tmp_path / "keys/trusted/kept.pem"
    kept.parent.mkdir(parents=True)
    for file in (brought, kept):
        file.write_bytes(content)
    for read in (lambda: candidate(brought), lambda: trusted_from([brought]), lambda: load_trusted(tmp_path / "keys")):
        with pytest.raises(KeyFault, match=r"\.pem: ") as caught:
            read()
        assert "\n" not in str(caught.value)
    (shown,) = listed(tmp_path / "keys")
    assert (shown.fingerprint, shown.fault is None) == (None, False)


def test_what_is_kept_of_a_key_is_written_anew_and_has_the_fingerprint_that_was_compared(tmp_path: Path) -> None:
    brought = tmp_path / "honest.pem"
    brought.write_bytes(b"\r\n" + HONEST.public_pem().replace(b"\n", b"\r\n") + b"  \n")
    wanted = candidate(brought)
    assert wanted.fingerprint == HONEST.fingerprint
    brought.write_bytes(COURIER.public_pem())  # between the comparing and the keeping
    copy = trust(tmp_path / "keys", wanted)
    assert copy.read_bytes() == HONEST.public_pem()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    (shown,) = listed(tmp_path / "keys")
    assert (shown.name, shown.fingerprint) == ("honest", HONEST.fingerprint)
    load_trusted(tmp_path / "keys").check(LINE, HONEST.sign(LINE))


def test_an_own_keys_fingerprint_is_of_what_signs_and_not_of_the_file_beside_it(tmp_path: Path) -> None:
    public = new(tmp_path, "own")
    signing = load_signing_key(tmp_path)
    assert signing is not None
    public.write_bytes(COURIER.public_pem())
    assert [one.fingerprint for one in listed(tmp_path)] == [signing.fingerprint]


def test_a_fingerprint_that_differs_or_a_wrong_end_of_it_is_refused_and_the_right_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "courier.pem"
    file.write_bytes(COURIER.public_pem())
    wanted = candidate(file)
    wanted.check(COURIER.fingerprint)
    for typed in (COURIER.fingerprint[-8:], COURIER.fingerprint):
        wanted.check_last_group(typed)
    with pytest.raises(KeyFault, match="expected the key SHA256:") as caught:
        wanted.check(HONEST.fingerprint)
    assert COURIER.fingerprint in str(caught.value)
    for typed in ("", COURIER.fingerprint[-7:], HONEST.fingerprint[-8:], COURIER.fingerprint[-8:].swapcase()):
        with pytest.raises(KeyFault, match="does not end as was typed"):
            wanted.check_last_group(typed)
    assert COURIER.fingerprint[-8:] not in wanted.shown_part


@pytest.mark.parametrize("what", ["a FIFO", "a folder", "a socket"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    file = tmp_path / "other.pem"
    if what == "a FIFO":
        os.mkfifo(file)
    elif what == "a folder":
        file.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(file))
    for refuse in (lambda: candidate(file), lambda: trusted_from([file])):
        with pytest.raises(KeyFault, match="expected a PEM file"):
            refuse()


# What a key may sign, and until when it is trusted

TERMS = Terms(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), frozenset({"readings", "control"}))


def trusted(folder: Path, terms: Terms | None = None) -> Path:
    brought = folder.with_name("honest.pem")
    brought.write_bytes(HONEST.public_pem())
    return trust(folder, candidate(brought), terms)


def test_limits_are_kept_beside_the_key_and_changed_by_trusting_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    copy = trusted(folder, TERMS)
    kept = copy.with_name("honest.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert load_trusted(folder).terms == {"honest": TERMS}
    trusted(folder)
    assert load_trusted(folder).terms == {"honest": TERMS}
    later = replace(TERMS, not_after=datetime(2028, 1, 1, tzinfo=UTC))
    trusted(folder, later)
    assert load_trusted(folder).terms == {"honest": later}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    trusted(folder, NO_LIMITS)
    assert load_trusted(folder).terms == {}
    assert [path.name for path in copy.parent.iterdir()] == ["honest.pem"]


def test_a_key_is_trusted_no_longer_and_its_limits_do_not_outlive_it(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    trusted(folder, TERMS)
    assert untrust(folder, "honest") == HONEST.fingerprint
    assert load_trusted(folder) == TrustedKeys({})
    (folder / "trusted/honest.json").write_bytes(TERMS.encode())  # as a crash in between would leave them
    assert load_trusted(folder) == TrustedKeys({})
    trusted(folder)
    assert load_trusted(folder).terms == {}
    for name in ("honesty", "own", "../own"):
        with pytest.raises(KeyFault):
            untrust(folder, name)


def test_a_key_whose_file_is_faulty_can_be_trusted_no_longer_and_then_anew(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    trusted(folder).write_bytes(HONEST.public_pem() + COURIER.public_pem())
    with pytest.raises(KeyFault, match="expected one PEM block, found 2"):
        trusted(folder)
    assert untrust(folder, "honest") is None
    trusted(folder)
    load_trusted(folder).check(LINE, HONEST.sign(LINE))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]\n",
        b"{",
        b'{"not_after":"soon"}',
        b'{"not_after":1}',
        b'{"not_after":"2027-01-01T00:00:00"}',
        b'{"not_after":"0001-01-01T00:00:00+23:00"}',
        b'{"not_before":"2027-01-02T00:00:00Z","not_after":"2027-01-01T00:00:00Z"}',
        b'{"channels":[]}',
        b'{"channels":"readings"}',
        b'{"channels":[1]}',
        b'{"channels":["Not A Name"]}',
        b'{"uses":["anything"]}',
        b'{"channels":null,"channels":["readings"]}',
        b"{}" + b" " * 70_000,
    ],
)
def test_limits_that_cannot_be_read_are_never_none(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "keys"
    kept = trusted(folder).with_name("honest.json")
    kept.write_bytes(content)
    with pytest.raises(KeyFault, match=r"honest\.json: ") as caught:
        load_trusted(folder)
    assert "\n" not in str(caught.value)
    trusted(folder, TERMS)
    assert load_trusted(folder).terms == {"honest": TERMS}


def test_whoever_reads_keys_while_one_is_trusted_anew_never_finds_it_without_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = tmp_path / "keys", keys._read_if_there
    trusted(folder)
    changed = False

    def read_later(file: Path, *how: Any) -> bytes | None:
        nonlocal changed
        if file.suffix == ".pem" and not changed:  # a reader who has seen that there are no limits
            changed = True
            untrust(folder, "honest")
            trusted(folder, TERMS)
        return read(file, *how)

    monkeypatch.setattr(keys, "_read_if_there", read_later)
    assert load_trusted(folder).terms == {"honest": TERMS}


def test_a_key_that_goes_while_keys_are_read_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = tmp_path / "keys", keys._read_if_there
    trusted(folder, TERMS)

    def read_later(file: Path, *how: Any) -> bytes | None:
        if file.suffix == ".pem":
            untrust(folder, "honest")
        return read(file, *how)

    monkeypatch.setattr(keys, "_read_if_there", read_later)
    assert load_trusted(folder) == TrustedKeys({})


def test_fingerprints_are_one_form_of_the_key_itself(tmp_path: Path) -> None:
    public = new(tmp_path, "own")
    (key,) = load_own(tmp_path).keys.values()
    said = fingerprint(key)
    assert re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", said)
    der = base64.b64decode(beside(public.read_bytes()))
    assert base64.b64decode(f"{said.removeprefix('SHA256:')}=") == hashlib.sha256(der).digest()
