"""The peers, each set up as its own documentation says, and proof that each records what it should.

Spans go to an exporter that counts and drops them: serialising and sending would come on top. Each keeps a registry and
providers of its own, so that none of them is switched on for the others through a global.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from bench.applications import Stack, build

PFI = "prometheus-fastapi-instrumentator"
OTEL = "opentelemetry-instrumentation-fastapi"
OTEL_ASGI = "opentelemetry-instrumentation-asgi"
NATIVE = "fastapi's own telemetry"


@dataclass(frozen=True, slots=True)
class Peer:
    """An instrumented application; `flush` lets its own thread finish, `recorded` tells what it has on record so far."""

    name: str
    app: Any
    flush: Callable[[], object]
    recorded: Callable[[], dict[str, int]]
    close: Callable[[], object]


class CountingExporter(SpanExporter):
    """Drops spans, and knows how many there were, by whether they are the server's or inner ones."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


class Telemetry:
    """One OpenTelemetry set-up: traces to the counting exporter, metrics to a reader that is asked."""

    def __init__(self) -> None:
        self._exporter = CountingExporter()
        self.traces = TracerProvider()
        # Wider than the default of 2,048: a full queue drops spans and logs each.
        self.traces.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=65_536))
        self._reader = InMemoryMetricReader()
        self.metrics = MeterProvider(metric_readers=[self._reader])

    def flush(self) -> None:
        self.traces.force_flush()

    def recorded(self) -> dict[str, int]:
        """Return the number of spans exported and of requests in the duration histogram."""
        self.flush()
        data = self._reader.get_metrics_data()
        points = (
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name in ("http.server.duration", "http.server.request.duration")
            for point in metric.data.data_points
        )
        return {"spans": self._exporter.spans, "requests": sum(p.count for p in points if isinstance(p, HistogramDataPoint))}

    def close(self) -> None:
        self.traces.shutdown()
        self.metrics.shutdown()


def missing(stack: Stack) -> list[tuple[str, str]]:
    """Return the peers of a stack that are not installed, with the reason."""
    found = []
    for name, module in ((PFI, "prometheus_fastapi_instrumentator"), (_otel_name(stack), _otel_module(stack))):
        try:
            __import__(module)
        except ImportError as error:
            found.append((name, f"not installed ({error}): pip install -e '.[bench]'"))
    if stack == "fastapi":
        try:
            import fastapi.telemetry
        except ImportError as error:
            found.append((NATIVE, f"this FastAPI has none ({error})"))
        else:
            del fastapi
    return found


def peers(stack: Stack, routes: int = 1) -> list[Peer]:
    """Return every installed peer of a stack, around an application of its own."""
    absent = {name for name, _ in missing(stack)}
    makers: dict[str, Callable[[Stack, int], Peer]] = {
        PFI: _pfi,
        _otel_name(stack): _otel_fastapi if stack == "fastapi" else _otel_starlette,
    }
    if stack == "fastapi":
        makers[NATIVE] = _native
    return [make(stack, routes) for name, make in makers.items() if name not in absent]


def _pfi(stack: Stack, routes: int) -> Peer:
    from prometheus_fastapi_instrumentator import Instrumentator

    app, registry = build(stack, routes), CollectorRegistry()
    Instrumentator(registry=registry).instrument(app)

    def recorded() -> dict[str, int]:
        samples = (s for family in registry.collect() for s in family.samples if s.name == "http_requests_total")
        return {"requests": int(sum(s.value for s in samples))}

    return Peer(PFI, app, _nothing, recorded, _nothing)


def _otel_fastapi(stack: Stack, routes: int) -> Peer:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app, telemetry = build(stack, routes), Telemetry()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=telemetry.traces, meter_provider=telemetry.metrics)
    return Peer(OTEL, app, telemetry.flush, telemetry.recorded, telemetry.close)


def _otel_starlette(stack: Stack, routes: int) -> Peer:
    # The package for Starlette is this middleware and a lookup of the route.
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    telemetry = Telemetry()
    wrapped = OpenTelemetryMiddleware(build(stack, routes), tracer_provider=telemetry.traces, meter_provider=telemetry.metrics)
    return Peer(OTEL_ASGI, wrapped, telemetry.flush, telemetry.recorded, telemetry.close)


def _native(stack: Stack, routes: int) -> Peer:
    telemetry = Telemetry()
    app = build(stack, routes, telemetry={"tracer_provider": telemetry.traces, "meter_provider": telemetry.metrics})
    return Peer(NATIVE, app, telemetry.flush, telemetry.recorded, telemetry.close)


def _otel_name(stack: Stack) -> str:
    return OTEL if stack == "fastapi" else OTEL_ASGI


def _otel_module(stack: Stack) -> str:
    return "opentelemetry.instrumentation.fastapi" if stack == "fastapi" else "opentelemetry.instrumentation.asgi"


def _nothing() -> None:
    return None
