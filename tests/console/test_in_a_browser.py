"""Each page in a real browser: nothing hostile runs, nothing is fetched from elsewhere, and people can read and use it.

``make torture ARGS=tests/console/test_in_a_browser.py`` leaves pictures of all of them in ``.cache/pictures``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from exchange.settings import Settings
from tests.console.chromium import Watched, chromium
from tests.console.crawl import crawl
from tests.console.served import console
from tests.console.trouble import troubled

pytestmark = pytest.mark.thorough

PICTURES = Path(__file__).parents[2] / ".cache" / "pictures"
LOOKS = [("light", 1280, 900), ("dark", 1280, 900), ("light", 390, 844)]

AUDIT = """() => {
    const wrong = [];
    const at = (one) => one.outerHTML.slice(0, 120);
    const wide = document.documentElement.scrollWidth - innerWidth;
    if (wide > 1) wrong.push(`the page is ${wide} pixels too wide`);
    for (const one of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
        if (!one.labels.length && !one.getAttribute("aria-label")) wrong.push("no label: " + at(one));
    for (const one of document.querySelectorAll("button, a[href]"))
        if (!one.textContent.trim() && !one.getAttribute("aria-label")) wrong.push("no words: " + at(one));
    for (const one of document.querySelectorAll("svg[role=img]"))
        if (!one.getAttribute("aria-label")) wrong.push("a drawing without words: " + at(one));
    for (const one of document.querySelectorAll("table"))
        if (!one.querySelector("th")) wrong.push("a table without headings: " + at(one));
    const levels = [...document.querySelectorAll("h1, h2, h3, h4")]
        .filter((one) => one.closest("main")).map((one) => Number(one.tagName[1]));
    if (levels.filter((one) => one === 1).length !== 1) wrong.push("headings: " + levels);
    levels.reduce((before, level) => {
        if (level > before + 1) wrong.push(`h${level} after h${before}`);
        return level;
    }, 0);
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) wrong.push("twice: #" + id);
    if (window.hacked) wrong.push("hostile text ran");
    return wrong;
}"""
CONTRAST = """() => {
    const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (one) => {
        for (; one; one = one.parentElement) {
            const colour = parts(getComputedStyle(one).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.9) return colour;
        }
        return [255, 255, 255];
    };
    const wrong = new Set();
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const one = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || one.closest("svg, script, option") || !one.checkVisibility()) continue;
        const style = getComputedStyle(one);
        const [front, back] = [light(parts(style.color)), light(ground(one))];
        const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
        const large = parseFloat(style.fontSize) >= 24;
        if (ratio < (large ? 3 : 4.5)) wrong.add(`${ratio.toFixed(2)}: ${one.outerHTML.slice(0, 80)}`);
    }
    return [...wrong].slice(0, 5);
}"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with troubled(tmp_path_factory.mktemp("troubled")) as (_, found):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("scheme, width, height", LOOKS)
def test_each_page_is_safe_and_can_be_read_and_used(
    settings: Settings, browser: Browser, scheme: str, width: int, height: int
) -> None:
    looked = Watched(browser, width, height, scheme)
    wrong: list[str] = []
    with console(settings) as served:

        def look(address: str) -> str:
            looked.page.goto(f"http://127.0.0.1:{served.port}{address}", wait_until="load")
            wrong.extend(f"{address}: {one}" for one in looked.page.evaluate(AUDIT))
            wrong.extend(f"{address}: contrast {one}" for one in looked.page.evaluate(CONTRAST))
            name = re.sub(r"[^a-z0-9]+", "-", address.lower()).strip("-") or "overview"
            looked.picture(PICTURES / f"{name[:80]}-{scheme}-{width}.png")
            return looked.page.content()

        pages = dict(crawl(look, "/", most_of_a_kind=1))
    assert len(pages) > 10, sorted(pages)
    assert looked.wrong == []
    assert wrong == []


def test_pages_work_by_keys_alone_and_without_any_script(settings: Settings, browser: Browser) -> None:
    with console(settings) as served:
        looked = Watched(browser)
        looked.page.goto(f"http://127.0.0.1:{served.port}/health")
        looked.page.keyboard.press("Tab")
        assert looked.page.evaluate("document.activeElement.textContent") == "To the page"
        looked.page.keyboard.press("Tab")
        looked.page.keyboard.press("g")
        looked.page.keyboard.press("u")
        looked.page.wait_for_url("**/audit")
        looked.page.keyboard.press("/")
        assert looked.page.evaluate("document.activeElement.name") == "who"
        looked.page.keyboard.type("nobody")
        looked.page.keyboard.press("Enter")
        looked.page.wait_for_url("**who=nobody**")
        for theme, ground in (("dark", "rgb(16, 21, 28)"), ("light", "rgb(246, 247, 249)")):
            looked.page.click(f"button[name=theme][value={theme}]")
            looked.page.wait_for_load_state("load")
            assert looked.page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert looked.wrong == []
        still = browser.new_context(java_script_enabled=False).new_page()
        still.goto(f"http://127.0.0.1:{served.port}/channels")
        still.click("summary:has-text('Pause it')")
        still.fill("details[open] input[name=reason]", "no script is needed")
        still.click("details[open] button")
        assert "no script is needed" in still.content()
        still.click("summary:has-text('Let it go on')")
        still.fill("details[open] input[name=reason]", "it is done")
        still.click("details[open] button")
        assert "goes on" in still.content()
