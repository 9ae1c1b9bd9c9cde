"""Rules and dashboard: each alert fires when it should and not else, and asks for nothing that no side tells."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from exchange.cli.app import COMMANDS
from exchange.operating.doctor.finding import Alarm

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "exchange.rules.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and "CI" not in os.environ, reason="promtool isn't installed (Debian: apt-get install prometheus)"
)

DAY = 86_400
OUT, IN = 'network="plant",channel="readings",direction="out"', 'network="plant",channel="orders",direction="in"'
PLANT = 'network="plant"'
NOW = 30 * 60
"""When all are looked at, in seconds since the beginning."""

CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ExchangeLinkSilent": (
        {f"exchange_peer_silence_seconds{{{PLANT}}}": "901", f"exchange_peer_period_seconds{{{PLANT}}}": "300"},
        {f"exchange_peer_silence_seconds{{{PLANT}}}": "900"},
    ),
    "ExchangeExportLate": (
        {
            f"exchange_last_success_age_seconds{{{OUT}}}": "901",
            f'exchange_late_after_seconds{{{PLANT},direction="out"}}': "900",
        },
        {f"exchange_paused{{{OUT}}}": "1"},
    ),
    "ExchangeSealedNotPublished": (
        {f'exchange_batches_oldest_age_seconds{{{OUT},state="sealed"}}': "301"},
        {f'exchange_batches_oldest_age_seconds{{{OUT},state="sealed"}}': "299"},
    ),
    "ExchangeImportLate": (
        {
            f"exchange_last_success_age_seconds{{{IN}}}": "181",
            f'exchange_late_after_seconds{{{PLANT},direction="in"}}': "180",
        },
        {f"exchange_last_success_age_seconds{{{IN}}}": "179"},
    ),
    "ExchangeUnacknowledged": (
        {f'exchange_unacknowledged_oldest_age_seconds{{{PLANT},channel="readings"}}': f"{DAY + 1}"},
        {f'exchange_unacknowledged_oldest_age_seconds{{{PLANT},channel="readings"}}': f"{DAY}"},
    ),
    "ExchangeDoorRefuses": (
        {
            f'exchange_door_requests_total{{{PLANT},endpoint="get_requests",status="200"}}': "0+100",
            f'exchange_door_requests_total{{{PLANT},endpoint="post_requests",status="429"}}': "0+3",
            f'exchange_door_requests_total{{{PLANT},endpoint="post_requests",status="503"}}': "0+3",
        },
        {f'exchange_door_requests_total{{{PLANT},endpoint="post_requests",status="503"}}': "7"},
    ),
    "ExchangeDoorSlow": (
        {
            f'exchange_door_seconds_bucket{{{PLANT},endpoint="get_requests",le="0.5"}}': "0+90",
            f'exchange_door_seconds_bucket{{{PLANT},endpoint="get_requests",le="1.0"}}': "0+100",
            f'exchange_door_seconds_bucket{{{PLANT},endpoint="get_requests",le="+Inf"}}': "0+100",
        },
        {f'exchange_door_seconds_bucket{{{PLANT},endpoint="get_requests",le="0.5"}}': "0+96"},
    ),
    "ExchangeGap": (
        {f'exchange_gaps{{{PLANT},channel="orders"}}': "2"},
        {f'exchange_gaps{{{PLANT},channel="orders"}}': "0"},
    ),
    "ExchangeGapStays": (
        {f'exchange_gaps_oldest_age_seconds{{{PLANT},channel="orders"}}': f"{DAY + 1}"},
        {f'exchange_gaps_oldest_age_seconds{{{PLANT},channel="orders"}}': "100"},
    ),
    "ExchangeWaiting": (
        {f'exchange_batches_oldest_age_seconds{{{IN},state="waiting"}}': f"{DAY + 1}"},
        {f'exchange_batches_oldest_age_seconds{{{IN},state="waiting"}}': "100"},
    ),
    "ExchangeQuarantined": (
        {f'exchange_batches{{{IN},state="quarantined"}}': "1"},
        {f'exchange_batches{{{IN},state="quarantined"}}': "0"},
    ),
    "ExchangeRefusedThere": (
        {f'exchange_batches_total{{{OUT},outcome="rejected"}}': "0+1"},
        {f'exchange_batches_total{{{OUT},outcome="rejected"}}': "7"},
    ),
    "ExchangeHeld": (
        {f'exchange_batches{{{IN},state="held"}}': "1"},
        {f'exchange_batches{{{IN},state="held"}}': "0"},
    ),
    "ExchangeStrangers": (
        {f'exchange_strangers{{{PLANT},cause="untrusted"}}': "3"},
        {f'exchange_strangers{{{PLANT},cause="untrusted"}}': "0"},
    ),
    "ExchangeRunsFail": ({f"exchange_failed_runs{{{OUT}}}": "2"}, {f"exchange_failed_runs{{{OUT}}}": "1"}),
    "ExchangeChangesLeft": (
        {f"exchange_leftover_streams{{{PLANT}}}": "1"},
        {f"exchange_leftover_streams{{{PLANT}}}": "0"},
    ),
    "ExchangeBusy": (
        {f"exchange_busy_total{{{OUT}}}": "0+1", f"exchange_last_success_age_seconds{{{OUT}}}": "1801"},
        {f"exchange_last_success_age_seconds{{{OUT}}}": "60"},
    ),
    "ExchangeDeadLetters": (
        {f"exchange_dead_letters_parked{{{PLANT}}}": "1001", f"exchange_dead_letters_alarm_letters{{{PLANT}}}": "1000"},
        {f"exchange_dead_letters_parked{{{PLANT}}}": "1000"},
    ),
    "ExchangeDeadLetterOld": (
        {
            f"exchange_dead_letters_oldest_age_seconds{{{PLANT}}}": f"{7 * DAY + 1}",
            f"exchange_dead_letters_alarm_age_seconds{{{PLANT}}}": f"{7 * DAY}",
        },
        {f"exchange_dead_letters_oldest_age_seconds{{{PLANT}}}": "100"},
    ),
    "ExchangeDeadLettersGrow": (
        {f"exchange_dead_letters_parked{{{PLANT}}}": "0+1"},
        {f"exchange_dead_letters_parked{{{PLANT}}}": "5"},
    ),
    "ExchangeDisagreement": (
        {f'exchange_agreement_differing_buckets{{{IN},stream="work_order"}}': "1"},
        {f'exchange_agreement_differing_buckets{{{IN},stream="work_order"}}': "0"},
    ),
    "ExchangeDiskLow": (
        {
            f'exchange_disk_free_bytes{{{PLANT},folder="sealed"}}': "9",
            f'exchange_disk_size_bytes{{{PLANT},folder="sealed"}}': "100",
        },
        {f'exchange_disk_free_bytes{{{PLANT},folder="sealed"}}': "11"},
    ),
    "ExchangeDiskFullSoon": (
        {
            f'exchange_disk_free_bytes{{{PLANT},folder="sealed"}}': "390-2",
            f'exchange_disk_size_bytes{{{PLANT},folder="sealed"}}': "1000",
        },
        {f'exchange_disk_free_bytes{{{PLANT},folder="sealed"}}': "390"},
    ),
    "ExchangeInodesLow": (
        {
            f'exchange_disk_free_inodes{{{PLANT},folder="sealed"}}': "4",
            f'exchange_disk_inodes{{{PLANT},folder="sealed"}}': "100",
        },
        {f'exchange_disk_free_inodes{{{PLANT},folder="sealed"}}': "6"},
    ),
    "ExchangeBeatDead": (
        {
            f'exchange_process_age_seconds{{{PLANT},kind="beat",host="a"}}': "31",
            f'exchange_process_period_seconds{{{PLANT},kind="beat",host="a"}}': "10",
        },
        {f'exchange_process_age_seconds{{{PLANT},kind="beat",host="b"}}': "5"},  # another machine's ticks
    ),
    "ExchangeWorkerDead": (
        {
            f'exchange_process_age_seconds{{{PLANT},kind="worker",host="a"}}': "181",
            f'exchange_process_period_seconds{{{PLANT},kind="worker",host="a"}}': "60",
        },
        {f'exchange_process_age_seconds{{{PLANT},kind="worker",host="a"}}': "170"},
    ),
    "ExchangeKeyEnds": (
        {f'exchange_key_expiry_timestamp_seconds{{{PLANT},key="office-2026",use="trusted"}}': f"{NOW + 14 * DAY - 1}"},
        {f'exchange_key_expiry_timestamp_seconds{{{PLANT},key="office-2026",use="trusted"}}': f"{NOW + 15 * DAY}"},
    ),
    "ExchangeClockOff": (
        {f"exchange_clock_difference_seconds{{{PLANT}}}": "-61"},
        {f"exchange_clock_difference_seconds{{{PLANT}}}": "60"},
    ),
    "ExchangeHalted": ({f"exchange_halted{{{PLANT}}}": "1"}, {f"exchange_halted{{{PLANT}}}": "0"}),
    "ExchangeDatabaseDown": ({f"exchange_database_up{{{PLANT}}}": "0"}, {f"exchange_database_up{{{PLANT}}}": "1"}),
    "ExchangeNotScraped": ({'up{job="exchange",instance="here"}': "0"}, {'up{job="exchange",instance="here"}': "1"}),
    "ExchangeMetricsOld": (
        {f"exchange_rendered_timestamp_seconds{{{PLANT}}}": f"{NOW - 901}"},
        {f"exchange_rendered_timestamp_seconds{{{PLANT}}}": f"{NOW - 60}"},
    ),
    "ExchangeChannelPaused": ({f"exchange_paused{{{OUT}}}": "1"}, {f"exchange_paused{{{OUT}}}": "0"}),
    **{
        f"Exchange{name.title().replace('_', '')}": (
            {f'exchange_alarm{{{PLANT},alarm="{name}",subject="x",level="fault"}}': "1"},
            {f'exchange_alarm{{{PLANT},alarm="{name}",subject="x",level="fault"}}': "0"},
        )
        for name in (
            "backup",
            "folder",
            "broker",
            "migrations",
            "triggers",
            "settings",
            "file_refused",
            "file_late",
            "drop_folder",
            "handler",
        )
    },
}
"""By alert the series that let it fire, and those that keep the same from it."""

LATER = {"ExchangeChannelPaused": "1500m", "ExchangeDeadLettersGrow": "90m", "ExchangeDiskFullSoon": "90m"}


def rules(kind: str) -> list[dict[str, Any]]:
    """Give the rules of a kind."""
    groups = YAML(typ="safe").load(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def case(alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """Write one test: that many alerts of a name fire when all is looked at."""
    at = LATER.get(alert, "30m")
    steps = int(at[:-1]) + 1
    values = {
        name: f"{one}x{steps}" if re.search(r"\d[+-]\d", one) else f"{one}+0x{steps}" for name, one in series.items()
    }
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > 0 or vector(0)'
    found = [{"labels": "{}", "value": 1 if fires else 0}]
    return {
        "interval": "1m",
        "name": f"{alert} {'fires' if fires else 'is quiet'}",
        "input_series": [{"series": name, "values": value} for name, value in values.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": at, "exp_samples": found}],
    }


@needs_promtool
@pytest.mark.thorough
def test_each_alert_fires_when_it_should_and_not_else(tmp_path: Path) -> None:
    assert set(CASES) == {rule["alert"] for rule in rules("alert")}
    tests = []
    for alert, (bad, good) in CASES.items():
        tests += [case(alert, bad, fires=True), case(alert, bad | good, fires=False)]
    written = {"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps(written))

    done = subprocess.run([str(PROMTOOL), "test", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_an_alert_says_what_it_is_how_much_and_what_to_type(tmp_path: Path) -> None:
    expected = {
        "exp_labels": {"network": "plant", "channel": "orders", "alarm": "gap", "severity": "critical"},
        "exp_annotations": {
            "summary": "plant: a batch of orders is missing for 1d 0h 1m 40s",
            "description": "It does not mend itself any more. `exchange resend` on the sending side,"
            " `exchange gaps accept` here.",
            "command": "exchange gaps --channel orders",
        },
    }
    series = {"series": f'exchange_gaps_oldest_age_seconds{{{PLANT},channel="orders"}}', "values": f"{DAY + 100}+0x10"}
    asked = {"alertname": "ExchangeGapStays", "eval_time": "5m", "exp_alerts": [expected]}
    test = {"interval": "1m", "input_series": [series], "alert_rule_test": [asked]}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [test]}))

    done = subprocess.run([str(PROMTOOL), "test", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_the_rules_and_the_example_well() -> None:
    for words in (["check", "rules", str(RULES)], ["check", "config", str(PROMETHEUS / "prometheus.yml")]):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_an_alert_for_each_row_of_the_table_at_night() -> None:
    night = (DEPLOY / "README.md").read_text().partition("\n## At night")[2].partition("\n## ")[0]
    seen = [
        cells[0] for cells in map(_cells, night.splitlines()) if cells and cells[0] != "seen" and "---" not in cells[0]
    ]
    page = (PROMETHEUS / "README.md").read_text()
    told = {cells[0]: cells[1] for cells in map(_cells, page.splitlines()) if len(cells) > 1}
    names = {rule["alert"] for rule in rules("alert")}
    assert len(seen) >= 18
    for row in seen:
        assert set(re.findall(r"Exchange[A-Z]\w+", told[row])) <= names, row
        assert "Exchange" in told[row] or "no metric" in told[row], row
    assert set(re.findall(r"`(Exchange[A-Z]\w+)`", page)) == names


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []


def test_every_alarm_has_a_rule_and_every_rule_says_what_to_type() -> None:
    alerts = rules("alert")
    assert {rule["labels"]["alarm"] for rule in alerts if "alarm" in rule["labels"]} == {one.value for one in Alarm}
    for rule in alerts:
        said = rule["annotations"]
        assert set(said) == {"summary", "description", "command"}
        program, command = said["command"].split()[:2]
        assert (program, command in COMMANDS) == ("exchange", True), said["command"]
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
