"""What users ask over HTTP, and what they were answered: once a key, within limits, theirs alone."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import argon2
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.api import Exchange
from exchange.database import audit_log, clock, make_engine, tables
from exchange.database.engine import now
from exchange.database.locks import writing
from exchange.operating.prune import prune_expired
from exchange.people import passwords
from exchange.people.api_keys import WRITE
from exchange.people.roles import Role
from exchange.reference.models import Request, Response, ResponseStatus, User
from exchange.requesters import asking, looking, sessions
from exchange.requesters.asking import Limits, Wish
from exchange.requesters.callers import Means, Shown
from exchange.requesters.directory import COLUMNS, DirectoryUser
from exchange.serve.door import waiting
from exchange.serve.door.waiting import Answered, Told, Waiting
from exchange.serve.json_api import reading
from exchange.settings import Settings
from tests.databases import Databases
from tests.serve.doors import PREFIX, Client, door, lend_side

pytestmark = pytest.mark.same_on("postgresql")

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(autouse=True, scope="module")
def _cheap() -> Iterator[None]:
    """Have hashes cost little: what they cost is the library's affair."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwords, "_hasher_of_many", argon2.PasswordHasher(1, 8, 1))
        yield


@pytest.fixture(params=KINDS)
def side(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Settings:
    return lend_side(databases, request.param, tmp_path)


@pytest.fixture
def engine(side: Settings) -> Iterator[Engine]:
    made = make_engine(side.database_url)
    yield made
    made.dispose()


@pytest.fixture
def stranger(side: Settings) -> Iterator[Client]:
    with door(side) as client:
        yield client


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setenv(clock.AHEAD, str(seconds))


def respond(engine: Engine, number: str, result: Any = "warm") -> None:
    """Have a response come, as the responses channel's next batch brings it."""
    with Session(engine) as session, session.begin():
        times = {"started_at": now(), "finished_at": now()}
        answered = {"status": ResponseStatus.ANSWERED, "result": result, "processed_by": "test", **times}
        session.add(Response(request_id=uuid.UUID(number), **answered))


def who_wait(client: Client) -> float:
    """Read from a scrape how many wait for an answer."""
    told = client.browser.get("/metrics").body.splitlines()
    mark = f'exchange_door_waiting{{network="request",process="{os.getpid()}"}} '
    return next(float(line.removeprefix(mark)) for line in told if line.startswith(mark))


def count(engine: Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_a_request_is_made_once_a_key_and_user_and_waits_to_be_exported(
    side: Settings, engine: Engine, stranger: Client
) -> None:
    ada, bob = stranger.sign_in("ada"), stranger.sign_in("bob")
    wish = {"query": "How warm is press 1?", "parameters": {"unit": "celsius"}, "priority": 3}
    answer, made = ada.ask("POST", "/requests", wish, Idempotency_Key="one")
    assert (answer.status, answer.headers["location"]) == (201, f"{PREFIX}/requests/{made['id']}")
    spelt = json.dumps(wish, indent=2, sort_keys=True)
    answer, again = ada.ask("POST", "/requests", spelt, Idempotency_Key="one")
    assert (answer.status, again, answer.headers["idempotent-replayed"]) == (201, made, "true")
    answer, found = ada.ask("POST", "/requests", wish | {"query": "other"}, Idempotency_Key="one")
    assert (answer.status, "stands for another request of yours" in found["detail"]) == (422, True)
    _, others = bob.ask("POST", "/requests", wish, Idempotency_Key="one")
    assert others["id"] != made["id"]
    for key in ("", "x" * 256, "\u00e9", "a b"):
        assert ada.ask("POST", "/requests", wish, Idempotency_Key=key.encode().decode("latin-1"))[0].status == 400
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Request.id, Request.user_id, Request.priority).order_by(Request.user_id))
        assert [(str(row.id), row.priority) for row in rows] == [(made["id"], 3), (others["id"], 3)]
        waiting_to_go = connection.scalars(sa.select(tables.change.c.key).where(tables.change.c.stream == "request"))
        assert len(list(waiting_to_go)) == 2
    with Exchange(side) as exchange:
        prune_expired(exchange.site)
    assert count(engine, tables.idempotency) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_limits_slide_and_are_exact_over_processes(
    databases: Databases, kind: str, tmp_path: Path, turn: Callable[[float], None]
) -> None:
    side = lend_side(databases, kind, tmp_path, requests_per_user=5, requests_per_profile=7)
    engine = make_engine(side.database_url)
    with door(side) as one, door(side) as other:
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE \"user\" SET profile_type_id = 1 WHERE name = 'bob'"))
        adas = [client.showing(one.sign_in("ada").shown) for client in (one, other)]
        bobs = [client.showing(one.sign_in("bob").shown) for client in (one, other)]

        def ask(number: int) -> int:
            whoever = adas if number % 4 < 2 else bobs
            return whoever[number % 2].ask("POST", "/requests", {"query": f"{number}"})[0].status

        with ThreadPoolExecutor(8) as pool:
            assert Counter(pool.map(ask, range(32))) == {201: 7, 429: 25}
        with engine.connect() as connection:
            each = (
                connection.execute(sa.select(sa.func.count(tables.asked.c.id)).group_by(tables.asked.c.user_id))
                .scalars()
                .all()
            )
        assert (sum(each), max(each) <= 5) == (7, True)
        answer, found = adas[0].ask("POST", "/requests", {"query": "more"})
        assert ": 7 requests within" in found["detail"] or found["detail"].startswith(
            "you: 5 requests within 60 seconds"
        )
        assert 0 < int(answer.headers["retry-after"]) <= 60
        turn(61)
        assert [adas[n % 2].ask("POST", "/requests", {"query": "x"})[0].status for n in range(6)] == [*[201] * 5, 429]
        assert "you: 5 requests within 60 seconds" in adas[0].ask("POST", "/requests", {"query": "x"})[1]["detail"]
        assert [bobs[n % 2].ask("POST", "/requests", {"query": "x"})[0].status for n in range(3)] == [201, 201, 429]
        assert "the profile many: 7 requests" in bobs[0].ask("POST", "/requests", {"query": "x"})[1]["detail"]
        for seconds in (130, 260):
            turn(seconds)
            assert ask(1) == 201
        assert count(engine, tables.asked) == 1
        turn(86_400 * 2)
        with Exchange(side) as exchange:
            prune_expired(exchange.site)
        assert count(engine, tables.asked) == 0
    engine.dispose()


def test_the_profiles_limit_of_a_day_holds_and_says_when_the_next_day_begins(stranger: Client) -> None:
    bob = stranger.sign_in("bob")
    for _ in range(2):
        assert bob.ask("POST", "/requests", {"query": "x"}, Idempotency_Key=uuid.uuid4().hex)[0].status == 201
    answer, found = bob.ask("POST", "/requests", {"query": "x"})
    assert (answer.status, found["detail"]) == (
        429,
        "the user 'bob' has made 2 of 2 requests today; the day begins anew at 00:00 UTC",
    )
    assert 0 < int(answer.headers["retry-after"]) <= 86_400


def test_one_sees_ones_own_requests_with_their_responses_page_by_page(engine: Engine, stranger: Client) -> None:
    ada, bob = stranger.sign_in("ada"), stranger.sign_in("bob")
    made = [ada.ask("POST", "/requests", {"query": f"{n}"})[1]["id"] for n in range(5)]
    (foreign,) = [bob.ask("POST", "/requests", {"query": "secret"})[1]["id"]]
    respond(engine, made[1], {"degrees": 21.5})
    found: list[Any] = []
    after = ""
    while True:
        _, page = ada.ask("GET", f"/requests?limit=2{after}")
        found += page["requests"]
        if page["after"] is None:
            break
        after = f"&after={page['after']}"
    assert [one["id"] for one in found] == made[::-1]
    assert [one["response"] and one["response"]["result"] for one in found] == [
        None,
        None,
        None,
        {"degrees": 21.5},
        None,
    ]
    _, one = ada.ask("GET", f"/requests/{made[1]}")
    assert (one["query"], one["response"]["status"], one["response"]["error"]) == ("1", "answered", None)
    for path, status in (
        (f"/requests/{foreign}", 404),
        (f"/requests/{uuid.uuid4()}", 404),
        ("/requests/1%27%20OR%20%271%27%3D%271", 404),
        (f"/requests/%7B{made[0]}%7D", 404),
        ("/requests?after=x", 400),
        ("/requests?after=' OR 1=1", 400),
        ("/requests?limit=0", 400),
        ("/requests?limit=201", 400),
        ("/requests?wait=61", 400),
        ("/requests?user=bob", 403),
        (f"/requests/{foreign}?user=bob", 403),
        ("/requests?limit=1&limit=2", 400),
    ):
        answer, said = ada.ask("GET", path.replace(" ", "%20"))
        assert (answer.status, said["status"], "secret" in answer.body) == (status, status, False), path


def test_administrators_who_may_see_what_is_sensitive_see_what_others_ask_and_that_is_in_the_audit(
    side: Settings, stranger: Client
) -> None:
    stranger.sign_in("ada").ask("POST", "/requests", {"query": "mine"})
    with Exchange(side) as exchange:
        shown = {
            (role, sees): exchange.people.add_token(f"{role}-{sees}", role, timedelta(days=1), sees_sensitive=sees)[1]
            for role, sees in ((Role.ADMINISTRATOR, True), (Role.ADMINISTRATOR, False), (Role.OPERATOR, True))
        }
        for who, status in zip(shown, (200, 403, 403), strict=True):
            answer, found = stranger.showing(shown[who]).ask("GET", "/requests?user=ada@example.org")
            assert (answer.status, "mine" in answer.body) == (status, status == 200), found
        administrator = stranger.showing(shown[Role.ADMINISTRATOR, True])
        assert administrator.ask("GET", "/requests")[0].status == 400
        assert administrator.ask("POST", "/requests", {"query": "x"})[0].status == 401
        with exchange.engine.connect() as connection:
            written = audit_log.entries(connection, action="reveal_requests")
    assert [(one.who, one.arguments, "127.0.0.1" in one.origin) for one in written] == [
        ("token administrator-true", {"user": "ada@example.org"}, True)
    ]


def test_who_waits_is_told_once_the_response_has_come(engine: Engine, stranger: Client) -> None:
    ada = stranger.sign_in("ada")
    first, second = (ada.ask("POST", "/requests", {"query": "x"})[1]["id"] for _ in range(2))
    seen = ada.ask("GET", "/requests")[0].headers["etag"]
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(ada.ask, "GET", "/requests?wait=60")
        one = pool.submit(ada.ask, "GET", f"/requests/{first}?wait=60")
        while who_wait(stranger) != 2:
            assert not both.done()
        respond(engine, first)
        assert one.result()[1]["response"]["result"] == "warm"
        assert [found["id"] for found in both.result()[1]["requests"] if found["response"]] == [first]
    assert ada.ask("GET", f"/requests/{first}?wait=60")[1]["response"]["result"] == "warm"
    assert ada.ask("GET", f"/requests/{second}?wait=1")[1]["response"] is None
    # Whoever says what they have seen is told at once of what came since, and of nothing new in no words.
    answer, found = ada.ask("GET", "/requests?wait=60", If_None_Match=seen)
    assert [one["id"] for one in found["requests"] if one["response"]] == [first]
    same = ada.browser.ask(
        "GET",
        f"{PREFIX}/requests?wait=1",
        None,
        {"Authorization": f"Bearer {ada.shown}", "If-None-Match": answer.headers["etag"]},
    )
    assert (same.status, same.body) == (304, "")


def test_who_is_signed_out_while_they_wait_or_looks_wrong_is_told_that_and_nothing_else(
    side: Settings, engine: Engine, stranger: Client
) -> None:
    ada, bob = stranger.sign_in("ada"), stranger.sign_in("bob")
    number = ada.ask("POST", "/requests", {"query": "x"})[1]["id"]
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ada.ask, "GET", f"/requests/{number}?wait=60")
        while who_wait(stranger) != 1:
            assert not waits.done()
        with Exchange(side) as exchange:
            exchange.requesters.revoke("ada")
        respond(engine, number, "secret")
        answer, _ = waits.result()
    assert (answer.status, "secret" in answer.body) == (401, False)
    wrong: list[tuple[str, str, Any]] = [
        ("GET", "/requests?limit=0", None),
        ("GET", "/requests/x", None),
        ("GET", "/requests?user=bob", None),
        ("POST", "/requests", {"query": ""}),
        ("POST", "/requests", {"query": "x", "kind": "k" * 65}),
        ("POST", "/requests", {"query": "x", "priority": 9}),
        ("POST", "/sign-out", {"stray": 1}),
    ]
    for method, path, said in wrong:
        assert ada.ask(method, path, said)[0].status == 401, path
        assert bob.ask(method, path, said)[0].status in {400, 403, 404, 422}, path


@pytest.mark.postgres
def test_a_look_takes_one_message_to_the_server_and_a_request_four(databases: Databases, tmp_path: Path) -> None:
    side = lend_side(databases, "postgresql", tmp_path / "side")
    with Exchange(side) as exchange:
        checker = exchange.site.checkers["request"]
    engine = make_engine(side.database_url)
    with writing(engine) as connection:
        ada = connection.execute(sa.select(*COLUMNS).where(User.name == "ada")).one()
        session = sessions.begin(connection, ada.id, "::1").id
    shown, seen, limits = Shown(Means.TOKEN, session, ada.id, "::1"), DirectoryUser(*ada), Limits(60, 100, 100)
    trace = tmp_path / "trace"

    def ask(key: str | None) -> str:
        return str(asking.ask(engine, checker, limits, shown, seen, Wish("question", "x", {}), key, WRITE)[1]["id"])

    def messages(do: Callable[[], object]) -> int:
        with engine.connect() as connection, trace.open("w") as file:
            driver: Any = connection.connection.driver_connection
            driver.pgconn.trace(file.fileno())
            connection.close()  # the pool's only one is given to whoever asks next
            do()
            driver.pgconn.untrace()
        return trace.read_text(errors="replace").count("ReadyForQuery")

    number = ask("key")
    assert messages(lambda: looking.find_request(engine, shown, uuid.UUID(number))) == 1
    assert messages(lambda: looking.list_requests(engine, shown, 20)) == 1
    assert messages(lambda: ask(None)) == 4
    assert messages(lambda: ask("other")) == 4
    assert messages(lambda: ask("key")) == 3
    engine.dispose()


GOOD, ENDED = (Shown(Means.TOKEN, name, 1, "127.0.0.1") for name in ("good", "ended"))


def test_one_reader_looks_for_all_who_wait_and_places_are_given_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "MOST_WAITING", 50)
    looks: list[int] = []
    answered: set[uuid.UUID] = set()

    def look(numbers: Mapping[uuid.UUID, Collection[Shown]]) -> Answered:
        looks.append(len(numbers))
        return {one: {"id": str(one)} for one in answered & numbers.keys()}, {GOOD}

    async def play() -> None:
        waits = Waiting(look)
        never = asyncio.create_task(asyncio.sleep(60))
        numbers = [uuid.uuid4() for _ in range(50)]
        all_of_them = [asyncio.create_task(waits.for_one_of([one], 60, never, GOOD)) for one in numbers[:-1]]
        all_of_them.append(asyncio.create_task(waits.for_one_of([numbers[-1]], 60, never, ENDED)))
        while not looks or looks[-1] < 50:  # noqa: ASYNC110 - it is told in another thread
            await asyncio.sleep(0)
        with pytest.raises(waiting.TooManyWait):
            await waits.for_one_of([uuid.uuid4()], 60, never)
        before, waited = len(looks), waits.number
        answered.update(numbers[1:])
        told = [Told(one, {"id": str(one)}) for one in numbers[1:-1]]
        # Whoever is signed out meanwhile is shown nothing that was looked for.
        assert await asyncio.gather(*all_of_them[1:]) == [*told, Told(numbers[-1], None)]
        assert (waited, len(looks) - before <= 3) == (50, True)  # one look for all of them
        gone = asyncio.create_task(asyncio.sleep(0))
        assert not await waits.for_one_of([numbers[0]], 60, gone)
        assert waits.number == 1
        await waits.stop()
        assert not await all_of_them[0]
        assert waits.number == 0
        never.cancel()

    asyncio.run(play())


HOSTILE: tuple[tuple[bytes, int, str], ...] = (
    (b'{"query": "\xff\xfe"}', 400, "the body is no JSON"),
    (b'{"query": "x", "user_id": 2}', 400, "nothing is called so"),
    (b'{"query": "x", "status": "cancelled"}', 400, "nothing is called so"),
    (b'{"query": "x", "id": "1"}', 400, "nothing is called so"),
    (b'{"query": "x", "parameters": []}', 400, "parameters: expected an object"),
    (b'{"query": "x", "parameters": {"a": NaN}}', 400, "the body is no JSON"),
    (b'{"query": "x", "parameters": {"a": 18446744073709551616}}', 400, "the body is no JSON"),
    (b'{"query": "x", "priority": true}', 400, "priority: expected a whole number"),
    (b'{"query": "x", "priority": 6}', 422, "the profile 'many' allows at most 5"),
    (b'{"query": "x", "kind": "' + b"k" * 65 + b'"}', 422, "the kind has 65 characters"),
    (b'{"query": "' + b"q" * 950_000 + b'"}', 422, "at most 900000 cross"),
    (b'{"query": "x", "parameters": ' + b'{"a":' * 90 + b"1" + b"}" * 90 + b"}", 400, "nested deeper than 64"),
    (b"[" * 100_000, 400, "the body is no JSON"),
    (b"", 400, "query: expected a text, found nothing"),
    (b"null", 400, "expected an object"),
    (b'{"query": "' + b"q" * 1_100_000 + b'"}', 413, "too large"),
)


def test_hostile_bodies_are_refused_in_a_sentence_and_change_nothing(
    engine: Engine, stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = stranger.sign_in("ada")
    for body, status, detail in HOSTILE:
        answer, found = raw(ada, body)
        assert (answer, found["status"]) == (status, status), (body[:80], found)
        assert detail in found["detail"], found
        assert "Traceback" not in str(found)
    streamed = raw(ada, iter([b'{"query": "'] + [b"q" * 65_536] * 40 + [b'"}']))
    assert (streamed[0], streamed[1]["detail"][:26]) == (413, "the body: expected at most")
    assert raw(ada, iter([b'{"query"', b': "\'; DROP TABLE request; --"}']))[0] == 201
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", stranger.browser.port), timeout=60) as slow:
        slow.sendall(b"POST /api/v1/requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        said = b"".join(iter(lambda: slow.recv(65_536), b""))
    assert b" 408 " in said
    assert b"application/problem+json" in said
    assert count(engine, Request.__table__) == 1  # type: ignore[arg-type]


def raw(client: Client, body: bytes | Iterator[bytes]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", client.browser.port, timeout=60)
    try:
        shown = {"Authorization": f"Bearer {client.shown}"}
        connection.request("POST", f"{PREFIX}/requests", body, shown, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_pages_of_other_origins_may_ask_if_they_are_named_and_only_here(databases: Databases, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected origins with commas between"):
        lend_side(databases, "sqlite", tmp_path / "no", requests_origins="*")
    side = lend_side(databases, "sqlite", tmp_path / "side", requests_origins="https://app.example.org")
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    named, other = {"Origin": "https://app.example.org"}, {"Origin": "https://evil.example.org"}
    allowed = "access-control-allow-origin"
    with door(side) as client:

        def headers(method: str, path: str, **more: str) -> dict[str, str]:
            return client.browser.ask(method, f"{PREFIX}{path}", None, more).headers

        assert headers("OPTIONS", "/requests", **named, **wish)[allowed] == named["Origin"]
        assert headers("GET", "/requests", **named)[allowed] == named["Origin"]
        for path, more in (("/requests", other), ("/status", named), ("/tokens", named)):
            assert allowed not in headers("OPTIONS", path, **more, **wish)
            assert allowed not in headers("GET", path, **more)
    with door(side.model_copy(update={"requests_origins": ""})) as client:
        assert allowed not in headers("OPTIONS", "/requests", **named, **wish)
        assert who_wait(client) == 0
