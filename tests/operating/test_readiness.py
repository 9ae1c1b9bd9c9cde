import os
import threading

import pytest

from exchange.celery import service
from exchange.operating.readiness import VARIABLE, ReadyPipe, report_ready


def test_beat_tells_who_started_it_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    ready_pipe = ReadyPipe()
    for name, value in ready_pipe.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(service, "_ticked", threading.Event())
    service.say_that_it_ticks()
    assert ready_pipe.was_ready()
    assert VARIABLE not in os.environ


def test_one_that_ended_before_was_never_ready_be_something_of_it_left_or_not() -> None:
    gone, left = ReadyPipe(), ReadyPipe()
    gone.close_write_end()
    assert not gone.was_ready()
    assert not left.was_ready()
    left.close_write_end()


def test_whoever_was_started_by_somebody_else_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    report_ready()
    monkeypatch.setenv(VARIABLE, "no number")
    report_ready()
