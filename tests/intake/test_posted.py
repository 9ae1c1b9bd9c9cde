"""Rows that programs send, until they lie in the ledger: bounded, whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels.intake import Intake, check_intakes
from exchange.database.tables import IntakeState, intake
from exchange.intake import dropped, folders, posted, standing
from exchange.intake.posted import NotTaken, Sender, Why
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.processes import KILLED, fork, join
from tests.crossing.sides import Side
from tests.databases import Databases

ROWS = b'{"country": "de", "number": 1, "name": "Ulm"}\n{"country": "de", "number": 2, "name": "Bonn"}\n'
SENT = Intake("sent", stream="place", http=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def site(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Site]:
    side = Side("one", "two", databases, request.param, tmp_path / "home", shop.channels, metadata=shop.metadata)
    yield replace(side.site, intakes=(SENT,))
    side.engine.dispose()


def taken(site: Site) -> list[Path]:
    folder = folders.posted_drop(site, SENT).path / folders.TAKEN
    return list(folder.iterdir()) if folder.exists() else []


def send(site: Site, pieces: Any = (ROWS,), **more: Any) -> folders.Claimed:
    return posted.receive(site, SENT, Sender("API key loader", **more), iter(pieces))


@pytest.mark.same_on("postgresql")
def test_what_was_claimed_before_its_sender_heard_of_it_is_loaded_by_a_worker_once(site: Site) -> None:
    send(site)
    while dropped.work_off(site, lambda: False):
        pass
    with site.engine.connect() as connection:
        (one,) = standing.list_files(connection)
        assert (one.state, one.rows_loaded) == (IntakeState.LOADED, 2)
    again = posted.take_in(site, send(site))
    assert posted.original_of(site, again) == one.id
    with site.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(shop.place)) == 2


def test_a_key_is_for_the_same_rows_alone_unless_those_were_given_up(site: Site) -> None:
    posted.take_in(site, send(site, key="one"))
    posted.take_in(site, send(site, key="one"))
    with pytest.raises(NotTaken, match="other rows were sent with this Idempotency-Key, as 1") as refused:
        send(site, [b"{}\n"], key="one")
    assert refused.value.why is Why.KEY
    send(site, [b"{}\n"], key="two")
    with site.engine.begin() as connection:
        connection.execute(sa.update(intake).values(state=IntakeState.REFUSED))
    send(site, [b"{}\n"], key="one")


@pytest.mark.same_on("postgresql")
def test_a_process_that_is_killed_while_rows_come_leaves_a_draft_that_the_next_one_sweeps(site: Site) -> None:
    def dying() -> Iterator[bytes]:
        yield ROWS
        os._exit(KILLED)

    assert join(fork(lambda: send(site, dying()))) == KILLED
    (draft,) = taken(site)
    assert draft.name.startswith(".")
    assert dropped.take_in(site).waiting == 0  # nobody takes it for rows


@pytest.mark.same_on("postgresql")
@pytest.mark.parametrize(
    "limits, why",
    [
        ({"intake_http_bytes": len(ROWS) - 1}, Why.LARGE),
        ({"intake_http_rows": 1}, Why.LARGE),
        ({"intake_http_seconds": -1.0}, Why.SLOW),
    ],
)
def test_a_body_beyond_a_limit_leaves_nothing(site: Site, limits: dict[str, Any], why: Why) -> None:
    bounded = replace(site, limits=replace(site.limits, **limits))
    with pytest.raises(NotTaken) as refused:
        send(bounded)
    assert (refused.value.why, taken(site)) == (why, [])


@pytest.mark.same_on("postgresql")
def test_no_body_is_taken_where_room_is_short_or_too_many_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(posted, "LEAST_FREE_BYTES", 2**62)
        with pytest.raises(NotTaken, match="no room for more rows") as full:
            send(site)
        assert (full.value.why, taken(site)) == (Why.FULL, [])
    send(site)
    monkeypatch.setattr(posted, "MOST_CLAIMED", 1)
    with pytest.raises(NotTaken, match="too many rows that were sent wait") as busy:
        send(site)
    assert busy.value.why is Why.BUSY


@pytest.mark.same_on("postgresql")
def test_where_rows_lie_is_for_this_user_alone_whoever_may_drop_files(site: Site) -> None:
    send(site)
    assert folders.make_all(site, os.getgid(), beyond=True) == []
    found = folders.posted_drop(site, SENT).path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700


def test_one_intake_of_a_stream_takes_rows_from_programs() -> None:
    (fault,) = check_intakes([SENT, replace(SENT, name="more")], shop.channels)
    assert fault == "stream place: more than one intake has http=True"
