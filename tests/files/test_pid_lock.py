from pathlib import Path

import pytest

from exchange.database.locks import try_lock
from exchange.files import pid_lock


def refuse(by: str) -> None:
    raise RuntimeError(by)


def test_a_file_is_held_by_one_who_is_named_in_it_until_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "run/lock"
    with pid_lock.hold(file, refuse, " since noon"):
        assert pid_lock.held(file)
        with pytest.raises(RuntimeError, match=r"pid \d+ since noon$"):
            pid_lock.hold(file, refuse)
    assert not pid_lock.held(file)
    pid_lock.hold(file, refuse).close()


def test_two_that_only_look_do_not_keep_each_other_off(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not pid_lock.held(file), "nobody ever held it"
    with file.open("a+") as one, file.open() as other:
        assert try_lock(one, shared=True)
        assert try_lock(other, shared=True)
        assert not pid_lock.held(file)
        assert not try_lock(one)
