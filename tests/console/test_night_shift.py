"""A night shift in a browser: somebody who has never seen it finds out why eleven rows did not cross, and mends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Locator, Page, expect, sync_playwright

from exchange.database.tables import DeadLetterState, audit, dead_letter
from exchange.people import users
from exchange.people.roles import Role
from tests.console import parcels
from tests.console.parcels import Post
from tests.console.served import console
from tests.databases import Databases

PASSWORD = "correct horse battery"
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
pytestmark = [pytest.mark.thorough, pytest.mark.processes]


@pytest.fixture(params=KINDS)
def post(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Post]:
    urls = {name: databases.fresh("postgresql") for name in ("plant", "office")} if request.param != "sqlite" else None
    with parcels.post(tmp_path, urls) as made:
        yield made


@pytest.fixture
def page(post: Post) -> Iterator[Page]:
    """Give a browser's page at the office, where nora signed in as an operator."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium to click with; apt-get install chromium")
    users.add_user(post.office, "nora", Role.OPERATOR, PASSWORD)
    with console(post.settings, None) as served, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"http://127.0.0.1:{served.port}", viewport={"width": 1280, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto("/health")
        page.get_by_label("Name").fill("nora")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        yield page
        assert said == [], "no script failed, and none that came with a record ran"
        browser.close()


def opened(page: Page, words: str) -> Locator:
    """Open an act, and give its form."""
    act = page.locator("details.act", has=page.locator("summary", has_text=words))
    act.locator("summary").click()
    return act


def test_ten_are_mended_at_once_and_one_is_given_up_by_clicks_alone(page: Page, post: Post) -> None:
    menu = page.get_by_role("navigation", name="Pages")
    menu.get_by_role("link", name="Dead letters").click()

    # Why did eleven rows not cross?
    main = page.get_by_role("main")
    expect(main).to_contain_text("11 dead letters parked, of 2 causes")
    unique = page.locator("section", has=page.get_by_role("heading", name="10 unique"))
    expect(unique).to_contain_text("label = label 10 is taken by the row id = 1010 of parcel")
    broken = page.locator("section", has=page.get_by_role("heading", name="1 constraint"))
    broken.get_by_role("link", name="Look at one").click()
    expect(main).to_contain_text("CHECK (")
    expect(page.get_by_role("row", name="weight")).to_contain_text("2500.0")

    # Nobody sends a parcel of 2,500 kilograms.
    act = opened(page, "Give it up")
    act.get_by_label("Reason").fill("a test at the plant")
    act.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("status").first).to_contain_text("is discarded")

    # The ten others are frozen, and would not go yet.
    menu.get_by_role("link", name="Dead letters").click()
    unique.get_by_role("link", name="List all 10").click()
    act = opened(page, "Select all that match, 10")
    act.get_by_label("Name").fill("labels")
    act.get_by_role("button", name="Freeze them").click()
    page.get_by_role("button", name="Dry run").click()
    expect(main).to_contain_text("10 would stay parked")

    # The visitors give their labels back: now they would. Two go first, and the others behind them.
    post.do("DELETE FROM parcel WHERE id > 1000")
    page.get_by_role("button", name="Dry run").click()
    expect(main).to_contain_text("10 would be applied")
    act = opened(page, "Try a few first")
    act.get_by_label("How many").fill("2")
    act.get_by_label("Reason").fill("their labels are back")
    act.get_by_role("button", name="Try them").dblclick()
    expect(page.get_by_role("status").first).to_contain_text("2 of 10 dead letters tried first, 8 left")
    act = opened(page, "Try all 8 in the background")
    act.get_by_label("Reason").fill("the first two held")
    act.get_by_role("button", name="Begin").click()
    expect(main).to_contain_text("0 of 8 tried")
    while post.sides["office"].exchange.dead_letters.work_off():  # as a worker does
        pass
    expect(page.locator(".tile", has_text="applied")).to_have_text("10applied")  # by itself

    # Did it work?
    menu.get_by_role("link", name="Dead letters").click()
    expect(main).to_contain_text("No dead letter is parked")
    there = {side: rows_of(post, side) for side in ("plant", "office")}
    assert there["plant"].keys() - there["office"].keys() == {30}
    assert there["plant"].items() >= there["office"].items()
    with post.office.connect() as connection:
        states = connection.execute(sa.select(dead_letter.c.state, sa.func.count()).group_by(dead_letter.c.state)).all()
        assert dict(map(tuple, states)) == {DeadLetterState.APPLIED: 10, DeadLetterState.DISCARDED: 1}
        begun = sa.select(audit.c.action, audit.c.why, audit.c.who, audit.c.origin).where(audit.c.concludes.is_(None))
        signed_in, *acts = connection.execute(begun.order_by(audit.c.id)).all()
    assert signed_in.action == "sign_in"
    assert [tuple(one[:2]) for one in acts] == [
        ("discard_dead_letter", "a test at the plant"),
        ("select_dead_letters", None),
        ("retry_dead_letter", "their labels are back"),
        ("retry_dead_letter", "the first two held"),
    ]
    assert {tuple(one[2:]) for one in acts} == {("nora", "console, password, 127.0.0.1")}


def rows_of(post: Post, side: str) -> dict[int, tuple[object, ...]]:
    """Give a side's parcels by their ids."""
    table = parcels.Parcel.__table__
    with post.sides[side].engine.connect() as connection:
        return {row.id: tuple(row) for row in connection.execute(sa.select(*table.columns))}
