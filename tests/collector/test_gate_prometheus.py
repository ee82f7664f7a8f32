"""The gate's queries against a real Prometheus: edges of the window, resets, series born above zero, targets that die.

One Prometheus serves the whole module: every scenario is a service of its own, all are changed together and judged
together, so that the module costs one start and a few scrapes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.storage.schema import migrate
from tests.collector.conftest import Api
from tests.real_parts.processes import eventually
from tests.real_parts.prometheus import Prometheus, prometheus

SHARED = '{service="@",kind="instance_reuse",grade="reachable",arm="on",synthetic="false"}'
DRILL = '{service="@",kind="instance_reuse",grade="crossed",arm="on",synthetic="true"}'
HYGIENE = '{service="@",kind="slow_creation",grade="hygiene",arm="on",synthetic="false"}'
ISOLATED = '{service="@",transport="http",verdict="isolated",exposed="true",arm="on"}'
ALONE = '{service="@",transport="http",verdict="isolated",exposed="false",arm="on"}'
OTHER_ARM = '{service="@",transport="http",verdict="isolated",exposed="true",arm="off"}'

Series = dict[str, float]


def page(**changes: float | None) -> Series:
    """Return a service's series; `changes` set some, None takes them away."""
    values: dict[str, float | None] = {
        "requests": 1000, "alone": 50, "other_arm": 0, "checks": 5000, "shared": 0, "drill": 0, "hygiene": 0,
        "reclassified": 0, "leaks": 0, "retracted": 0, "delivered": 400, "lost": 0,
    } | changes  # fmt: skip
    names = {
        "requests": f"isolation_requests_total{ISOLATED}",
        "alone": f"isolation_requests_total{ALONE}",
        "other_arm": f"isolation_requests_total{OTHER_ARM}",
        "checks": 'isolation_checks_total{service="@",detector="instance_reuse",result="pass"}',
        "shared": f"isolation_violations_total{SHARED}",
        "drill": f"isolation_violations_total{DRILL}",
        "hygiene": f"isolation_violations_total{HYGIENE}",
        "reclassified": 'isolation_requests_reclassified_total{service="@",exposed="true",arm="on"}',
        "leaks": 'isolation_session_leaks_total{service="@",arm="on"}',
        "retracted": 'isolation_session_leaks_retracted_total{service="@",arm="on"}',
        "delivered": 'isolation_event_deliveries_total{service="@",result="delivered",arm="on"}',
        "lost": 'isolation_event_deliveries_total{service="@",result="lost",arm="on"}',
    }
    return {names[key]: value for key, value in values.items() if value is not None}


@dataclass
class Target:
    """A metrics page whose numbers the test decides."""

    services: dict[str, Series] = field(default_factory=dict)
    version: int = 0

    def text(self) -> str:
        lines = [f"{name.replace('@', service)} {value}" for service, series in self.services.items() for name, value in series.items()]
        return "\n".join([*lines, f"test_version {self.version}", ""])

    def serve(self) -> ThreadingHTTPServer:
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = target.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@dataclass
class Stage:
    prometheus: Prometheus
    target: Target
    mortal: ThreadingHTTPServer

    def scraped(self) -> None:
        """Wait until Prometheus has the target's present numbers."""
        self.target.version += 1
        eventually(lambda: self.prometheus.value('test_version{instance="lasting"}') == self.target.version, "the target is scraped")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    target, mortal = Target(), Target({"dies": page()})
    servers = [target.serve(), mortal.serve()]
    config = f"""
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: isolation
    metrics_path: /metrics/isolation
    static_configs:
      - {{targets: ["127.0.0.1:{servers[0].server_port}"], labels: {{instance: lasting}}}}
      - {{targets: ["127.0.0.1:{servers[1].server_port}"], labels: {{instance: mortal}}}}
"""
    try:
        with prometheus(tmp_path / "prometheus", config) as running:
            yield Stage(running, target, servers[1])
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


BEFORE: dict[str, Series] = {
    "clean": page(),
    "leaky": page(),
    "edge": page(),
    "born": page(shared=None),
    "old-scars": page(shared=7),
    "restarted": page(shared=3),
    "drilled": page(),
    "untidy": page(),
    "session": page(),
    "session-back": page(),
    "lossy": page(),
    "idle": page(),
    "unexposed": page(),
    "reclassified": page(),
    "unchecked": page(),
    "other-arm": page(),
}
AFTER: dict[str, Series] = {
    "clean": page(requests=1400, alone=90, checks=9000, delivered=800),
    "leaky": page(requests=1400, checks=9000, shared=1, delivered=800),
    "edge": page(requests=1400, checks=9000, delivered=800),
    "born": page(requests=1400, checks=9000, shared=1, delivered=800),
    "old-scars": page(requests=1400, checks=9000, shared=7, delivered=800),
    # The process was replaced: all counters began again, and one violation happened since.
    "restarted": page(requests=400, alone=0, checks=4000, shared=1, delivered=400),
    "drilled": page(requests=1400, checks=9000, drill=4, delivered=800),
    "untidy": page(requests=1400, checks=9000, hygiene=4, delivered=800),
    "session": page(requests=1400, checks=9000, leaks=2, retracted=1, delivered=800),
    "session-back": page(requests=1400, checks=9000, leaks=2, retracted=2, delivered=800),
    "lossy": page(requests=1400, checks=9000, delivered=480, lost=20),
    "idle": page(),
    "unexposed": page(alone=2000, checks=9000, delivered=800),
    "reclassified": page(requests=1400, checks=9000, reclassified=101, delivered=800),
    "unchecked": page(requests=1400, delivered=800),
    "other-arm": page(other_arm=900, checks=9000, delivered=800),
}
EXPECTED = {
    "clean": ("pass", None),
    "leaky": ("fail", "violations"),
    "edge": ("fail", "violations"),
    "born": ("fail", "violations"),
    "old-scars": ("pass", None),
    "restarted": ("fail", "violations"),
    "drilled": ("pass", None),
    "untidy": ("pass", None),
    "session": ("fail", "session_leaks"),
    "session-back": ("pass", None),
    "lossy": ("fail", "below_floor"),
    "idle": ("inconclusive", "no_traffic"),
    "unexposed": ("inconclusive", "min_samples"),
    "reclassified": ("inconclusive", "min_samples"),
    "unchecked": ("inconclusive", "no_checks"),
    "other-arm": ("inconclusive", "no_traffic"),
    "never-heard-of": ("error", "series_absent"),
    "dies": ("error", "scrape_down"),
}


async def test_each_way_a_counter_can_behave_gets_its_verdict(stage: Stage, make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    await migrate(empty_sqlite_url)
    stage.target.services = BEFORE
    stage.scraped()
    eventually(lambda: stage.prometheus.value('count(isolation_checks_total{service="dies"})'), "the other target is scraped")

    async with make_api(empty_sqlite_url, utc_now, prometheus_url=stage.prometheus.url, prometheus_timeout_s=30.0) as api:
        for service in EXPECTED:
            await api.start_rollout(service, service=service, arm="on" if service == "other-arm" else None)
        # A violation before the first scrape of the window: the window's own samples never show it grow.
        stage.target.services = BEFORE | {"edge": page(shared=1)}
        stage.scraped()
        # A restart shows as numbers that sink.
        stage.target.services = stage.target.services | {"restarted": page(requests=0, alone=0, checks=0, shared=0, delivered=0)}
        stage.scraped()
        stage.target.services = AFTER | {"edge": page(requests=1400, checks=9000, shared=1, delivered=800)}
        stage.mortal.shutdown()
        stage.mortal.server_close()
        stage.scraped()
        eventually(lambda: stage.prometheus.value('up{instance="mortal"} == bool 0'), "Prometheus notices the dead target")

        gates = {service: await api.gate(service) for service in EXPECTED}

    got = {service: (gate["verdict"], gate["reasons"][0]["code"] if gate["reasons"] else None) for service, gate in gates.items()}
    assert got == EXPECTED
    numbers = gates["clean"]["metrics"]
    assert (numbers["exposed_isolated_requests"], numbers["isolation_checks"], numbers["owed_events"]) == (400, 4000, 400)
    # After a reset Prometheus extrapolates: the number is near, the verdict is certain.
    assert gates["restarted"]["metrics"]["isolation_violations"] >= 1
    assert gates["reclassified"]["reasons"][0]["have"] == 299


async def test_a_decision_names_the_queries_that_were_asked(stage: Stage, make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    await migrate(empty_sqlite_url)
    stage.target.services = {'we"ird\\name': page()}
    async with make_api(empty_sqlite_url, utc_now, prometheus_url=stage.prometheus.url, prometheus_timeout_s=30.0) as api:
        await start_and_ask(api)


async def start_and_ask(api: Api) -> None:
    await api.start_rollout("odd", service='we"ird\\name')
    gate = await api.gate("odd")
    decision = (await api.get(f"/v1/gates/odd/decisions/{gate['decision_id']}")).json()

    assert gate["reasons"][0]["code"] in ("series_absent", "no_traffic", "scrape_down")
    assert 'service="we\\"ird\\\\name"' in decision["inputs"]["queries"]["violations"]
