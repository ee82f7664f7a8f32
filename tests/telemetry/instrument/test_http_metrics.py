"""Requests by route are measured once: by the monitor, unless the application's own page has a metric of the same name."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.instrument import host_http_metrics

SERVICE = """
import asyncio
from fastapi import FastAPI
from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.doctor import diagnose

choice, how = {choice!r}, {how!r}
if "otel" in how:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    if "scraped" in how:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader as InMemoryMetricReader
    provider = MeterProvider([InMemoryMetricReader()])
app = FastAPI()

@app.get("/threads/{{id}}")
async def thread(id: str):
    return id

monitor = IsolationMonitor.from_env(service="tests", hash_key="k", http_metrics=choice)
if how.startswith("later"):
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    monitor.instrument(app)
    app.add_middleware(OpenTelemetryMiddleware, meter_provider=provider)
elif "otel" in how:
    FastAPIInstrumentor.instrument_app(app, meter_provider=provider)
elif "instrumentator" in how:
    from prometheus_fastapi_instrumentator import Instrumentator, metrics
    wanted = names.HTTP_DURATION.name if "same" in how else "http_request_duration_seconds"
    Instrumentator().add(metrics.latency(metric_name=wanted)).instrument(app)
if not how.startswith("later"):
    monitor.instrument(app)

async def ask():
    sent = []
    async def receive():
        return {{"type": "http.request", "body": b""}}
    async def send(message):
        sent.append(message)
    scope = {{
        "type": "http", "asgi": {{"version": "3.0"}}, "http_version": "1.1", "method": "GET", "scheme": "http", "root_path": "",
        "path": "/threads/1", "raw_path": b"/threads/1", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
for _ in range(3):
    asyncio.run(ask())

import prometheus_client
ours = monitor.registry.render(None).decode()
theirs = prometheus_client.generate_latest().decode()
line = names.HTTP_DURATION.name + "_count"
print(line in ours, line in theirs, *[f.level for f in diagnose(monitor, app).findings if f.check == "http metrics"])
monitor.close()
"""


@pytest.mark.parametrize(
    ("how", "choice", "ours", "theirs", "doctor"),
    [
        ("nothing", "auto", True, False, []),
        ("nothing", "off", False, False, ["warning"]),
        ("otel scraped", "auto", False, True, ["note"]),
        ("later otel scraped", "auto", False, True, ["note"]),
        ("otel scraped", "on", True, True, ["warning"]),
        # It goes elsewhere: Prometheus has no other source than ours.
        ("otel sent", "auto", True, False, []),
        # The old conventions have another name, in milliseconds.
        ("otel scraped old", "auto", True, False, []),
        ("instrumentator", "auto", True, False, []),
        ("instrumentator same", "auto", False, True, ["note"]),
    ],
)
def test_one_name_is_exposed_once(how: str, choice: str, ours: bool, theirs: bool, doctor: list[str]) -> None:
    """Two sources of one name on the pages of a process: every count by `sum()` would be double."""
    environment = os.environ | {"OTEL_SEMCONV_STABILITY_OPT_IN": "" if "old" in how else "http"}
    code = SERVICE.format(how=how, choice=choice)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ours), str(theirs), *doctor]


async def test_verdicts_are_counted_though_nobody_measures(make_monitor: Any, client: Any, samples: Any) -> None:
    """`off` takes the histogram away and nothing else."""
    monitor = make_monitor(http_metrics="off")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    await client(monitor.instrument(app)).get("/", user="ann")

    assert samples(monitor, names.REQUESTS.name) == 1
    assert samples(monitor, f"{names.HTTP_DURATION.name}_count") == 0


def test_a_choice_that_does_not_exist_is_refused(make_monitor: Any) -> None:
    with pytest.raises(SettingsError, match="auto, on, off"):
        make_monitor(http_metrics="sometimes")


def test_an_application_of_a_strange_shape_runs_no_code_of_its_own() -> None:
    """The first request looks at objects of the host; looking must not call them."""

    class Strange:
        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("the application's code ran")

    assert host_http_metrics.found(Strange()) is None
