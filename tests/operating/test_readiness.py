import os

import pytest
from celery.signals import beat_init

from exchange import celery
from exchange.operating.readiness import VARIABLE, Ear, tell


def test_beat_tells_who_started_it_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    for name, value in ear.environment.items():
        monkeypatch.setenv(name, value)
    assert celery.app.main == "exchange"
    beat_init.send(sender=None)
    assert ear.heard()
    assert VARIABLE not in os.environ


def test_one_that_ended_before_was_never_ready_be_something_of_it_left_or_not() -> None:
    gone, left = Ear(), Ear()
    gone.started()
    assert not gone.heard()
    assert not left.heard()
    left.started()


def test_whoever_was_started_by_somebody_else_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    tell()
    monkeypatch.setenv(VARIABLE, "no number")
    tell()
