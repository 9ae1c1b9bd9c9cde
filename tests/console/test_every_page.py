"""Every page of a side in trouble: all answer, nothing hostile is in any, and in a browser each can be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exchange.people.roles import Role
from exchange.settings import Settings
from tests.console.crawl import crawl
from tests.console.served import console
from tests.console.trouble import RAW, troubled


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with troubled(tmp_path_factory.mktemp("troubled")) as (_, found):
        yield found


@pytest.mark.parametrize("role", list(Role))
def test_no_page_has_what_is_hostile_as_it_is_and_all_answer(settings: Settings, role: Role) -> None:
    statuses: dict[str, int] = {}
    with console(settings, role) as browser:

        def look(address: str) -> str:
            answer = browser.get(address)
            statuses[address] = answer.status
            return answer.body

        pages = dict(crawl(look, *sorted(_starts(browser.get("/health").body))))
    assert len(pages) > 10, sorted(pages)
    wrong = {address: status for address, status in statuses.items() if status != 200}
    assert wrong == {}
    found = {(address, word) for address, body in pages.items() for word in RAW if word in body}
    assert found == set()
    assert any("\\u202e" in body for body in pages.values()), "nothing hostile was looked at"


def _starts(body: str) -> set[str]:
    return {part.split('"')[0] for part in body.split('<li><a href="')[1:]}
