from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from exchange import tracing
from tests.crossing.conftest import shop_link
from tests.crossing.shop import account
from tests.crossing.sides import Link
from tests.databases import Databases


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
