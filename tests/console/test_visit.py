"""What every page and every act of the console hold to, shown by those of channels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from exchange.database import make_engine
from exchange.database.tables import audit
from exchange.operating.prepare import prepare
from exchange.people.roles import Role
from exchange.settings import Settings
from tests.console.served import CSRF, Browser, console

PAUSE = "/channels/requests/pause"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = tmp_path_factory.mktemp("shown")
    side = Settings(
        network="response", peer="request", home=made, outgoing=made / "outgoing", incoming=made / "incoming"
    )
    prepare(side).engine.dispose()
    return side


@pytest.fixture(scope="module")
def browser(settings: Settings) -> Iterator[Browser]:
    with console(settings) as found:
        yield found


def test_an_act_says_on_its_page_what_came_of_it_and_the_audit_has_who_asked(
    browser: Browser, settings: Settings
) -> None:
    page = browser.post(PAUSE, "/channels", reason="their disk is changed")
    assert page.words.count("by nora: their disk is changed") == 2, "as the outcome, and as what stands"
    assert browser.get("/channels").words.count("by nora: their disk is changed") == 1
    assert "goes on" in browser.post("/channels/requests/resume", "/channels", reason="it is there").words
    assert "a reason is needed" in browser.post(PAUSE, "/channels", reason=" ").words
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        acts = connection.execute(
            sa.select(audit.c.action, audit.c.who, audit.c.origin, audit.c.why)
            .where(audit.c.concludes.is_(None))
            .order_by(audit.c.id)
        ).all()
    engine.dispose()
    where = "console, password, 127.0.0.1"
    assert acts == [
        ("pause_channel", "nora", where, "their disk is changed"),
        ("resume_channel", "nora", where, "it is there"),
    ]


def test_who_may_only_look_sees_no_act_and_can_do_none(settings: Settings) -> None:
    with console(settings, Role.VIEWER) as browser:
        page = browser.get("/channels")
        assert page.status == 200
        assert "Pause it" not in page.words
        assert "needs the role operator" in browser.post(PAUSE, "/channels", reason="why not").words


@pytest.mark.parametrize(
    "headers, token",
    [
        ({"Origin": "https://evil.example"}, CSRF),
        ({"Origin": "null"}, CSRF),
        ({"Sec-Fetch-Site": "cross-site"}, CSRF),
        ({"Sec-Fetch-Site": "same-site"}, CSRF),
        ({}, "another-token"),
        ({}, ""),
    ],
)
def test_a_form_that_no_page_of_ours_sent_does_nothing(browser: Browser, headers: dict[str, str], token: str) -> None:
    sent = f"csrf={token}&back=/channels&reason=because"
    answer = browser.ask("POST", PAUSE, sent, headers)
    assert answer.headers["location"] == "/channels"
    page = browser.get("/channels")
    assert "not asked from a page of this console" in page.words
    assert "Let it go on" not in page.words


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_an_act_leads_back_to_a_page_of_ours_alone(browser: Browser, back: str) -> None:
    answer = browser.ask("POST", PAUSE, f"csrf={CSRF}&back={back}", {"Origin": f"http://127.0.0.1:{browser.port}"})
    assert answer.headers["location"] == "/"
    browser.cookies.clear()


def test_pages_hold_to_a_policy_that_runs_and_fetches_nothing_from_elsewhere(browser: Browser) -> None:
    answer = browser.get("/health")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert {part.split()[0] for part in policy.split("; ")} >= {"default-src", "script-src", "style-src", "form-action"}
    assert " style=" not in answer.body
    assert " onclick" not in answer.body
    assert "http://" not in answer.body.replace("http://www.w3.org", "")
    assert browser.get("/static/console.css").headers["content-type"].startswith("text/css")
    assert browser.get("/static/../frame.py").status == 404
