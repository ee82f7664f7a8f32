"""What the rules read is what the running service says: no alert may wait for a series that nobody exposes."""

from __future__ import annotations

from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from isolation_monitor.alerts import build
from isolation_monitor.demo.stack import Stack
from isolation_monitor.demo.users import Population

from .conftest import eventually

NOT_IN_THE_CHAT = {"isolation_instance_reset_duration_seconds", "isolation_gate_request"}
"""The chat makes a fresh agent for each request and resets none, and has no rollout here; tests/telemetry measures both."""


async def test_every_series_in_a_rule_is_scraped_from_the_running_service(temporary: Path) -> None:
    async with Stack() as stack, Population(stack.urls.chat, users=6, requests_per_s=20, run_timeout_s=5) as users:
        await eventually("a few runs", lambda: int(users.stats()["runs"]) >= 20)
        token = {"Authorization": f"Bearer {stack.layout.metrics_token.read_text().strip()}"}
        async with httpx2.AsyncClient(headers=token) as client:
            pages = [(await client.get(f"{stack.urls.chat}{path}")).text for path in ("/metrics/isolation", "/metrics")]

    exposed: dict[str, set[str]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                exposed.setdefault(sample.name, set()).update(sample.labels)
    wanted = {(name, labels) for name, labels in build.series_used() if not name.startswith(tuple(NOT_IN_THE_CHAT))}
    prometheus_adds = {"instance", "job"}
    assert {name for name, _ in wanted if name not in exposed} == set()
    assert {name: labels - exposed[name] - prometheus_adds for name, labels in wanted if labels - exposed[name] - prometheus_adds} == {}
