"""Signing in, roles and proposals, as a browser and a program meet them on a socket."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import argon2
import pytest
import sqlalchemy as sa
import uvicorn
from starlette.routing import Route

from exchange.api import Exchange
from exchange.api.acts import ByPerson
from exchange.database import clock, make_engine
from exchange.database.tables import audit, session
from exchange.operating.prepare import prepare
from exchange.people import passwords, tokens, users
from exchange.people.roles import Forbidden, Person, Role, Via, least_role
from exchange.serve.app import make_app
from exchange.serve.console.routes import PAGES
from exchange.settings import Settings
from tests.console.served import Answer, Browser

GOOD = "correct horse battery"
NAMES = {Role.VIEWER: "vera", Role.OPERATOR: "oscar", Role.ADMINISTRATOR: "anna"}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hashes cost little: what they cost is the library's affair."""
    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(1, 8, 1))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give a side with a user of each role, and its engine's end."""
    monkeypatch.chdir(tmp_path)
    side = Settings(
        network="response",
        peer="request",
        home=tmp_path,
        outgoing=tmp_path / "outgoing",
        incoming=tmp_path / "incoming",
        four_eyes="new_epoch",
    )
    engine = prepare(side).engine
    for role, name in NAMES.items():
        users.add_user(engine, name, role, GOOD)
    engine.dispose()
    return side


@contextmanager
def served(settings: Settings) -> Iterator[int]:
    """Serve a side as ``exchange serve`` does until the block ends, and give the port."""
    server = uvicorn.Server(uvicorn.Config(make_app(settings), port=0, log_config=None, proxy_headers=False))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, name="console")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the console did not start"
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def sign_in(browser: Browser, name: str, password: str = GOOD, **headers: str) -> Answer:
    ours = {"Origin": f"http://127.0.0.1:{browser.port}"}
    return browser.ask("POST", "/sign-in", urlencode({"name": name, "password": password}), {**ours, **headers})


def as_(port: int, role: Role) -> Browser:
    browser = Browser(port)
    assert sign_in(browser, NAMES[role]).status == 303
    return browser


def token_of(page: Answer) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.body)
    assert found, page.body
    return found[1]


def post(browser: Browser, path: str, **fields: str) -> Answer:
    """Post a form of ours, and give the page after it."""
    sent = urlencode({"csrf": token_of(browser.get("/channels")), "back": "/channels", **fields})
    answer = browser.ask("POST", path, sent, {"Origin": f"http://127.0.0.1:{browser.port}"})
    return browser.get(answer.headers["location"]) if answer.status == 303 else answer


def audited(settings: Settings, *actions: str) -> list[Any]:
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        columns = (audit.c.action, audit.c.who, audit.c.origin)
        found = connection.execute(
            sa.select(*columns).where(audit.c.action.in_(actions), audit.c.concludes.is_(None)).order_by(audit.c.id)
        ).all()
    engine.dispose()
    return [tuple(row) for row in found]


def test_nobody_sees_a_page_before_signing_in_and_nobody_after_signing_out(settings: Settings) -> None:
    with served(settings) as port:
        browser = Browser(port)
        for path in ("/channels", "/people", "/proposals"):
            answer = browser.get(path)
            assert (answer.status, answer.headers["location"]) == (303, f"/sign-in?next={path}")
        assert "Sign in to the exchange" in browser.get("/sign-in").words
        refused = sign_in(browser, "vera", "wrong wrong wrong")
        assert (refused.status, "the name or the password is not right" in refused.words) == (401, True)
        assert browser.cookies == {}
        answer = sign_in(browser, "VERA")
        said = answer.headers["set-cookie"]
        assert said.startswith("exchange_session=")
        assert {one.strip().lower() for one in said.split(";")[1:]} == {"httponly", "path=/", "samesite=strict"}
        page = browser.get("/channels")
        assert "vera, viewer" in page.words
        assert browser.ask("POST", "/sign-out", "csrf=another", {}).status == 403
        browser.ask("POST", "/sign-out", f"csrf={token_of(page)}", {})
        assert browser.get("/channels").status == 303
    assert audited(settings, "sign_in", "sign_out") == [
        ("sign_in", "unknown", "console, 127.0.0.1"),
        ("sign_in", "vera", "console, 127.0.0.1"),
        ("sign_out", "vera", "console, 127.0.0.1"),
    ]


@pytest.mark.thorough
def test_a_session_that_somebody_planted_is_nobodys_and_one_ends_by_the_clock_and_with_its_user(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(settings) as port:
        browser = Browser(port, {"exchange_session": "planted"})
        assert browser.get("/channels").status == 303
        sign_in(browser, "vera")
        assert browser.cookies["exchange_session"] != "planted"
        monkeypatch.setenv(clock.AHEAD, str(31 * 60))
        assert browser.get("/channels").status == 303
        sign_in(browser, "vera")
        assert browser.get("/channels").status == 200
        with Exchange(settings) as exchange:
            exchange.people.disable_user("vera", who="anna")
        assert browser.get("/channels").status == 303
        assert sign_in(browser, "vera").status == 401


@pytest.mark.thorough
def test_whoever_guesses_is_told_how_long_to_wait_and_a_foreign_page_signs_nobody_in(settings: Settings) -> None:
    with served(settings) as port:
        browser = Browser(port)
        assert sign_in(browser, "vera", Origin="https://evil.example").status == 403
        assert sign_in(browser, "vera", **{"Sec-Fetch-Site": "cross-site"}).status == 403
        answers = [sign_in(browser, "vera", "wrong wrong wrong") for _ in range(6)]
        assert [one.status for one in answers] == [401] * 5 + [429]
        assert answers[-1].headers["retry-after"] == "1"
        assert browser.cookies == {}


def acts() -> list[Route]:
    return [one for one in PAGES if hasattr(one, "action")]


@pytest.mark.thorough
@pytest.mark.parametrize("role", Role)
def test_each_role_does_what_it_may_and_is_refused_all_else(settings: Settings, role: Role) -> None:
    """Every page and every act of the console, with a token that is good."""
    with served(settings) as port:
        browser = as_(port, role)
        csrf = token_of(browser.get("/channels"))
        ours = {"Origin": f"http://127.0.0.1:{port}"}
        assert acts()
        for route in acts():
            action: str = route.action  # type: ignore[attr-defined]
            path = re.sub(r"\{[^}]*\}", "9999999", route.path)
            sent = urlencode({"csrf": csrf, "back": "/channels"})
            answer = browser.ask("POST", path, sent, ours)
            said = browser.get(answer.headers["location"]).words if answer.status == 303 else answer.words
            allowed = list(Role).index(role) >= list(Role).index(least_role(action))
            assert ("needs the role" not in said) is allowed, f"{role} {path}: {said[-300:]}"
            assert browser.ask("POST", path, "csrf=another&back=/channels", ours).status in {303, 403}
            assert "not asked from a page of this console" in browser.get("/channels").words, path
        pages = {one.path for one in PAGES if "GET" in (one.methods or ()) and "{" not in one.path}
        answers = {path: browser.get(path).status for path in pages}
        assert {path for path, status in answers.items() if status >= 500} == set()
        denied = {path for path, status in answers.items() if status == 403}
        beyond = {Role.VIEWER: {"/people", "/dead-letters/rehearsal"}, Role.OPERATOR: {"/people"}}
        assert denied == beyond.get(role, set())
    if role is not Role.ADMINISTRATOR:
        assert audited(settings, *{one.action for one in acts() if not role.may(least_role(one.action))}) == []  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_an_administrator_makes_users_and_tokens_by_form(settings: Settings) -> None:
    with served(settings) as port:
        browser = as_(port, Role.ADMINISTRATOR)
        page = post(browser, "/people/add", name="Bob", role="operator", password=GOOD, sees_sensitive="yes")
        assert "bob may sign in as operator" in page.words
        assert (
            "expected 12 to 1024 characters, found 5"
            in post(browser, "/people/add", name="eve", role="viewer", password="short").words
        )
        bob = Browser(port)
        sign_in(bob, "bob")
        assert "bob, operator" in bob.get("/channels").words
        page = post(browser, "/people/bob/change", role="viewer", reason="less to do")
        assert "bob is viewer, and signs in anew" in page.words
        assert bob.get("/channels").status == 303
        made = post(browser, "/people/tokens/add", name="nightly", role="viewer", expires="1d")
        found = re.search(r'id="secret">(exchange_[^<]+)<', made.body)
        assert found
        program = Browser(port)
        answer = program.get("/channels", Authorization=f"Bearer {found[1]}")
        assert "token nightly, viewer" in answer.words
        assert "nightly is good for nothing any more" in post(browser, "/people/tokens/nightly/revoke").words
        assert program.get("/channels", Authorization=f"Bearer {found[1]}").status == 303
        assert GOOD not in made.body + page.body
    assert [one[:2] for one in audited(settings, "add_user", "change_user", "add_token", "revoke_token")] == [
        ("add_user", "anna"),
        ("add_user", "anna"),
        ("change_user", "anna"),
        ("add_token", "anna"),
        ("revoke_token", "anna"),
    ]


@pytest.mark.thorough
def test_only_a_trusted_proxy_says_who_somebody_is_and_whether_others_can_read_along(settings: Settings) -> None:
    said = {"X-Forwarded-User": "anna", "X-Forwarded-For": "6.6.6.6, 10.1.2.3", "X-Forwarded-Proto": "https"}
    with served(settings) as port:
        assert Browser(port).get("/channels", **said).status == 303
    proxied = settings.model_copy(
        update={
            "serve_proxy_from": "127.0.0.1",
            "serve_proxy_header": "X-Forwarded-User",
            "serve_url": "https://exchange.example",
        }
    )
    with served(proxied) as port:
        browser = Browser(port)
        assert "anna, administrator" in browser.get("/channels", **said).words
        assert browser.get("/channels", **{**said, "X-Forwarded-User": "nobody"}).status == 303
        sent = urlencode({"csrf": token_of(browser.get("/channels", **said)), "reason": "x"})
        ours = {**said, "Origin": "https://exchange.example"}
        answer = browser.ask("POST", "/channels/requests/pause", sent, ours)
        assert answer.headers["location"] == "/"
        clear = {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "http"}
        refused = sign_in(browser, "anna", Origin="https://exchange.example", **clear)
        assert (refused.status, "a password is not taken over this connection" in refused.words) == (403, True)
        answer = sign_in(browser, "anna", Origin="https://exchange.example", **{**said, "X-Forwarded-User": ""})
        assert answer.headers["set-cookie"].startswith("__Host-exchange_session=")
        assert "secure" in answer.headers["set-cookie"].lower()
    assert audited(settings, "pause_channel") == [("pause_channel", "anna", "console, proxy, 10.1.2.3")]


def test_what_needs_a_second_person_is_proposed_on_one_page_and_done_by_another_person(settings: Settings) -> None:
    engine = make_engine(settings.database_url)
    users.add_user(engine, "bruno", Role.ADMINISTRATOR, GOOD)
    _, program = tokens.add_token(engine, "robot", Role.ADMINISTRATOR, timedelta(days=1), "anna")
    with served(settings) as port:
        anna, oscar = as_(port, Role.ADMINISTRATOR), as_(port, Role.OPERATOR)
        bruno = Browser(port)
        sign_in(bruno, "bruno")
        page = post(anna, "/epochs/new", reason="restored an old copy")
        assert "this needs a second person: proposed as number 1" in page.words
        assert "You proposed it: another person confirms it." in page.words
        assert "is no second person" in post(anna, "/proposals/1/confirm").words
        assert "needs the role administrator" in post(oscar, "/proposals/1/confirm").words
        answer = Browser(port).ask("POST", "/proposals/1/confirm", "", {"Authorization": f"Bearer {program}"})
        assert answer.status == 303
        assert "number 1 wait" not in bruno.get("/proposals").words
        assert "proposal 1 is confirmed" in post(bruno, "/proposals/1/confirm").words
        assert "proposal 1 is confirmed by bruno already" in post(bruno, "/proposals/1/confirm").words
    assert audited(settings, "propose", "new_epoch") == [
        ("propose", "anna", "console, password, 127.0.0.1"),
        ("new_epoch", "bruno", "console, password, 127.0.0.1"),
    ]
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(session)) == 3
    engine.dispose()


@pytest.mark.thorough
def test_the_same_holds_for_programs_that_act_for_a_person(settings: Settings) -> None:
    with Exchange(settings) as exchange:
        viewer = Person("vera", Role.VIEWER, via=Via.TOKEN)
        for_her = exchange.on_behalf(ByPerson(viewer, "interface"))
        with pytest.raises(Forbidden, match="needs the role operator or administrator, and vera is a viewer"):
            for_her.pause("requests", "why not")
        seer = replace(viewer, role=Role.ADMINISTRATOR)
        with (
            pytest.raises(Forbidden, match="may not see what is sensitive"),
            exchange.on_behalf(ByPerson(seer, "interface")).act(exchange.site, "reveal", {}, None, None),
        ):
            pass
