"""What the batch at hand is, for every line of the log and for spans.

Spans are OpenTelemetry's, where its SDK is installed (``pip install 'exchange[tracing]'``) and set up.

The standard ``OTEL_`` variables set it up. Both sides' spans of a batch are one trace, that of its manifest: what seals
it is the span which the manifest names, and all else that is done with the batch hangs below that. Without the SDK a
span costs a look at a variable.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

_OF_ITS_OWN = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_on_lines: ContextVar[Mapping[str, Any]] = ContextVar("exchange_on_lines", default=MappingProxyType({}))
_tracers: list[Any] = []
_providers: list[Any] = []


@contextmanager
def on_lines(**fields: Any) -> Iterator[None]:
    """Have every line of the log carry fields while the block works, whoever says it: a hook, a codec, a library."""
    before = _on_lines.set({**_on_lines.get(), **fields})
    try:
        yield
    finally:
        _on_lines.reset(before)


def fields_of_lines() -> Mapping[str, Any]:
    """Give them."""
    return _on_lines.get()


def begin(provider: Any = None, *, process: str = "exchange") -> None:
    """Give spans to a provider from now on, in this process; without one, to what the ``OTEL_`` variables name.

    Does nothing where none is set, or the SDK is not installed. Call it after a fork: an exporter's threads end there.
    """
    _tracers.clear()
    _providers.clear()
    if provider is None:
        provider = _provider_as_set(process)
    if provider is not None:
        _providers.append(provider)
        _tracers.append(provider.get_tracer("exchange"))


def _provider_as_set(process: str) -> Any:
    wanted = any(os.environ.get(name, "none") != "none" for name in _OF_ITS_OWN)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not wanted or off or importlib.util.find_spec("opentelemetry.sdk") is None:
        return None
    from opentelemetry.sdk._configuration import _get_exporter_names, _import_exporters  # noqa: PLC0415 - of an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - of an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - of an extra
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - of an extra

    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", process)}))
    exporters, _, _ = _import_exporters(_get_exporter_names("traces") or ["otlp"], [], [])
    for make in exporters.values():
        provider.add_span_processor(BatchSpanProcessor(make()))
    return provider


def end() -> None:
    """Have what was told by then go out; a pool's process ends without that."""
    for provider in _providers:
        provider.force_flush()


class Span:
    """A span that may be none."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """Name this span as W3C's ``traceparent`` does; None if there is none."""
        if self._span is None:
            return None
        named = self._span.get_span_context()
        return f"00-{named.trace_id:032x}-{named.span_id:016x}-01"

    def note(self, **attributes: Any) -> None:
        """Add attributes, such as what came of it."""
        if self._span is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._span.set_attribute(f"exchange.{name}", value)


_NONE = Span()


@contextmanager
def span(
    name: str, trace: str | None = None, parent: str | None = None, *, alone: bool = False, **attributes: Any
) -> Iterator[Span]:
    """Do the block in a span; of a batch it belongs to that one's ``trace``, below its span ``parent``.

    One that is ``alone`` begins a trace of its own, whatever it is in.
    """
    if not _tracers:
        yield _NONE
        return
    from opentelemetry import trace as api  # noqa: PLC0415 - of an extra
    from opentelemetry.context import Context  # noqa: PLC0415 - of an extra

    context = Context() if alone else None
    if trace is not None and parent is not None:
        remote = api.SpanContext(int(trace, 16), int(parent, 16), is_remote=True, trace_flags=api.TraceFlags(1))
        context = api.set_span_in_context(api.NonRecordingSpan(remote))
    # No words of an exception: they may quote a row.
    with _tracers[-1].start_as_current_span(
        name, context, record_exception=False, set_status_on_exception=False
    ) as made:
        found = Span(made)
        found.note(**attributes)
        try:
            yield found
        except Exception as error:
            found.note(outcome=type(error).__name__)
            raise
