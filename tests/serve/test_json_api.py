"""The API over HTTP: the same as the commands by the same names, by role, in pages, refused in the same sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from openapi_spec_validator import validate

from exchange.celery import work
from exchange.database.tables import audit
from exchange.operating.prepare import prepare
from exchange.people.roles import LEAST_ROLE, Role
from exchange.serve.app import make_app
from exchange.serve.json_api.frame import ENDPOINTS, PREFIX, endpoints
from exchange.serve.json_api.openapi import document
from exchange.settings import Settings
from tests.console.served import CSRF, Answer, Browser, console

BY_COMMAND_ALONE = {
    *("forget", "restore", "migrate", "answer_requests", "export_dead_letters", "import_dead_letters", "work_retries"),
    *("intake", "load_files"),
    *("set_requester_password", "revoke_requester", "rotate_token_key"),
    *("add_api_key", "rotate_api_key", "revoke_api_key"),
    "extract",
}
"""What needs a terminal, files of this machine, or nobody."""
OF_PAGES = {"sign_in", "sign_out", "reveal", "propose"}
"""What is no act of its own here: a token signs nobody in, to reveal is to look, to propose is to ask."""


def ask(browser: Browser, method: str, path: str, said: Any = None, **headers: str) -> tuple[Answer, Any]:
    body = None if said is None else json.dumps(said)
    answer = browser.ask(method, f"{PREFIX}{path}", body, {"X-CSRF-Token": CSRF, **headers})
    return answer, json.loads(answer.body)


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("asked")
    made = Settings(
        network="response", peer="request", home=home, outgoing=home / "outgoing", incoming=home / "incoming"
    )
    prepare(made).engine.dispose()
    return made


@pytest.fixture(scope="module")
def served(side: Settings) -> Iterator[Browser]:
    with console(side) as browser:
        yield browser


def test_the_document_is_one_of_openapi_and_has_every_act_of_tasks_and_commands(
    served: Browser, side: Settings
) -> None:
    _, found = ask(served, "GET", "/openapi.json")
    validate(found)
    assert found == json.loads(json.dumps(document(endpoints(side), PREFIX)))
    acts = {one.action for one in ENDPOINTS if one.action and one.method != "GET"} | {"verify_batch"}
    assert LEAST_ROLE.keys() - BY_COMMAND_ALONE - OF_PAGES == acts
    tasks = {name.removeprefix("exchange.") for name in work.WORK}
    assert {one for one in tasks if one in LEAST_ROLE} - BY_COMMAND_ALONE <= acts
    for one in ENDPOINTS:
        assert one.in_path <= {field.name for field in one.fields}, one.path


def test_what_is_looked_at_comes_in_pages_and_what_is_done_is_in_the_audit_by_name(
    served: Browser, side: Settings
) -> None:
    for one in ENDPOINTS:
        if one.method == "GET" and not one.in_path and not any(field.needed for field in one.fields):
            answer = served.ask("GET", f"{PREFIX}{one.path}", None, {})
            assert answer.status == 200, (one.path, answer.body)
            assert answer.headers["content-type"].startswith("application/json")
    answer, done = ask(served, "POST", "/prune", {"reason": "a try"})
    assert (answer.status, done["folded"]) == (200, 0)
    _, page = ask(served, "GET", "/audit?limit=1&action=prune")
    assert [(one["who"], one["why"]) for one in page["entries"]] == [("nora", "a try")]
    engine = sa.create_engine(side.database_url)
    with engine.connect() as connection:
        origin = connection.scalar(sa.select(audit.c.origin).where(audit.c.action == "prune"))
    assert "127.0.0.1" in str(origin)
    engine.dispose()


@pytest.mark.parametrize(
    "method, path, said, status, detail",
    [
        ("GET", "/batches?state=lost", None, 400, "state: expected one of sealed"),
        ("GET", "/batches?limit=501", None, 400, "limit: expected a whole number up to 500"),
        ("GET", "/batches?stat=held", None, 400, "nothing is called so, expected after, channel"),
        ("GET", "/batches?after=9", None, 400, "there is no batch 9 to go on after"),
        ("GET", "/batches/x", None, 400, '"x" names no batch'),
        ("GET", "/dead-letters/7", None, 404, "there is no dead letter 7"),
        ("GET", "/nothing", None, 404, "openapi.json has all that may be asked"),
        ("PUT", "/batches", {}, 405, "expected GET, found PUT"),
        ("POST", "/gaps/accept", {"channel": "notes"}, 400, "sequence: expected a whole number, found nothing"),
        ("POST", "/gaps/accept", [], 400, "the body: expected an object"),
        ("POST", "/export", {"channel": "nowhere"}, 400, "channel: expected one that is sent here"),
        ("POST", "/keys/nobody/untrust", {"reason": "x"}, 422, "nobody"),
        ("POST", "/epochs/0123456789ab/adopt", {"reason": "x"}, 409, "nothing was done"),
    ],
)
def test_what_makes_no_sense_is_a_problem_with_the_sentence_of_the_command(
    served: Browser, method: str, path: str, said: Any, status: int, detail: str
) -> None:
    answer, found = ask(served, method, path, said)
    assert (answer.status, found["status"]) == (status, status), found
    assert detail in found["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_roles_are_told_apart_and_a_page_elsewhere_can_do_nothing(side: Settings) -> None:
    with console(side, Role.VIEWER) as viewer:
        assert ask(viewer, "GET", "/status")[0].status == 200
        for one in ENDPOINTS:
            if one.method != "GET":
                path = one.path
                for field in one.fields:
                    path = path.replace(f"{{{field.name}}}", "1")
                answer, found = ask(viewer, one.method, path, {})
                assert (answer.status, "needs the role" in found["detail"]) == (403, True), one.path
        assert ask(viewer, "GET", "/dead-letters/1?reveal=true")[0].status == 403
    with console(side) as administrator:
        answer, found = ask(administrator, "POST", "/prune", {}, **{"X-CSRF-Token": "another"})
        assert (answer.status, "X-CSRF-Token" in found["detail"]) == (403, True)


def test_nobody_is_told_anything_who_is_not_known(side: Settings) -> None:
    app = make_app(side, identify=lambda _request: None)
    sent: list[Any] = []

    async def ask_it() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        address = {"path": f"{PREFIX}/status", "raw_path": b"/", "query_string": b"", "scheme": "http"}
        known = {"method": "GET", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": None}
        await app({"type": "http", "http_version": "1.1", "root_path": "", **address, **known}, receive, send)

    anyio.run(ask_it)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"www-authenticate"]) == (401, b'Bearer realm="exchange"')
    assert json.loads(sent[1]["body"])["title"] == "nobody knows who asks"
