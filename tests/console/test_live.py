"""The page of what happens, and the stream of what comes after it."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from exchange.database import make_engine
from exchange.database.clock import now
from exchange.database.tables import event
from exchange.operating.prepare import prepare
from exchange.serve.feed import MOST_STREAMS, Feed
from exchange.settings import Settings
from tests.console.served import Browser, console

HOSTILE = '<script>alert(1)</script>"><img onerror=x>\u202e\x1b[1m'


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = tmp_path_factory.mktemp("live")
    side = Settings(
        network="response", peer="request", home=made, outgoing=made / "outgoing", incoming=made / "incoming"
    )
    prepare(side).engine.dispose()
    return side


@pytest.fixture
def browser(settings: Settings) -> Iterator[Browser]:
    with console(settings) as found:
        yield found


def happen(settings: Settings, cause: str, state: str = "quarantined") -> None:
    """Let a batch come to a state."""
    engine = make_engine(settings.database_url)
    told = {"subject": "batch", "subject_id": 1, "at": now(), "to_state": state, "cause": cause, "who": "me"}
    with engine.begin() as connection:
        connection.execute(sa.insert(event).values(told))
    engine.dispose()


class Stream:
    """What a page listens to."""

    def __init__(self, browser: Browser, query: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=60)
        self._connection.request("GET", f"/live/events?{query}")
        self.answer = self._connection.getresponse()

    def until(self, words: str) -> str:
        """Read lines until one has these words, and give it."""
        while True:
            line = self.answer.readline().decode()
            assert line, f"the stream ended before {words!r}"
            if words in line:
                return line

    def close(self) -> None:
        """Go away."""
        self._connection.close()


def test_what_happens_is_told_as_it_happens_and_shown_by_what_is_asked_for(
    settings: Settings, browser: Browser
) -> None:
    happen(settings, HOSTILE)
    page = browser.get("/live?kind=batch&level=fault")
    assert "quarantined" in page.words
    assert "<script>alert" not in page.body
    assert "<img" not in page.body
    assert "\u202e" not in page.body
    assert "Nothing of that" in browser.get("/live?kind=act").words
    assert "Nothing of that" in browser.get("/live?channel=elsewhere").words
    assert 'data-events="/live/events?kind=batch&amp;level=fault&amp;after=' in page.body
    with closing(Stream(browser, "level=fault&after=0.0.0")) as stream:
        assert "&lt;script&gt;" in stream.until("data: <tr")
        happen(settings, "well and good", "applied")
        happen(settings, "its digest is wrong")
        assert "its digest is wrong" in stream.until("data: <tr")


def test_so_many_streams_are_told_and_others_keep_their_places(settings: Settings, browser: Browser) -> None:
    streams = [Stream(browser, "after=0.0.0") for _ in range(MOST_STREAMS)]
    try:
        for stream in streams:
            stream.until("retry:")
            stream.until("data: <tr")
        with closing(Stream(browser, "")) as beyond:
            assert "too many" in beyond.until("data:")
            assert beyond.answer.read() == b"\n"
        assert browser.get("/health/live").body == "alive\n"
        assert browser.get("/").status == 200
    finally:
        for stream in streams:
            stream.close()


def test_a_database_that_can_not_be_read_is_said_in_the_stream_and_that_it_can_again(
    settings: Settings, browser: Browser
) -> None:
    engine = make_engine(settings.database_url)
    with closing(Stream(browser, "after=0.0.0")) as stream:
        stream.until("retry:")
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE exchange_event RENAME TO exchange_event_away")
        stream.until("event: trouble")
        assert "exchange_event" in stream.until("data: ")
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE exchange_event_away RENAME TO exchange_event")
        stream.until('data: ""')
    engine.dispose()


def test_streams_end_at_once_when_the_server_stops() -> None:
    async def listened() -> list[object]:
        feed = Feed(list)
        stream = feed.listen({})
        first = await anext(stream)
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await feed.stop()
        return [first, await waiting, await anext(stream, None)]

    assert asyncio.run(listened()) == [([], ""), ([], ""), None]
