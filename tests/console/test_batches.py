"""Batches, quarantine, gaps and what is pending, looked at and mended by clicks, at an office with every trouble."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from exchange.api import Exchange
from exchange.database.tables import audit
from exchange.people.roles import Role
from tests.console.served import Browser, console
from tests.console.troubled import DELETES, HOSTILE, SECRET, Badge, Machine, Troubled, troubled

pytestmark = pytest.mark.same_on("postgresql")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    with troubled(tmp_path_factory.mktemp("troubled")) as found:
        yield found


@pytest.fixture(scope="module")
def office(made: Troubled) -> Iterator[Browser]:
    with console(made.office) as browser:
        yield browser


@pytest.fixture(scope="module")
def plant(made: Troubled) -> Iterator[Browser]:
    with console(made.plant) as browser:
        yield browser


def count(made: Troubled, table: type) -> int:
    with made.sides["office"].engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def audited(made: Troubled, action: str) -> list[tuple[str, str | None]]:
    with made.sides["office"].engine.connect() as connection:
        asked = sa.select(audit.c.who, audit.c.why).where(audit.c.action == action, audit.c.concludes.is_(None))
        return [tuple(row) for row in connection.execute(asked)]


def test_batches_are_found_by_what_the_address_asks_for_and_paged(office: Browser, made: Troubled) -> None:
    works, badges = made.stem("works", 1), made.stem("badges", 2)
    page = office.get("/batches")
    assert badges in page.words
    assert "control-" not in page.words
    assert "control-" in office.get("/batches?channel=control").words
    narrow = office.get("/batches?channel=badges&direction=in&state=held&since=1h&stem=badges-").words
    assert badges in narrow
    assert works not in narrow
    assert "no such batch" in office.get(f"/batches?stem={works}&until=2020-01-01").words
    trace = office.get(f"/batches/{works}").body.partition("trace=")[2].partition('"')[0]
    assert "1 batch" in office.get(f"/batches?trace={trace}").words
    first = made.sides["office"].exchange.batches.list(limit=1)
    newest, after = first.batches[0].batch, first.after
    assert f'href="/batches/{newest}"' in page.body
    behind = office.get(f"/batches?after={after}")
    assert f'href="/batches/{newest}"' not in behind.body
    assert "First page" in behind.words


@pytest.mark.parametrize("asked", ["state=lost", "since=soon", "after=x", "direction=up"])
def test_a_filter_that_makes_no_sense_is_one_sentence(office: Browser, asked: str) -> None:
    answer = office.get(f"/batches?{asked}")
    assert answer.status == 404
    assert f"{asked.partition('=')[0]}: expected" in answer.words


def test_one_batch_has_its_manifest_checks_way_and_records_and_nothing_of_it_is_markup(
    office: Browser, made: Troubled
) -> None:
    page = office.get(f"/batches/{made.stem('works', 2)}")
    for words in (
        "Quarantined (rejected)",
        "by plant-test, which was trusted",
        "from plant to office",
        "written and sealed, by its manifest",
        "came, was verified, and is quarantined",
        "3 to write; schema version 1",
        '{"format":"exchange-batch/1","channel":"works"',
        "onerror=alert(1)",
    ):
        assert words in page.words, words
    assert HOSTILE not in page.body
    assert "<img" not in page.body
    assert "\u202e" not in page.body
    assert "\x1b" not in page.body
    assert SECRET not in page.body
    gone = office.get("/batches/works-000000000000-0000000009")
    assert (gone.status, "has no batch" in gone.words) == (503, True)
    sent = office.get(f"/batches/{made.sent('orders', 1)}").words
    assert "acknowledged: plant has it: applied through 1" in sent
    assert "applied, plant says (its last receipt, heard here)" in sent


def test_what_is_sensitive_is_shown_to_who_may_see_it_and_the_audit_has_that(office: Browser, made: Troubled) -> None:
    here = f"/batches/{made.stem('works', 1)}"
    asked = office.answer(f"{here}/reveal", here, reason="their call 12")
    assert SECRET in asked.body
    assert audited(made, "reveal") == [("nora", "their call 12")]
    with console(made.office, Role.OPERATOR) as operator:
        page = operator.get(here)
        assert "Show what is sensitive" not in page.words
        refused = operator.post(f"{here}/reveal", here, reason="curious")
        assert "may not see what is sensitive" in refused.words
        assert SECRET not in refused.body


def test_a_batch_of_bad_records_is_tried_then_let_in_with_those_parked(office: Browser, made: Troubled) -> None:
    here = f"/batches/{made.stem('works', 2)}"
    tried = office.answer(f"{here}/trial", here)
    assert "1 would take effect" in tried.words
    assert "2 would be parked" in tried.words
    assert "machine_celsius" in tried.words
    assert count(made, Machine) == 3
    with console(made.office, Role.OPERATOR, "olaf") as operator:
        assert "needs an administrator" in operator.answer(f"{here}/trial", here).words
        assert "needs the role administrator" in operator.post(f"{here}/release", here, park="1", reason="x").words
    assert "a reason is needed" in office.post(f"{here}/release", here, park="1").words
    done = office.post(f"{here}/release", here, park="1", reason="two are known to be hot")
    assert "1 applied, 2 parked" in done.words
    assert "2 parked" in office.get(here).words
    assert count(made, Machine) == 4
    assert audited(made, "release_batch")[0] == ("nora", "two are known to be hot")


def test_a_held_batch_is_let_in_and_what_is_applied_stays_as_it_is(office: Browser, made: Troubled) -> None:
    here = f"/batches/{made.stem('badges', 2)}"
    assert "it deletes 1001 of 1001 rows" in office.get(here).words
    assert "held" in office.post(f"/batches/{made.stem('badges', 2)}/replay", here).words
    with Exchange(made.office.model_copy(update={"four_eyes": "release"})) as two:
        assert two.replay(made.stem("badges", 2)).batches[0].verdict == "held"
    assert count(made, Badge) == DELETES, "a replay is no release where that takes a role or two persons"
    assert "applied, 1001 applied" in office.post(f"{here}/release", here, reason="they moved out").words
    assert count(made, Badge) == 0
    assert "duplicate" in office.post(f"{here}/replay", here).words
    verified = office.answer(f"{here}/verify", here).words
    assert "all is well" in verified
    assert "signed by plant-test" in verified


def test_one_of_ours_is_sent_again(office: Browser, made: Troubled) -> None:
    stem = made.sent("orders", 1)
    assert f"published again as {stem}.r2" in office.post(f"/batches/{stem}/resend", f"/batches/{stem}").words
    assert "orders-" in office.post("/gaps/resend", "/gaps", channel="orders", sequences="1-1").words
    assert "has published no batch 7" in office.post("/gaps/resend", "/gaps", channel="orders", sequences="7").words
    assert "nothing was done" in office.post("/gaps/resend", "/gaps", code="nonsense").words
    assert "expected the numbers" in office.post("/gaps/resend", "/gaps", channel="orders", sequences="all").words


def test_quarantine_says_whose_fault_it_is_and_a_stranger_is_judged_anew_and_given_up(
    office: Browser, made: Troubled
) -> None:
    label = made.stem("works", 77)
    page = office.get("/quarantine").words
    assert 'signed by "nobody-else", a key that is not trusted here' in page
    assert "Next: if its sender is yours, trust the key" in page
    assert "whoever brought it, unless its key is only not trusted yet" in page
    item = office.get(f"/quarantine/{label}").words
    assert "signature" in item.partition("Result")[2]
    again = office.post(f"/quarantine/{label}/release", "/quarantine", reason="look again")
    assert "quarantined" in again.words
    assert "a reason is needed" in office.post(f"/quarantine/{label}/discard", "/quarantine").words
    assert "is discarded" in office.post(f"/quarantine/{label}/discard", "/quarantine", reason="nobody's").words
    assert "0 files" in office.post("/quarantine/clear-strangers", "/quarantine", reason="nobody's").words
    assert office.get(f"/quarantine/{label}").status == 503


def test_gaps_say_what_is_done_and_are_gone_on_without(office: Browser, plant: Browser, made: Troubled) -> None:
    with console(made.office.model_copy(update={"link": "one-way"})) as unheard:
        shown = unheard.get("/gaps?channel=readings")
        assert "nothing goes back on this link" in shown.words
        code = re.findall(r'<code class="command">(.*?)</code>', shown.body)[0]
    told = plant.post("/gaps/resend", "/gaps", code=code).words
    assert f"{made.stem('readings', 4)[:-1]}2.r2: published again" in told
    page = office.get("/gaps?channel=readings").words
    assert "2 to 3" in page
    assert "it may only be late; plant is asked for it if it does not come" in page
    with console(made.office, Role.OPERATOR) as operator:
        assert "Go on without" not in operator.get("/gaps").words
    with console(made.office.model_copy(update={"four_eyes": "accept_gap"})) as two:
        asked = {"channel": "readings", "first": "2", "last": "3", "reason": "lost"}
        assert "this needs a second person: proposed as number" in two.post("/gaps/accept", "/gaps", **asked).words
    done = office.post("/gaps/accept", "/gaps", channel="readings", first="2", last="3", snapshot="1", reason="lost")
    assert "readings goes on without 2-3; its sender is told so and asked for a snapshot" in done.words
    assert "lost" in office.get("/gaps?channel=readings&state=accepted").words
    assert "expected the number" in office.post("/gaps/accept", "/gaps", channel="readings", first="x").words


def test_changes_of_a_stream_that_is_no_more_are_moved_or_discarded(plant: Browser) -> None:
    assert "3 changes wait under the name gauge" in plant.get("/pending").words
    moved = plant.post("/pending/move", "/pending", stream="gauge", to="nothing", reason="renamed")
    assert "this side sends no stream nothing" in moved.words
    assert (
        "3 changes of gauge are discarded"
        in plant.post("/pending/discard", "/pending", stream="gauge", reason="its table is gone").words
    )
    assert "gauge" not in plant.get("/pending").words
    assert "nothing was to be sent" in plant.post("/pending/export", "/pending").words


def test_a_version_is_believed_and_a_row_freed(office: Browser) -> None:
    assert "No channel's versions" in office.get("/versions").words
    far = str(2**62)
    assert (
        "may be as far ahead"
        in office.post("/versions/let-in", "/versions", channel="works", version=far, reason="their clock").words
    )
    assert far in office.get("/versions").words
    assert "expected a number" in office.post("/versions/let-in", "/versions", channel="works", version="1e9").words
    freed = office.post("/versions/free", "/versions", stream="machine", key='{"id":1}', reason="frozen")
    assert "its row of machine" in freed.words
    nobody = office.post("/versions/free", "/versions", stream="machine", key='{"id":99}', reason="frozen")
    assert "neither a row nor a delete" in nobody.words
