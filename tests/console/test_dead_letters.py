"""The pages of dead letters: found by cause and by filter, looked at, mended, tried, given up, each by clicks alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from exchange.database.tables import audit, dead_letter
from exchange.people.roles import Role
from exchange.serve.console import dead_letters
from tests.console import parcels
from tests.console.parcels import Post
from tests.console.served import CSRF, Answer, Browser, console

HOSTILE = 11
LIST = "/dead-letters/list"


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    with parcels.post(tmp_path_factory.mktemp("post")) as made:
        yield made


@pytest.fixture(scope="module")
def browser(post: Post) -> Iterator[Browser]:
    with console(post.settings) as found:
        yield found


def sent(browser: Browser, path: str, **fields: str) -> Answer:
    """Post a form, and give the answer to that itself."""
    body = urlencode({"csrf": CSRF, **fields})
    return browser.ask("POST", path, body, {"Origin": f"http://127.0.0.1:{browser.port}"})


def acts(post: Post, action: str) -> list[tuple[str, str, str | None]]:
    """Give who did something of a kind, from where and why, the latest first."""
    columns = audit.c.who, audit.c.origin, audit.c.why
    asking = (
        sa.select(*columns).where(audit.c.action == action, audit.c.concludes.is_(None)).order_by(audit.c.id.desc())
    )
    with post.office.connect() as connection:
        return [tuple(row) for row in connection.execute(asking)]


def letters_on(page: Answer) -> list[int]:
    return [int(one) for one in re.findall(r'<td data-label="Letter"><a href="/dead-letters/(\d+)"', page.body)]


def test_what_is_wrong_is_told_by_cause_with_whose_fault_it_is_and_the_next_step(browser: Browser) -> None:
    page = browser.get("/dead-letters")
    assert "11 dead letters parked, of 2 causes" in page.words
    assert "10 unique" in page.words
    assert "Whose fault here Next step see which row or rule is in the way" in page.words
    assert page.body.count("parked by the hour, last 24 hours: ") == 4, "a title and a label for each of two trends"
    lead = re.search(r'href="(/dead-letters/list[^"]*)">10 unique', page.body)
    assert lead
    assert letters_on(browser.get(lead[1].replace("&amp;", "&"))) == list(range(10, 0, -1))
    assert "No dead letter is applied" in browser.get("/dead-letters?state=applied").words


@pytest.mark.parametrize(
    "asked, found",
    [
        ({"error": "constraint"}, [11]),
        ({"key": "30"}, [11]),
        ({"text": "LABEL 7 is taken"}, [7]),
        ({"state": "applied"}, []),
        ({"state": "any", "stream": "parcel", "until": "1d"}, []),
        ({"direction": "in", "since": "2h", "order": "oldest", "error": "unique"}, list(range(1, 11))),
    ],
)
def test_a_list_means_what_its_address_says(browser: Browser, asked: dict[str, str], found: list[int]) -> None:
    assert letters_on(browser.get(f"{LIST}?{urlencode(asked)}")) == found


@pytest.mark.parametrize(
    "asked, said",
    [
        ("error=uniqe", "error: expected one of"),
        ("stream=parcle", "did you mean parcel?"),
        ("state=gone", "state: expected one of parked, applied"),
        ("since=yesterday", "since: expected a moment as 2026-11-22T06:15 or 90m, 3h, 2d ago, found 'yesterday'"),
        ("batch=x", "batch: "),
        ("after=999", "there is no dead letter 999 to go on after"),
        ("text=%00", "text: expected something to look for"),
    ],
)
def test_what_makes_no_sense_in_an_address_is_said_beside_its_filters(browser: Browser, asked: str, said: str) -> None:
    page = browser.get(f"{LIST}?{asked}")
    assert page.status == 200
    assert said in page.words
    assert 'name="fingerprint"' in page.body


def test_pages_follow_each_other_with_their_filters(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_LETTERS", 4)
    path, seen = f"{LIST}?error=unique", []
    while path:
        page = browser.get(path)
        seen.append(letters_on(page))
        link = re.search(r'rel="next" href="([^"]*)"|href="([^"]*)"[^>]*rel="next"', page.body)
        path = (link[1] or link[2]).replace("&amp;", "&") if link else ""
    assert seen == [[10, 9, 8, 7], [6, 5, 4, 3], [2, 1]]


def test_hostile_values_are_shown_and_do_nothing(browser: Browser) -> None:
    for path in (f"/dead-letters/{HOSTILE}", f"/dead-letters/{HOSTILE}/edit", f"/dead-letters/{HOSTILE}/edit?as=json"):
        page = browser.get(path)
        assert page.status == 200
        assert not any(one in page.body for one in ("<script>alert", "<img src=x", "\u202e", "\x1b")), path
        assert "<script>alert(1)</script>" in page.words or "alert(1)" in page.words
        assert "\\u202eevil" in page.body
    page = browser.get(LIST + "?" + urlencode({"text": parcels.HOSTILE, "name": "<script>"}))
    assert "<script>alert" not in page.body


def test_the_record_stands_beside_the_row_and_what_differs_is_marked(browser: Browser, post: Post) -> None:
    post.send(parcels.parcel(2, weight=Decimal(999)))  # it is there, and may not change so
    [_, letter] = post.ids("constraint")
    page = browser.get(f"/dead-letters/{letter}")
    [row] = re.findall(r'<tr class="differs">.*?</tr>', page.body)
    assert '"999.0"' in row.replace("&#34;", '"')
    assert '"5.0"' in row.replace("&#34;", '"')
    assert "parcel_weight: CHECK (weight <= 500)" in page.words
    assert "older than this record" in page.words
    assert re.search(r'href="/batches/parcels-[^"]*"', page.body)
    assert browser.get("/dead-letters/999").status == 404


def test_what_is_sensitive_is_shown_to_who_may_see_it_and_asks_and_that_is_in_the_audit(
    browser: Browser, post: Post
) -> None:
    page = browser.get("/dead-letters/1")
    assert "(hidden)" in page.words
    assert "sender 11" not in page.body
    with post.office.begin() as connection:  # of what nobody declared nobody can tell what it is
        record = connection.execute(sa.select(dead_letter.c.record).where(dead_letter.c.id == 1)).scalar_one()
        more = record.replace(b'"label"', b'"pin":"4711","label"')
        changing = sa.update(dead_letter).where(dead_letter.c.id == 1)
        connection.execute(changing.values(record=more, record_bytes=len(more)))
    for path in ("/dead-letters/1", "/dead-letters/1/edit", "/dead-letters/1/edit?as=json"):
        page = browser.get(path)
        assert "pin" in page.words
        assert not any(one in page.body for one in ("4711", "sender 11")), path
    shown = sent(browser, "/dead-letters/1/reveal", reason="who sent it")
    assert "sender 11" in shown.words
    changing = sa.update(dead_letter).where(dead_letter.c.id == 1)
    with post.office.begin() as connection:
        connection.execute(changing.values(record=record, record_bytes=len(record)))
    assert acts(post, "reveal")[0] == ("nora", "console, password, 127.0.0.1", "who sent it")
    with console(post.settings, Role.OPERATOR) as other:
        assert "Show what is hidden" not in other.get("/dead-letters/1").words
        assert "sender 11" not in sent(other, "/dead-letters/1/reveal").body
        assert "may not see what is sensitive" in other.get("/dead-letters/1").words
        assert "may hold what is sensitive" in other.post("/dead-letters/export", LIST, error="unique").words


def test_a_record_is_checked_as_one_types_and_kept_only_when_it_is_saved(browser: Browser, post: Post) -> None:
    page = browser.get(f"/dead-letters/{HOSTILE}/edit")
    fields = dict(re.findall(r'<(?:input|textarea)[^>]* name="((?:value|how):\w+)" value="([^"]*)"', page.body))
    fields |= {"how:label": "kept", "how:sender": "value", "value:kind": "", "value:fragile": "false"}
    assert fields["value:sender"] == "(hidden)"
    form = fields | {"value:weight": "heavy", "revision": "0"}
    assert (
        "Not yet: /data/weight: weight: 'heavy' does not match"
        in sent(browser, f"/dead-letters/{HOSTILE}/check", **form).words
    )
    form |= {"value:weight": "250.0"}
    checked = sent(browser, f"/dead-letters/{HOSTILE}/check", **form).words
    assert 'It fits the schema. What changes: /data/weight: "2500.0" -> "250.0"' in checked
    assert "a reason is needed" in browser.post(f"/dead-letters/{HOSTILE}/edit", LIST, **form).words
    assert post.rows("SELECT count(*) FROM exchange_dead_letter_revision") == [(0,)]

    page = browser.post(f"/dead-letters/{HOSTILE}/edit", LIST, **form, reason="mistyped")
    assert "dead letter 11 has revision 1" in page.words
    assert "1 would be applied" in page.words
    assert acts(post, "edit_dead_letter")[0] == ("nora", "console, password, 127.0.0.1", "mistyped")
    page = browser.post(
        f"/dead-letters/{HOSTILE}/edit", LIST, **form | {"value:weight": "25.0"}, reason="from another tab"
    )
    assert "what you began with is past" in page.words

    page = browser.post("/dead-letters/retry", f"/dead-letters/{HOSTILE}", letter=str(HOSTILE))
    assert "dead letter 11: applied" in page.words
    assert "How it was mended Revision 1 by nora" in page.words
    [row] = post.rows("SELECT label, weight, kind, sender FROM parcel WHERE id = 30")
    assert (row.label, row.kind, row.sender) == (parcels.HOSTILE, None, "sender 30")
    again = browser.post("/dead-letters/retry", f"/dead-letters/{HOSTILE}", letter=str(HOSTILE))
    assert "nothing was changed" in again.words


def test_a_selection_is_tried_a_few_first_then_in_the_background_and_stopped_by_anybody(
    browser: Browser, post: Post
) -> None:
    letters = post.sides["office"].exchange.dead_letters
    assert (
        "name: expected at most 63" in browser.post("/dead-letters/select", LIST, name="Not so!", error="unique").words
    )
    page = browser.post("/dead-letters/select", LIST, name="labels", error="unique")
    here = "/dead-letters/selections/labels"
    assert "selection labels has 10 dead letters" in page.words
    assert (
        "is there already, by nora" in browser.post("/dead-letters/select", here, name="labels", error="unique").words
    )

    page = browser.post(f"{here}/rehearse", here)
    assert "10 would stay parked unique at /data/label (parcel_label)" in page.words
    post.do("UPDATE parcel SET label = 'visitor ' || id WHERE id IN (1001, 1003, 1004, 1005, 1006, 1007, 1008)")
    assert "7 would be applied" in browser.post(f"{here}/rehearse", here).words
    page = browser.post(f"{here}/canary", here, canary="2", reason="two first")
    assert "2 of 10 dead letters tried first, 8 left 1 applied: applied 1 stay parked:" in page.words
    assert "8 not tried yet" in page.words

    assert "retry 1 is to try 8 dead letters" in browser.post(f"{here}/run", here, reason="their labels are free").words
    with console(post.settings, Role.OPERATOR, "otto") as other:
        assert "retry 1 of selection labels, asked for by nora" in other.post(f"{here}/run", here).words
        assert "retry 1 of selection labels, asked for by nora" in other.post(f"{here}/canary", here, canary="1").words
        assert "paused by otto: wait" in other.post("/dead-letters/retries/1/pause", here, reason="wait").words
    assert "Go on" in browser.get("/dead-letters/retries").words
    assert "running by nora" in browser.post("/dead-letters/retries/1/resume", here, reason="go on").words
    while letters.work_off():
        pass
    page = browser.get(here)
    assert "7 applied" in page.words
    assert "3 tried, stay parked" in page.words
    assert "is done" in browser.post("/dead-letters/retries/1/cancel", here, reason="too late").words

    assert "3 dead letters discarded" in browser.post(f"{here}/discard", here, reason="no such parcels").words
    assert "0 dead letters discarded" in browser.post(f"{here}/discard", here, reason="clicked twice").words
    assert "3 dead letters parked again" in browser.post(f"{here}/restore", here, reason="there are").words
    file = sent(browser, "/dead-letters/export", selection="labels", reason="for the plant")
    assert 'filename="dead-letters-labels-' in file.headers["content-disposition"]
    assert len([line for line in file.body.splitlines() if "letter" in json.loads(line)]) == 10
    assert acts(post, "export_dead_letters")[0][2] == "for the plant"
    assert "selection labels is forgotten" in browser.post(f"{here}/unselect", here).words
    assert [who for who, _, _ in acts(post, "pause_retry")] == ["otto"]


def test_those_checked_are_given_up_and_taken_back_together(browser: Browser, post: Post) -> None:
    left = post.ids("unique")[:2]
    body = urlencode([("csrf", CSRF), ("back", LIST), ("reason", "a test"), *(("letter", one) for one in left)])
    headers = {"Origin": f"http://127.0.0.1:{browser.port}"}
    browser.ask("POST", "/dead-letters/discard", body, headers)
    assert "2 dead letters are discarded" in browser.get(LIST).words
    assert post.ids("unique", "discarded") == left
    browser.ask("POST", "/dead-letters/discard", body, headers)
    assert "nothing was changed" in browser.get(LIST).words
    assert "parked again" in browser.post("/dead-letters/restore", LIST, letter=str(left[0]), reason="no test").words
    assert "a reason is needed" in browser.post("/dead-letters/discard", LIST, letter=str(left[0])).words
    assert "no dead letter is checked" in browser.post("/dead-letters/discard", LIST, reason="none").words
    assert "expected the numbers" in browser.post("/dead-letters/retry", LIST, letter="9" * 40).words


def test_who_may_only_look_is_offered_no_act_on_letters(post: Post) -> None:
    with console(post.settings, Role.VIEWER) as browser:
        for path in ("/dead-letters", LIST, "/dead-letters/1", "/dead-letters/selections", "/dead-letters/retries"):
            page = browser.get(path)
            assert page.status == 200
            forms = set(re.findall(r'<form method="post" action="([^"]*)"', page.body.split("<main")[1]))
            assert not forms, path
        assert browser.get("/dead-letters/1/edit").status == 403
        assert browser.get("/dead-letters/rehearsal?letter=1").status == 403
        assert "needs the role operator" in browser.post("/dead-letters/discard", LIST, letter="1", reason="x").words
