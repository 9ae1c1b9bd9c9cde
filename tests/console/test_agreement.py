"""The pages of agreement, epochs, keys and audit: what they show of a side, and what their acts do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.api import Exchange
from exchange.files import keys
from exchange.operating.prepare import prepare
from exchange.settings import Settings
from tests.console.served import Browser, console

HOSTILE = '"><script>alert(1)</script>\u202e\x1b[31m'


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = tmp_path_factory.mktemp("sides")
    side = Settings(
        network="response", peer="request", home=made, outgoing=made / "outgoing", incoming=made / "incoming"
    )
    prepare(side).engine.dispose()
    keys.new(side.keys_folder, "response-2026")
    return side


@pytest.fixture(scope="module")
def browser(settings: Settings) -> Iterator[Browser]:
    with console(settings) as found:
        yield found


def test_streams_are_compared_and_sent_whole_from_their_page(browser: Browser) -> None:
    assert "profile_type directory, sent" in browser.get("/agreement").words
    page = browser.post("/agreement/compare", "/agreement", channel="directory")
    assert "directory: the next export" in page.words
    page = browser.post(
        "/agreement/resync", "/agreement", channel="directory", reason="their copy is lost", prune="yes"
    )
    assert "batches of directory are sent" in page.words
    assert (
        "expected one that is sent here"
        in browser.post("/agreement/resync", "/agreement", channel="requests", reason="x").words
    )


def test_an_epoch_is_begun_with_a_reason_and_shows_who_began_it(browser: Browser) -> None:
    page = browser.post("/epochs/new", "/epochs", reason=HOSTILE.replace("\u202e\x1b", ""))
    assert "has begun" in page.words
    assert "nora" in page.words
    assert "<script>alert" not in page.body
    assert "a reason is needed" in browser.post("/epochs/new", "/epochs").words


def test_a_key_is_trusted_by_its_fingerprint_alone_and_given_up(
    browser: Browser, settings: Settings, tmp_path: Path
) -> None:
    file = keys.new(tmp_path, "request-2026")
    wanted = keys.candidate(file)
    asked = {"name": "request-2026", "pem": file.read_text(), "reason": "they called"}
    page = browser.post("/keys/trust", "/keys", **asked, fingerprint="SHA256:" + "A" * 43)
    assert "found SHA256" in page.words
    assert not any(one.trusted for one in keys.listed(settings.keys_folder))
    page = browser.post("/keys/trust", "/keys", **asked, fingerprint=wanted.fingerprint, not_after="2030-01-01")
    assert wanted.fingerprint in page.words
    (kept,) = [one for one in keys.listed(settings.keys_folder) if one.trusted]
    assert kept.terms.not_after is not None
    assert "PRIVATE" not in page.body
    page = browser.post("/keys/request-2026/untrust", "/keys", reason="stolen")
    assert "is trusted no longer" in page.words
    assert not any(one.trusted for one in keys.listed(settings.keys_folder))


def test_the_audit_leads_on_page_by_page_and_says_whether_it_was_changed(browser: Browser, settings: Settings) -> None:
    with Exchange(settings) as exchange:
        for number in range(60):
            exchange.pause("requests", f"reason {number}", who=f"person-{number % 2}")
    first = browser.get("/audit?action=pause_channel&who=person-1")
    assert "reason 59" in first.words
    assert "reason 58" not in first.words
    page = browser.get("/audit?action=pause_channel")
    assert "reason 10 " in page.words
    older = page.body.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    page = browser.get(older)
    assert "reason 9 " in page.words
    assert "reason 10 " not in page.words
    assert "expected a moment" in browser.get("/audit?since=yesterday").words
    assert "Nothing was changed" in browser.get("/audit/check").words


def test_what_somebody_wrote_into_the_audit_shows_and_runs_nothing(browser: Browser, settings: Settings) -> None:
    with (
        Exchange(settings) as exchange,
        exchange.act(exchange.site, "export", {"channel": HOSTILE}, HOSTILE.replace("\u202e\x1b", ""), None) as act,
    ):
        act.came_to({"message": HOSTILE})
    page = browser.get("/audit?action=export")
    assert "<script>alert" not in page.body
    assert "\u202e" not in page.body
    assert "\x1b" not in page.body
    assert "\\u202e" in page.body
