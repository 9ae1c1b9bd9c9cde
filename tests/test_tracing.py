import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from exchange import tracing
from exchange.operating import logs
from tests.cli.conftest import Pair, pair, seeded
from tests.crossing.conftest import shop_link
from tests.crossing.shop import account
from tests.crossing.sides import Link
from tests.databases import Databases

__all__ = ["pair", "seeded"]


@pytest.fixture
def small(tmp_path: Path, databases: Databases) -> Iterator[Link]:
    yield from shop_link(tmp_path, databases, "sqlite", "sqlite")


@pytest.fixture
def told() -> Iterator[InMemorySpanExporter]:
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracing.begin(provider)
    yield memory
    tracing._tracers.clear()
    tracing._providers.clear()
    provider.shutdown()


def test_the_spans_of_both_sides_are_one_trace_that_of_the_manifest(small: Link, told: InMemorySpanExporter) -> None:
    small.one.execute(sa.insert(account), [{"id": n, "name": f"n{n}", "password": "x"} for n in range(3)])
    small.round()
    rows = told.get_finished_spans()
    (imported,) = (
        one for one in rows if one.name == "import" and (one.attributes or {})["exchange.channel"] == "forth"
    )
    spans = {span.name: span for span in rows if span.context.trace_id == imported.context.trace_id}
    seal, publish, taken = (spans[name] for name in ("seal", "publish", "import"))
    assert {"apply", "verify"} <= spans.keys()
    assert {span.parent.span_id for span in (publish, taken) if span.parent} == {seal.context.span_id}
    assert dict(taken.attributes or {}) | {"exchange.bytes": 0} == {
        "exchange.channel": "forth",
        "exchange.sequence": 1,
        "exchange.records": 3,
        "exchange.bytes": 0,
        "exchange.outcome": "applied",
    }


def test_where_nothing_is_set_up_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    tracing.begin()
    with tracing.span("import") as one:
        assert one.traceparent is None


def test_whatever_says_something_while_a_batch_is_taken_in_its_line_says_of_which(small: Link) -> None:
    stream, library = io.StringIO(), logging.getLogger("sqlalchemy.engine.Engine")
    handler, before = logging.StreamHandler(stream), library.level
    handler.setFormatter(logs.formatter("json"))
    library.addHandler(handler)
    small.one.execute(sa.insert(account), [{"id": 1, "name": "n", "password": "x"}])
    try:
        library.setLevel(logging.INFO)
        library.info("before")
        small.round()
        library.info("behind")
    finally:
        library.removeHandler(handler)
        library.setLevel(before)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ("channel", "epoch", "sequence", "batch", "trace")
    of_batch = [line for line in lines if line.get("channel") == "forth" and "batch" in line]
    ((_, _, sequence, batch, trace),) = {tuple(line[name] for name in names) for line in of_batch}
    assert (sequence, batch.startswith("forth-"), len(trace)) == (1, True, 32)
    said = " ".join(line["event"] for line in of_batch)
    assert "account" in said
    assert "INSERT INTO exchange_batch" in said
    assert not any(name in line for name in names for line in (lines[0], lines[-1]))


SPEAKING = """
import logging, sys
import sqlalchemy as sa
from exchange.cli import main
@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def speak(_connection, _cursor, statement, *_):
    if statement.startswith(('INSERT INTO "user"', "INSERT INTO user")):
        logging.getLogger("hook").warning("it speaks")
main()
"""


@pytest.mark.thorough
def test_a_command_gives_spans_and_the_lines_of_others_say_which_batch_is_at_hand(seeded: Pair) -> None:
    seeded.response.do("resync", "directory")
    seeded.carry()
    environment = {**os.environ, **seeded.request.environment, "OTEL_TRACES_EXPORTER": "console"}
    environment |= {"EXCHANGE_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-c", SPEAKING, "import"], env=environment, capture_output=True, text=True, check=True
    )
    (line, *_) = (json.loads(one) for one in done.stderr.splitlines() if '"it speaks"' in one)
    assert (line["logger"], line["process"]) == ("hook", "command")
    assert f'"trace_id": "0x{line["trace"]}"' in done.stdout
    assert f'"exchange.channel": "{line["channel"]}"' in done.stdout
