"""A process of ours does not look through all that it imported when it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

SPEAKING = """
from exchange.operating import garbage
garbage.collect_seldom()

class Speaks:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("looked through")

Speaks()
print("done")
"""

TELLING = """
import gc, sys
sys.argv[1:] = ["--version"]
usual = gc.get_threshold()
try:
    exec(compile({program!r}, "program", "exec"))
except SystemExit:
    pass
print(gc.get_threshold() == usual)
"""


def said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_is_there_at_the_end_is_not_looked_through() -> None:
    assert said(SPEAKING) == ["done"]


@pytest.mark.parametrize(
    "program, ours",
    [
        ("from exchange.cli import main; main()", True),
        pytest.param("import celery.bin.celery, exchange.celery.own_app", True, marks=pytest.mark.thorough),
        pytest.param("import exchange.celery.own_app, exchange.cli", False, marks=pytest.mark.thorough),
    ],
)
def test_garbage_is_looked_for_seldom_in_a_process_of_ours_and_as_usual_in_an_applications(
    program: str, ours: bool
) -> None:
    assert said(TELLING.format(program=program))[-1] == str(not ours)
