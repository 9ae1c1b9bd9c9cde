"""The dashboard and the rules over what two real sides tell a real Prometheus while they work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from exchange.testing.servers import free_port
from tests.networks import Network, two_networks, until
from tests.watching.scraping import Scrape

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "exchange.json").read_text())
RULES = DEPLOY / "prometheus" / "exchange.rules.yml"
PROMETHEUS = shutil.which("prometheus")
NEVER_THERE = {
    *("exchange_alarm", "exchange_key_expiry_timestamp_seconds", "exchange_paused", "exchange_strangers"),
    *("exchange_intake_files", "exchange_intake_left_bytes", "exchange_intake_rows_per_second"),
}
"""What only some sides have: an alarm, a key with an end, a channel that was stopped, strangers' files, intakes."""

pytestmark = [pytest.mark.thorough, pytest.mark.processes]


def queries() -> dict[str, str]:
    """Give each query of the dashboard by its panel, for both sides."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$network", ".*").replace("$__rate_interval", "1m")
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def test_every_panel_says_what_it_is_and_the_command_that_comes_next_and_fits_the_screen() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not squares & taken, panel["title"]
        taken |= squares
        if panel["type"] != "row":
            assert re.search(r"Next: .*`exchange |Next: see the carrier", panel["description"]), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]


@contextmanager
def serving(network: Network, log: Path) -> Iterator[int]:
    """Have `exchange serve` serve a side, whatever else of it runs; give the port."""
    port = free_port()
    command = [sys.executable, "-m", "exchange", "serve", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=network.environment, cwd=network.home.parent, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            until(lambda: "listening" in log.read_text(), log.read_text)
            yield port
        finally:
            process.terminate()
            process.wait()


def scraped(port: int) -> Scrape:
    """Scrape a side. Raises urllib.error.HTTPError for any answer but 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return Scrape.of(answer.read().decode())


class Prometheus:
    """A real one, on loopback."""

    def __init__(self, port: int, log: Path) -> None:
        self._url, self._log = f"http://127.0.0.1:{port}/api/v1", log

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Give what a query finds now; none before it is up."""
        address = f"{self._url}/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address) as answer:  # noqa: S310 - of this machine
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except OSError:
            return []
        found = said["data"]["result"]
        assert isinstance(found, list)
        return found


@contextmanager
def prometheus(folder: Path, ports: list[int]) -> Iterator[Prometheus]:
    """Run one that scrapes these ports each second, with the rules."""
    targets = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "exchange", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port, log = free_port(), folder / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/prometheus",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=out,
            stderr=out,
        )
        try:
            yield Prometheus(port, log)
        finally:
            process.terminate()
            process.wait()


def compare(network: Network, seen: Scrape) -> None:
    """See that a side at rest tells what its commands say."""
    status = json.loads(network.exchange("status", "--json"))
    for one in status["channels"]:
        place = {"channel": one["channel"], "direction": one["direction"]}
        for state in ("sealed", "published", "acknowledged", "applied", "waiting", "held", "quarantined"):
            assert seen.one("batches", **place, state=state) == one[state], (place, state)
    assert seen.one("dead_letters_parked") == status["dead_letters"]["parked"]


def asked_for() -> set[str]:
    """Give the metrics that the dashboard and the rules ask for, but for those that only some sides have."""
    groups = YAML(typ="safe").load(RULES)["groups"]
    texts = (*queries().values(), RULES.read_text())
    named = {name for text in texts for name in re.findall(r"\bexchange_\w+", text)}
    return named - {group["name"] for group in groups} - NEVER_THERE


def never_back(page: list[Scrape]) -> None:
    """See that no counter was ever less than before."""
    for before, after in pairwise(page):
        for (name, labels), value in before.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert after[name, labels] >= value, (name, labels)


def take_a_name(request: Network) -> None:
    """Have a row there whose unique name will come: that one is a dead letter."""
    with request.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (99, 'own', 1, 1)"
        )
        connection.exec_driver_sql(
            'INSERT INTO "user" (id, name, email, profile_type_id, active)'
            " VALUES (99, 'administrator', 'own@example.org', 99, true)"
        )


def letters(network: Network) -> list[dict[str, Any]]:
    """Ask the command for the dead letters of a side."""
    return [json.loads(line) for line in network.exchange("dead-letters", "list", "--json").splitlines()]


@pytest.mark.skipif(PROMETHEUS is None and "CI" not in os.environ, reason="prometheus isn't installed")
def test_every_query_finds_something_of_two_sides_that_work_and_what_it_finds_is_what_commands_say(
    tmp_path: Path,
) -> None:
    settings = {f"EXCHANGE_{what}_EVERY": "1" for what in ("EXPORT", "IMPORT", "ANSWER")}
    settings |= {"EXCHANGE_SETTLE_SECONDS": "0", "EXCHANGE_WORKER_CONCURRENCY": "2"}
    with two_networks(tmp_path, None, Path(sys.executable), **settings) as networks, ExitStack() as stack:
        request, response = networks["request"], networks["response"]
        ports = [stack.enter_context(serving(one, tmp_path / f"serve-{name}")) for name, one in networks.items()]
        server = stack.enter_context(prometheus(tmp_path, ports))
        pages: dict[int, list[Scrape]] = {port: [] for port in ports}

        def scrape() -> None:
            for port in ports:
                pages[port].append(scraped(port))

        take_a_name(request)
        response.exchange("seed")

        def crossed() -> bool:
            scrape()
            crossing = all(page[-1].total("batches_total", outcome="applied") for page in pages.values())
            return crossing and bool(letters(request))

        until(crossed)
        (letter,) = letters(request)
        with request.engine.begin() as connection:
            connection.exec_driver_sql('DELETE FROM "user" WHERE id = 99')
        request.exchange("dead-letters", "retry", str(letter["id"]))
        for number in range(3):
            request.exchange("submit", "administrator", f"number {number}")
            scrape()
        response.exchange("reconcile")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(
                f"http://127.0.0.1:{dict(zip(networks, ports, strict=True))['request']}/api/v1/requests"
            )
        empty: dict[str, str] = {}

        def answered() -> bool:
            scrape()
            empty.clear()
            empty.update({name: text for name, text in queries().items() if not server.ask(text)})
            told = {name for page in pages.values() for name in page[-1].names}
            empty.update(dict.fromkeys(asked_for() - told, "no scrape"))
            return not empty

        until(answered, lambda: f"nothing is found by {empty}")
        for page in pages.values():
            never_back(page)
        firing = {one["metric"]["alertname"] for one in server.ask('ALERTS{alertstate="firing"}')}
        assert firing <= {"ExchangeDiskLow", "ExchangeDiskFullSoon"}  # as this machine has it
        for network, port in zip(networks.values(), ports, strict=True):
            network.stop()
            scraped(port)  # it may have been read before the end, for Prometheus
            compare(network, scraped(port))
        ups = server.ask("min_over_time(up[10m])")
        assert [one["value"][1] for one in ups] == ["1", "1"]  # no scrape failed
