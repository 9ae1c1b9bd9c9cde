import pytest
from structlog.testing import capture_logs

from exchange.celery.standing_lines import AGAIN_SECONDS, StandingLines
from exchange.celery.work import said as what_is_said
from exchange.operating.doctor.finding import Alarm, Finding, Level


def test_a_trouble_is_said_once_then_each_hour_and_when_it_ends() -> None:
    gap = Finding(
        "gaps", Level.WARNING, "orders: 1 missing", command="exchange gaps", alarm=Alarm.GAP, subject="orders"
    )
    lines, moments = StandingLines(), [(0, [gap]), (60, [gap]), (AGAIN_SECONDS, [gap]), (AGAIN_SECONDS + 60, [])]
    moments += [(AGAIN_SECONDS + 120, [gap]), (AGAIN_SECONDS + 180, [])]
    said = []
    for moment, findings in moments:
        with capture_logs() as told:
            lines.say(findings, moment)
        said.append([one["event"] for one in told])
    assert said == [["alarm"], [], ["alarm"], ["alarm ended"], [], []]


@pytest.mark.parametrize(
    "finding", [Finding("disk", Level.OK, "fine", alarm=Alarm.DISK), Finding("x", Level.FAULT, "y")]
)
def test_what_is_well_or_no_alarm_is_not_said(finding: Finding) -> None:
    with capture_logs() as told:
        StandingLines().say([finding], 0)
    assert told == []


def test_what_troubles_every_run_is_said_once_an_hour_and_again_then() -> None:
    def told(trouble: str) -> int:
        with capture_logs() as said:
            assert what_is_said.told([], {"trouble": trouble}, "nothing")["message"] == trouble
        return sum(one["log_level"] == "warning" for one in said)

    assert [told("the disk is full"), told("the disk is full"), told("it is away"), told("it is away")] == [1, 0, 1, 0]
    what_is_said._warned["it is away"] -= what_is_said.WARNED_SECONDS
    assert [told("the disk is full"), told("it is away")] == [0, 1]
    what_is_said._warned.clear()
