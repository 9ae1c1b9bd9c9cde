"""How far work is: in words and numbers, as lines where there is no terminal, and at a signal."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from exchange.celery import work
from exchange.celery.work import frame
from exchange.celery.work import said as said_of_tasks
from exchange.cli import output
from exchange.progress import Pace, Progress


@pytest.mark.parametrize(
    "pace, said, share",
    [
        (Pace(0, None, 0.0), "0 rows", None),
        (Pace(7, None, 2.0), "7 rows, 4 rows/s", None),
        (Pace(0, 0, 1.0), "0 rows", None),
        (Pace(300_000, 1_000_000, 6.0), "300,000 of 1,000,000 rows (30%), 50,000 rows/s, 14 s left", 0.3),
        (Pace(1_100, 1_000, 1.0), "1,100 of 1,100 rows (100%), 1,100 rows/s, 0 s left", 1.0),
    ],
)
def test_a_pace_says_rows_share_rate_and_time_left(pace: Pace, said: str, share: float | None) -> None:
    assert str(pace) == said
    assert pace.as_dict()["share"] == share


def test_a_line_says_now_and_then_how_far_it_is_and_one_more_at_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    before = signal.getsignal(signal.SIGUSR1)
    progress.add(5)  # nobody watches
    with output.between_batches("exporting", progress):
        progress.expect("a", 4)
        progress.expect("a", 9)
        progress.expect("b", None)
        progress.add(1)
        assert capsys.readouterr().err == ""
        os.kill(os.getpid(), signal.SIGUSR1)
        assert capsys.readouterr().err.startswith("exporting: 1 of 4 rows (25%)")
        monkeypatch.setattr(output, "LINE_SECONDS", 0.0)
        monkeypatch.setattr("exchange.progress.TELL_SECONDS", 0.0)
        progress.add(1)
        assert capsys.readouterr().err.startswith("exporting: 2 of 4 rows (50%)")
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_process_that_does_tasks_logs_how_far_it_is_when_it_is_asked_and_nothing_where_nothing_is_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress, said = Progress(), []
    monkeypatch.setattr(frame, "is_open", lambda: True)
    monkeypatch.setattr(frame, "own_exchange", lambda: SimpleNamespace(progress=progress))
    monkeypatch.setattr(said_of_tasks.log, "info", lambda event, **fields: said.append((event, fields["message"])))
    work.say_how_far()
    with progress.counted():
        progress.expect("arrived", 4)
        progress.add(1)
        work.say_how_far()
        assert not progress.is_watched  # nothing is counted for it that is not known anyhow
    work.say_how_far()
    assert said == [("progress", "1 of 4 rows (25%)")]
