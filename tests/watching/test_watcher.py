"""The watcher against real receivers and real databases: told once, tried again, and told without the database, too."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import clock, make_engine
from exchange.database.locks import locked, reading
from exchange.database.tables import message
from exchange.operating.doctor.finding import Finding
from exchange.settings import Settings, SettingsFaults, load_settings
from exchange.watching import outbox
from exchange.watching.delivery import send_all
from exchange.watching.messages import of_trial
from exchange.watching.outbox import Kept, written
from exchange.watching.standing import WATCH_LOCK, read_standing
from exchange.watching.watcher import Look, Watcher, try_targets
from tests.watching.conftest import SECRET
from tests.watching.receivers import mail_server, receiving, self_signed
from tests.watching.test_alarms import AWAY, GAP, WORKER

pytestmark = [
    pytest.mark.same_on("postgresql"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what Apprise imports
]

Make = Callable[..., Settings]


def later(monkeypatch: pytest.MonkeyPatch, time: timedelta) -> None:
    """Turn the clock, on top of what it was turned before."""
    monkeypatch.setenv(clock.AHEAD, str(float(os.environ.get(clock.AHEAD, "0")) + time.total_seconds()))


@pytest.fixture
def root_log() -> Iterator[io.StringIO]:
    """Give all that a process logs that shows every line, but for what the mail server says."""
    seen, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(seen), root.level
    handler.addFilter(lambda record: record.name != "mail.log")
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield seen
    root.setLevel(level)
    root.removeHandler(handler)


def bodies(requests: object) -> list[dict[str, object]]:
    return [json.loads(one.body) for one in requests]  # type: ignore[attr-defined]


def test_a_receiver_that_fails_is_tried_again_until_it_takes_the_message_which_has_the_same_number(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(500, 503) as receiver:
        settings = make_settings(notify=f"ops={receiver.url}")
        watcher = Watcher(settings, lambda: [WORKER])
        assert watcher.look_once().unsent == ("ops: it answered 500",)
        assert watcher.look_once().unsent == ()  # it is not its time yet
        later(monkeypatch, timedelta(seconds=31))
        assert watcher.look_once().unsent == ("ops: it answered 503",)
        later(monkeypatch, timedelta(seconds=61))
        assert watcher.look_once().sent == ("ops: [request] fault: worker",)
        assert watcher.look_once().sent == ()
        watcher.close()
        assert len({one.headers["exchange-message"] for one in receiver.requests}) == 1
        assert [one["level"] for one in bodies(receiver.requests)] == ["fault"] * 3


def test_two_watchers_tell_each_alarm_once_and_its_end_once(make_settings: Make) -> None:
    with receiving() as receiver:
        settings = make_settings(notify=f"ops={receiver.url}")
        found: list[Finding] = [WORKER, GAP]
        watchers = [Watcher(settings, lambda: found) for _ in range(2)]
        for watcher in watchers * 2:
            watcher.look_once()
        found.clear()
        for watcher in watchers * 2:
            watcher.look_once()
            watcher.close()
        titles = [one["title"] for one in bodies(receiver.requests)]
        assert titles == ["[request] fault: gap of orders and 1 more", "[request] well again: gap of orders and 1 more"]


def look(settings: Settings, *findings: Finding) -> Look:
    """Look once, as `exchange watch --once` does."""
    watcher = Watcher(settings, lambda: findings)
    try:
        return watcher.look_once()
    finally:
        watcher.close()


def test_the_alarm_that_the_database_is_away_gets_out_and_what_was_told_is_in_the_database_afterwards(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(200, 500) as receiver:
        settings = make_settings(notify=f"ops={receiver.url}")
        gone = settings.model_copy(update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none"})
        look(settings, WORKER)
        done = look(gone, AWAY, WORKER)
        assert done.alone
        assert done.unsent == ("ops: it answered 500",)
        later(monkeypatch, timedelta(seconds=31))
        # Another process, which knows it from the file; of the worker nobody is told again.
        assert look(gone, AWAY, WORKER).sent == ("ops: [request] fault: database",)
        assert look(gone, AWAY, WORKER).sent == ()
        done = look(settings, WORKER)
        assert done.sent == ("ops: [request] well again: database",)
        assert [one.name for one in done.standing] == ["worker"]


def test_a_database_that_somebody_writes_to_for_long_keeps_nobody_from_being_told(
    make_settings: Make, database_url: str
) -> None:
    with receiving() as receiver:
        settings = make_settings(notify=f"ops={receiver.url}")
        engine = make_engine(database_url)
        watcher = Watcher(settings, lambda: [WORKER])
        with locked(engine, WATCH_LOCK):
            assert watcher.look_once().busy  # another watcher, it may be
            assert watcher.look_once().sent == ("ops: [request] fault: worker",)
        assert watcher.look_once().sent == ()
        watcher.close()
        with reading(engine) as connection:
            assert [one.name for one in read_standing(connection)] == ["worker"]
        engine.dispose()


def test_a_sign_of_life_is_given_at_each_look_that_left_nothing_untold(make_settings: Make) -> None:
    with receiving(500) as ops, receiving() as alive:
        settings = make_settings(notify=f"ops={ops.url}", notify_alive=alive.url.partition("+")[2])
        assert look(settings, WORKER).unsent
        assert not alive.requests
        look(settings, WORKER)
        assert [one.path for one in alive.requests] == ["/hook-s3cr3t"]


@pytest.mark.thorough
def test_a_target_that_hangs_keeps_nobody_else_from_being_told(make_settings: Make) -> None:
    with receiving(0) as hangs, receiving() as well:
        settings = make_settings(notify=f"a={hangs.url} b={well.url}")
        targets = {one.name: one for one in settings.notify_targets}
        kept = written(of_trial("request", "ada"), targets, clock.now())
        answers = send_all([one.parcel(targets[one.target], "request") for one in kept], SECRET.encode(), seconds=3.0)
        assert [str(one.fault) for one in answers] == ["no answer within 3 s", "None"]


@pytest.mark.thorough
def test_a_certificate_that_nobody_vouches_for_is_refused_and_one_of_an_authority_of_ours_is_taken(
    make_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = self_signed(tmp_path)
    with receiving(tls=tls) as receiver, mail_server(ssl_context=tls) as (box, port):
        mail = f"mailtos://127.0.0.1:{port}?mode=ssl&from=side@here.example&to=ops@there.example"
        settings = make_settings(notify=f"ops={receiver.url} mail={mail}")
        hook, mailed = try_targets(settings, "ada")
        assert "its certificate is not trusted" in hook.said
        assert "CERTIFICATE_VERIFY_FAILED" in mailed.said
        assert not receiver.requests
        assert not box.mails
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, str(tmp_path / "certificate.pem"))
        assert [one.said for one in try_targets(settings, "ada")] == ["it was taken"] * 2


def test_what_is_refused_for_good_ends_with_the_reason_and_holds_up_nothing(make_settings: Make) -> None:
    with receiving(400, 302, 429) as receiver:
        receiver.headers["Location"] = "http://127.0.0.1:1/elsewhere"
        settings = make_settings(notify=f"ops={receiver.url}")
        targets = {one.name: one for one in settings.notify_targets}
        ends: list[Kept] = []
        for _ in range(3):
            (one,) = written(of_trial("request", "ada"), targets, clock.now())
            (answer,) = send_all([one.parcel(targets["ops"], "request")], SECRET.encode())
            ends.append(one.after(answer, clock.now()))
        assert [one.state for one in ends] == ["failed", "failed", "waiting"]
        assert "does not take this message" in ends[0].last_error
        assert "a redirect, which is not followed" in ends[1].last_error


def test_the_outbox_is_bounded_and_messages_to_a_name_that_is_gone_end(
    make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    monkeypatch.setattr(outbox, "MOST_KEPT", 3)
    monkeypatch.setattr(outbox, "MOST_WAITING", 2)
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        for _ in range(6):
            outbox.keep(connection, written(of_trial("request", "ada"), ["old"], clock.now()))
        assert connection.scalar(sa.select(sa.func.count()).select_from(message)) == 3
        outbox.claim_due(connection, {}, clock.now())
        left = outbox.messages(connection)
        assert {one.last_error for one in left} >= {"nobody of this name is told any more"}
        assert {one.state for one in left} == {"failed"}
    engine.dispose()


def test_a_mail_server_takes_alarms_and_no_secret_is_in_what_is_kept_said_or_shown(
    make_settings: Make, tmp_path: Path, root_log: io.StringIO
) -> None:
    file = tmp_path / "notify"
    with mail_server() as (box, port), receiving(500) as receiver:
        file.write_text(
            f"# who is told\nmail=mailto://127.0.0.1:{port}?from=side@here.example&to=ops@there.example\n"
            f"ops={receiver.url}\nmailto://ada:pa55word@127.0.0.1:1?from=a@b.example&to=c@d.example\n"
        )
        file.chmod(0o600)
        settings = make_settings(notify_file=file)
        watcher = Watcher(settings, lambda: [WORKER])
        done = watcher.try_to_look()
        watcher.close()
    assert done is not None
    assert done.sent == ("mail: [request] fault: worker",)
    (mail,) = box.mails
    assert mail["Subject"] == "[request] fault: worker"
    assert "  $ exchange up" in mail.get_content()
    assert any("Connection refused" in one for one in done.unsent)
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        kept = str(connection.execute(sa.select(message)).all())
    engine.dispose()
    everything = (
        f"{settings!r} {settings.notify_targets} {done} {kept} {settings.watch_file.read_text()} {root_log.getvalue()}"
    )
    for secret in ("pa55word", "s3cr3t", SECRET, "d.example"):
        assert secret not in everything


def test_a_receiver_verifies_a_message_by_what_the_page_says(make_settings: Make) -> None:
    page = (Path(__file__).parents[2] / "deploy/ALARMS.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    verify: dict[str, object] = {}
    exec(compile(code, "ALARMS.md", "exec", dont_inherit=True), verify)  # noqa: S102 - what a reader puts into a file
    with receiving() as receiver:
        assert try_targets(make_settings(notify=f"ops={receiver.url}"), "ada")[0].taken
        (request,) = receiver.requests
    is_genuine = verify["is_genuine"]
    assert callable(is_genuine)
    assert is_genuine(request.headers, request.body, SECRET.encode())
    assert not is_genuine(request.headers, request.body + b" ", SECRET.encode())
    assert not is_genuine(request.headers | {"exchange-timestamp": "1"}, request.body, SECRET.encode())
    said = request.headers["exchange-timestamp"].encode() + b"." + request.body
    assert request.headers["exchange-signature"] == "v1=" + hmac.new(SECRET.encode(), said, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "urls, said",
    [
        ("mailto//x", "number 1, found a text that is no such URL"),
        ("a=mailto://h a=mailto://i", "found a twice"),
        ("slack://T/B?verify=no", "found slack-1 with verify=no"),
    ],
)
def test_who_is_told_is_checked_without_a_word_of_a_url(
    urls: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsFaults, match=said):
        load_settings({"network": "request", "peer": "response", "notify": urls})
    with pytest.raises(SettingsFaults, match="a file with the secret that ops is signed with, found none"):
        load_settings({"network": "request", "peer": "response", "notify": "ops=exchange+https://h/x"})
