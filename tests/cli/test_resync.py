"""Whole tables sent anew, and a new life after a restore, on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa

from exchange.database import make_engine
from tests.cli.conftest import Pair, Side


def count(side: Side, table: str) -> int:
    engine = make_engine(side.database_url)
    with engine.connect() as connection:
        found = connection.scalar(sa.text(f'SELECT count(*) FROM "{table}"'))
    engine.dispose()
    return int(found or 0)


def test_rows_from_before_capture_are_found_by_doctor_and_cross_by_resync(pair: Pair) -> None:
    response, request = pair.response, pair.request
    response.do("seed")
    response.execute("DELETE FROM exchange_change")
    warned = [one for one in response.run("doctor", "--json").lines if one["check"] == "first start"]
    assert [one["level"] for one in warned] == ["warning"]
    assert "`exchange resync directory`" in str(warned[0]["remedy"])
    response.execute("UPDATE exchange_first_load SET done_at = NULL")  # as if the rows had been there before
    assert "first start" not in {one["check"] for one in response.run("doctor", "--json").lines}
    never = {"EXCHANGE_FIRST_LOAD": "never"}
    [exact] = [one for one in response.run("doctor", "--json", **never).lines if one["check"] == "first start"]
    assert "the rows that profile_type, user had" in str(exact["message"])
    assert "nothing to export" in response.do("export", **never).err

    sent = response.do("resync", "directory", "--json").lines
    pair.carry()
    request.do("import")

    assert sum(one["records"] for one in sent) == count(response, "user") + count(response, "profile_type")
    assert count(request, "user") == count(response, "user")
    assert not [one for one in response.run("doctor", "--json").lines if one["check"] == "first start"]
    assert response.do("audit", "--limit", "1", "--json").line["action"] == "resync"


def test_a_resync_of_some_streams_takes_only_those(seeded: Pair) -> None:
    seeded.response.do("export")
    sent = seeded.response.do("resync", "directory", "--stream", "profile_type", "--json").lines
    assert sum(one["records"] for one in sent) == count(seeded.response, "profile_type")


def test_a_resync_of_what_is_not_sent_is_refused_in_one_sentence(seeded: Pair) -> None:
    side = seeded.response
    assert "responses" in side.refused("resync", "requests", code=2)
    assert "carries no stream nothing" in side.refused("resync", "directory", "--stream", "nothing", code=2)
    assert "channel: expected" in side.refused("resync", "--prune-missing", code=2)


def test_what_is_still_to_be_sent_is_listed(seeded: Pair) -> None:
    side = seeded.response
    assert "no snapshot" in side.do("resync").err
    side.execute(
        "INSERT INTO exchange_resync (channel, want, reason, who, state, created_at, updated_at)"
        " VALUES ('directory', 'snapshot', 'a test', 'me', 'asked', '2026-11-22', '2026-11-22')"
    )
    assert side.do("resync", "--json").line["channel"] == "directory"
    assert side.do("resync").out.splitlines()[1].startswith("directory\tsnapshot\tall\tno\tasked")


def test_a_restored_database_goes_on_in_a_new_epoch_and_both_sides_agree(seeded: Pair, tmp_path: Path) -> None:
    response, request = seeded.response, seeded.request
    copy = tmp_path / "copy.db"
    response.do("export")
    shutil.copy(response.home / "exchange.db", copy)
    response.execute("UPDATE \"user\" SET name = 'of a life that was lost'")
    response.execute('DELETE FROM profile_type WHERE id NOT IN (SELECT profile_type_id FROM "user")')
    response.do("export")
    seeded.carry()
    request.do("import")
    for left in response.home.glob("exchange.db-*"):
        left.unlink()
    shutil.copy(copy, response.home / "exchange.db")

    begun = response.do("epoch", "new", "--reason", "restored last night's copy", "--json").line
    response.do("export")
    seeded.carry()
    request.do("import")

    assert begun["channels"] == ["directory", "responses"]
    engines = [make_engine(side.database_url) for side in (response, request)]
    names = []
    for engine in engines:
        with engine.connect() as connection:
            names.append(connection.execute(sa.text('SELECT id, name FROM "user" ORDER BY id')).all())
        engine.dispose()
    assert names[0] == names[1]
    assert count(request, "profile_type") == count(response, "profile_type")
    lives = response.do("epoch", "list", "--json").lines
    assert [(one["current"], one["reason"]) for one in lives] == [
        (True, "restored last night's copy"),
        (False, "the database was made"),
    ]
    assert response.do("audit", "--limit", "2", "--json").lines[1]["action"] == "new_epoch"


def test_a_new_epoch_wants_a_reason(seeded: Pair) -> None:
    assert seeded.response.run("epoch", "new").code == 2


def test_while_a_database_is_halted_nothing_is_exported_and_the_sentence_says_why(seeded: Pair) -> None:
    side = seeded.response
    side.execute("UPDATE exchange_network SET halted_because = 'the far side knows more; `exchange epoch new`'")
    assert "the far side knows more" in side.refused("export", code=1)

    side.do("epoch", "new", "--reason", "a restore")
    assert side.do("export", "--json").lines
