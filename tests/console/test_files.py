"""Files that people dropped: the page of all and of one, in JSON, and giving one up; whatever they are called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from exchange.database.engine import now
from exchange.database.tables import Direction, IntakeState, audit
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from exchange.operating.prepare import prepare
from exchange.people.roles import Role
from exchange.reading import FileFormat
from exchange.serve.json_api.frame import PREFIX
from exchange.settings import Settings
from tests.console.served import CSRF, Browser, console
from tests.intake.ledger_rows import add_file, add_part

HOSTILE = '<script>alert(1)</script>\u202e"><img onerror=x>.csv'


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(network="response", peer="request", home=tmp_path / "home")
    site = prepare(settings)
    begun = now() - timedelta(seconds=10)
    written = json.dumps({"kind": "csv", "start": 0, "delimiter": ";", "header": ["Id", "x"], "columns": ["id", None]})
    common: dict[str, Any] = {"sha256": "0" * 64, "bytes": 1000, "started_at": begun, "format": written}
    with site.engine.begin() as connection:
        counts = {"rows_read": 500, "rows_loaded": 490, "rows_parked": 10}
        add_file(connection, IntakeState.LOADING, file=HOSTILE, place=f"/drop/{HOSTILE}", **common, **counts)
        add_file(connection, IntakeState.REFUSED, file="bad.csv", message="the header has no column id", **common)
        for number in range(60):
            add_file(connection, IntakeState.LOADED, file=f"{number}.csv", rows_read=1, rows_loaded=1, **common)
        add_part(connection, 1, 0, 0, 500, 500)
        add_part(connection, 1, 1, 500, 500, None)
    yield settings
    site.engine.dispose()


def test_the_pages_show_how_far_each_file_is_and_a_reason_gives_one_up(side: Settings) -> None:
    with console(side) as browser:
        page = browser.get("/files")
        assert (
            "500 of about 1 000 rows read, 50 a second, 10 s left; 490 loaded, 10 bad ; 1 of 2 parts done" in page.words
        )
        assert "<script>alert(1)" not in page.body
        assert "\u202e" not in page.body
        assert "59.csv" in page.words
        assert "the header has no column id" not in page.words
        older = browser.get(f"/files?after={62 - 49}")
        assert "the header has no column id" in older.words
        assert "the header has no column id" in browser.get("/files?state=refused").words
        one = browser.get("/files/1")
        assert "Delimiter ;" in one.words
        assert "x left out" in one.words
        assert browser.get("/files/99").status == 503
        assert "a reason is needed" in browser.post("/files/1/cancel", "/files/1").words
        assert (
            "490 rows of it are loaded and stay" in browser.post("/files/1/cancel", "/files/1", reason="a test").words
        )
        assert "cancelled by" in browser.get("/files/1").words
        assert "file 1 is cancelled; nothing was changed" in browser.post("/files/1/cancel", reason="again").words
        answer = browser.ask("GET", f"{PREFIX}/files?state=cancelled", None, {})
        (said,) = json.loads(answer.body)["files"]
        assert (said["id"], said["pace"]["rows"], said["parts_done"]) == (1, 500, 1)
        refused = browser.ask("POST", f"{PREFIX}/files/2/cancel", '{"reason": "x"}', {"X-CSRF-Token": CSRF})
        assert "file 2 is refused; nothing was changed" in refused.body
    site = prepare(side)
    with site.engine.begin() as connection:
        acts = connection.execute(sa.select(audit.c.action, audit.c.why).where(audit.c.action == "cancel_file")).all()
    site.engine.dispose()
    assert ("cancel_file", "a test") in acts


def test_a_viewer_sees_no_button_and_may_not_press_it(side: Settings) -> None:
    with console(side, Role.VIEWER) as browser:
        assert "/cancel" not in browser.get("/files/1").body
        assert "cancel_file needs the role operator" in browser.post("/files/1/cancel", reason="a test").words


def _checked(browser: Browser, row: dict[str, str]) -> str:
    headers = {"Origin": f"http://127.0.0.1:{browser.port}"}
    return browser.ask("POST", "/dead-letters/1/check", urlencode({"csrf": CSRF, **row}), headers).words


def test_a_row_of_a_file_is_seen_and_mended_on_the_page_of_its_letter_as_it_stands_in_the_file(side: Settings) -> None:
    site = prepare(side)
    written = FileFormat("csv", delimiter=";", header=("Name", "E-Mail"), columns=("name", "email")).as_dict()
    with site.engine.begin() as connection:
        number = add_file(
            connection,
            IntakeState.LOADED,
            stream="user",
            format=json.dumps(written | {"defaults": {"profile_type_id": "1"}}),
            terms=json.dumps({"mode": "insert", "key": []}),
        )
        letter = Letter(
            Direction.IN,
            "directory",
            b'"an<script>";a@b.c;too much',
            "ragged",
            "the row has 3 cells, the header has 2",
            line=7,
            stream="user",
            op="upsert",
            schema_version=1,
            producer="users.csv",
            intake=number,
        )
        store.park(connection, [letter], "refused on loading users.csv")
        store.park(connection, [replace(letter, record=b'"ann ""x""";a@b.c;', line=8)], "refused on loading users.csv")
    with console(side) as browser:
        page = browser.get("/dead-letters/1")
        assert "File users.csv, line 7; its other letters" in page.words
        assert "It is not shown" in page.words
        assert "a@b.c" not in page.body
        assert (
            len(set(re.findall(r'href="/dead-letters/(\d+)"', browser.get(f"/dead-letters/list?intake={number}").body)))
            == 2
        )
        assert "expected the number of a file" in browser.get("/dead-letters/list?intake=x").words
        page = browser.get("/dead-letters/1/edit")
        assert "give the whole record anew" in page.words
        assert "The row, as its file has it" in page.words
        row = {"revision": "0", "record": "ann;a@b.c;x"}
        assert "Not yet: the row: the row has 3 cells" in _checked(browser, row)
        row["record"] = "ann;a@b.c"
        assert "the row could not be read before" in _checked(browser, row)
        page = browser.post("/dead-letters/1/edit", "/", **row, reason="one cell too many")
        assert "dead letter 1 has revision 1" in page.words
        page = browser.get("/dead-letters/1")
        assert "ann;(hidden)" in page.words
        assert "a@b.c" not in page.body
        with console(side, Role.OPERATOR) as other:
            assert "a@b.c" not in other.get("/dead-letters/1").body
        for typed, what in (
            ('"ann ""y""";(hidden)', "what was hidden could not be read"),
            ('"ann ""y""";a@b.c', "the row could not be read before"),
        ):
            where, body = f"{PREFIX}/dead-letters/2/check", json.dumps({"row": typed})
            assert what in browser.ask("POST", where, body, {"X-CSRF-Token": CSRF}).body
        where, body = f"{PREFIX}/dead-letters/2/edit", json.dumps({"row": typed, "reason": "one cell too many"})
        assert json.loads(browser.ask("POST", where, body, {"X-CSRF-Token": CSRF}).body)["revision"] == 1
        wrong = browser.ask("POST", f"{PREFIX}/dead-letters/2/check", '{"record": {}}', {"X-CSRF-Token": CSRF})
        assert "expected its row, as its file has it" in wrong.body
        answer = browser.ask("GET", f"{PREFIX}/dead-letters?intake={number}&text=cells", None, {})
        assert [(one["intake"], one["line"]) for one in json.loads(answer.body)["letters"]] == [
            (number, 8),
            (number, 7),
        ], answer.body
    site.engine.dispose()
