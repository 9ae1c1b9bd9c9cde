from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.reference import passwords
from exchange.reference.models import ProfileType, User
from exchange.reference.passwords import check_password, hash_password
from exchange.reference.seeds import PROFILE_TYPES, seed
from tests import compiled


def _administrator(database: Engine) -> User:
    with Session(database, expire_on_commit=False) as session:
        return session.scalars(sa.select(User)).one()


def test_the_owner_gets_profile_types_and_an_administrator(database: Engine) -> None:
    seeded = seed(database, "response")
    assert seeded.profile_types == tuple(name for name, _, _ in PROFILE_TYPES)
    administrator = _administrator(database)
    assert seeded.administrator == administrator.name
    assert administrator.active
    assert seeded.password is not None
    assert check_password(seeded.password, administrator.password_hash)


def test_a_given_password_is_used_and_not_told_again(database: Engine) -> None:
    seeded = seed(database, "response", password="correct horse battery")
    assert seeded.password is None
    assert check_password("correct horse battery", _administrator(database).password_hash)


def test_seeding_again_changes_nothing(database: Engine) -> None:
    seed(database, "response")
    kept = _administrator(database).password_hash
    with database.begin() as connection:
        connection.execute(sa.update(ProfileType).values(daily_limit=7))
    again = seed(database, "response", password="another password")
    assert (again.profile_types, again.administrator, again.password) == ((), None, None)
    assert _administrator(database).password_hash == kept
    with database.connect() as connection:
        assert set(connection.scalars(sa.select(ProfileType.daily_limit))) == {7}


def test_the_other_network_gets_nothing_of_its_own(database: Engine) -> None:
    assert seed(database, "request").administrator is None
    with database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(ProfileType)) == 0


def test_a_short_password_is_refused_and_changes_nothing(database: Engine) -> None:
    with pytest.raises(ValueError, match="has 5 characters, at least 12"):
        seed(database, "response", password="short")
    with database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(User)) == 0


def test_an_empty_password_variable_means_none_given(database: Engine) -> None:
    assert seed(database, "response", password="").password


def test_a_hash_tells_its_password_from_others_and_no_two_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_COST", compiled.HASH_COST)
    first, second = hash_password("päss"), hash_password("päss")
    assert first != second
    assert check_password("päss", first)
    assert not check_password("pass", first)
    assert not check_password("", None)
    assert len(first) <= 255
