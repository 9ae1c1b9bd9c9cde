"""Reports: their figures from a real side's ledger, readable as text and as a page, sent once however many watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from exchange.database import make_engine
from exchange.database.engine import now
from exchange.database.tables import BatchState, batch
from exchange.operating.assemble import assemble
from exchange.settings import Settings
from exchange.watching import schedule
from exchange.watching.messages import WIDTH
from exchange.watching.report import Cause, read_report
from exchange.watching.report_pages import as_html, as_message, as_text
from exchange.watching.samples import forecast
from exchange.watching.watcher import Watcher
from tests.watching.receivers import mail_server

pytestmark = [
    pytest.mark.same_on("postgresql"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what Apprise imports
]


def fill(settings: Settings) -> None:
    """Have some batches acknowledged within the last day, each a minute after it was sealed, and one before that."""
    moment = now()
    row: dict[str, Any] = {
        "direction": "out",
        "channel": "requests",
        "epoch": "a" * 12,
        "state": BatchState.ACKNOWLEDGED,
    }
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        for number, hours in enumerate([*range(1, 21), 30]):
            at = moment - timedelta(hours=hours)
            values = {"sequence": number, "stem": f"requests-{number}", "records": 100, "bytes": 2_000_000}
            times = {"created_at": at - timedelta(seconds=60), "updated_at": at}
            connection.execute(batch.insert().values(**row, **values, **times))
    engine.dispose()


class Tags(HTMLParser):
    """Sees that every tag is closed, and nothing is fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "img", "link", "svg", "iframe"}
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_has_what_crossed_and_how_fast_and_fits_72_columns_and_a_page(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    fill(settings)
    site = assemble(settings, keyless=True)
    report = read_report(settings, site, now() - timedelta(days=1), "daily", [])
    site.engine.dispose()
    (crossed,) = (one for one in report.crossed if one.channel == "requests")
    assert (crossed.batches, crossed.records, crossed.bytes) == (20, 2000, 40_000_000)
    assert (crossed.median_seconds, crossed.most_seconds) == (60, 60)
    assert sum(report.bars["out"]) == 2000
    cause = Cause(3, "unique", "requests/request (in)", "<b>name</b> = x is taken " * 9, 7)
    full = replace(report, parked=3, causes=(cause,), differing=("request of requests",), agreement={"different": 1})
    text = as_text(full).replace(str(settings.home), "/home")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "requests               20       2,000    40.0 MB     1 min       1 min" in text
    page = as_html(full)
    assert "<b>name" not in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert as_message(report).title == "[request] daily: all is well, no alarm stands"


def test_a_disk_that_fills_has_the_day_when_it_is_full_and_one_that_does_not_has_none() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    days = [start + timedelta(hours=6 * number) for number in range(41)]
    filling = forecast("/", 1000, 600, [(at, 1000 - 10 * number) for number, at in enumerate(days)])
    assert filling.full_at == days[-1] + timedelta(days=15)
    assert filling.a_day == 40
    assert forecast("/", 1000, 600, [(at, 600) for at in days]).full_at is None
    assert forecast("/", 1000, 600, [(at, 600) for at in days[:3]]).over is None


@pytest.mark.parametrize(
    "local,due",
    [
        ("2026-11-28T06:59", ["daily 2026-11-27", "weekly 2026-W48"]),
        ("2026-11-28T07:00", ["daily 2026-11-28", "weekly 2026-W48"]),
        ("2026-11-30T06:59", ["daily 2026-11-29", "weekly 2026-W48"]),
        ("2026-11-30T07:00", ["daily 2026-11-30", "weekly 2026-W49"]),
    ],
)
def test_reports_are_due_at_a_local_time_of_each_day_and_each_monday(
    local: str, due: list[str], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"reports": "weekly, daily"}
    settings = Settings(network="request", peer="response", home=tmp_path, **asked)
    assert [once for _, once in schedule.due_reports(settings, datetime.fromisoformat(local))] == due


def test_a_report_is_mailed_once_as_text_and_as_a_page_however_many_watch(
    make_settings: Callable[..., Settings],
) -> None:
    with mail_server() as (box, port):
        url = f"mail=mailto://127.0.0.1:{port}?from=side@here.example&to=ops@there.example"
        settings = make_settings(notify=url, reports="daily")
        fill(settings)
        watchers = [Watcher(settings, list) for _ in range(2)]
        for watcher in watchers * 2:
            watcher.look_once()
        for watcher in watchers:
            watcher.close()
        (mail,) = box.mails
    text, page = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert page is not None
    assert "  requests               20       2,000    40.0 MB     1 min" in text.get_content()
    assert "<table" in page.get_content()
