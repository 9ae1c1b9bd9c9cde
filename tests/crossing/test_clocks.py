"""A clock that was wrong for a while, in either direction, and is right again: nothing waits for it to catch up."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from exchange.database import clock
from exchange.database.clock import now
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, gap, repair
from exchange.format.errors import Verdict
from exchange.link import asked_requests, peer_state, send_requests
from exchange.operating.prune import prune_expired
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.sides import Link
from tests.crossing.talking import add, cross, states, take_in, tell

YEAR = 365 * 86400


@pytest.fixture(params=[YEAR, -YEAR], ids=["ahead", "behind"])
def wrong(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def turn(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    monkeypatch.setenv(clock.AHEAD, str(seconds))


def ids(link: Link) -> list[int]:
    return [row["id"] for row in link.other.rows(shop.account)]


def lose(link: Link, sequence: int) -> None:
    """Take a batch of one's out of the carrier's hands."""
    lost = list(link.one.site.spool.folders.outgoing.glob(f"forth-*-{sequence:010}.*"))
    assert len(lost) == 2
    for path in lost:
        path.unlink()


def test_what_was_missed_while_the_clock_was_wrong_comes_once_it_is_right(
    small: Link, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    link = small
    turn(monkeypatch, wrong)
    add(link.one, 1, 2, 3)
    lose(link, 2)
    cross(link)
    assert ids(link) == [1]
    turn(monkeypatch, 0)
    add(link.one, 4)
    for _ in range(3):
        cross(link)
        tell(link.other)
    assert ids(link) == [1, 2, 3, 4]
    assert not link.other.all(sa.select(gap).where(gap.c.state == "missing"))
    tell(link.other)
    cross(link)
    assert set(states(link.one).values()) == {BatchState.ACKNOWLEDGED}


def test_a_data_file_that_stayed_away_is_waited_for_as_long_as_ever(
    small: Link, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    link = small
    turn(monkeypatch, wrong)
    add(link.one, 1)
    files = {path.name: path.read_bytes() for path in link.one.site.spool.folders.outgoing.glob("forth-*")}
    [data] = link.one.site.spool.folders.outgoing.glob("forth-*.jsonl.zst")
    data.unlink()
    link.there.carry()
    take_in(link.other)
    turn(monkeypatch, 0)
    if wrong > 0:
        assert [one.verdict for one in take_in(link.other).batches] == [Verdict.INCOMPLETE]
        turn(monkeypatch, 7200)
    assert [one.verdict for one in take_in(link.other).batches] == [Verdict.QUARANTINED]
    turn(monkeypatch, 0)
    for name, content in files.items():  # what went too early by a clock is taken when it is carried again
        (link.other.site.spool.folders.incoming / name).write_bytes(content)
    take_in(link.other)
    assert ids(link) == [1]


def test_signs_of_life_go_on_and_silence_is_told_by_the_clock_as_it_is_now(
    small: Link, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    link = small

    def silence() -> str:
        with reading(link.other.engine) as connection:
            said = peer_state.read_peer_state(link.other.site, connection)
        return str(said.silence(now()) or "")

    def live() -> None:
        assert control_batch.after_export(link.one.site) is None
        link.round()

    turn(monkeypatch, wrong)
    live()
    turn(monkeypatch, 0)
    assert ("ahead of this clock" if wrong > 0 else "nothing was heard of one for 365 d") in silence()
    before = len(states(link.one, "control"))
    live()
    assert len(states(link.one, "control")) == before + 1
    assert silence() == ""


def test_nothing_is_removed_early_by_a_clock_that_is_ahead(small: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    link = small
    for _ in range(2):
        link.round()
    add(link.one, 1)
    cross(link)
    prune_expired(link.one.site)
    prune_expired(link.other.site)
    kept = sum(1 for side in (link.one, link.other) for folder in ("sealed", "archive") for _ in _files(side, folder))
    turn(monkeypatch, YEAR)
    assert prune_expired(link.one.site).sealed == prune_expired(link.other.site).archived == 0
    turn(monkeypatch, 0)
    tell(link.one)
    link.there.carry()
    turn(monkeypatch, YEAR)
    take_in(link.other)  # and the peer says what time it is there
    pruned = prune_expired(link.other.site)
    assert (pruned.sealed, pruned.archived, pruned.strangers, pruned.letters) == (0, 0, 0, 0)
    turn(monkeypatch, 0)
    left = sum(1 for side in (link.one, link.other) for folder in ("sealed", "archive") for _ in _files(side, folder))
    assert left >= kept


def _files(side: object, folder: str) -> list[object]:
    return list(getattr(side.site.spool.folders, folder).iterdir())  # type: ignore[attr-defined]


def test_what_comes_again_by_the_clock_is_due_when_its_moment_was_of_a_clock_that_was_wrong(
    small: Link, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    link = small
    one = link.one
    turn(monkeypatch, wrong)
    with one.engine.begin() as connection:
        name = asked_requests.ask_peer(
            one.site, connection, channel="back", want="snapshot", reason="a test", who="somebody"
        )
        send_requests.add_request(connection, channel="forth", want="snapshot", prune=True, reason="a test")
        connection.execute(sa.update(repair).where(repair.c.name == name).values(asked_at=now()))
    turn(monkeypatch, 0)
    with one.engine.begin() as connection:
        assert not asked_requests.is_snapshot_asked(connection, "back")
    one.execute("UPDATE exchange_resync SET state = 'done'")
    send_requests.add_due_snapshots(one.site)
    assert send_requests.count_open_requests(one.site, "forth") == 1
    rows = one.all(sa.select(sa.func.count()).select_from(batch).where(batch.c.direction == Direction.IN))
    assert rows == [(0,)]
