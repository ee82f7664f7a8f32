"""Rollouts on a real collector: what is asked of it over HTTP, and what it and its Prometheus are told."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isolation_monitor.alerts import build, prometheus_config
from tests.real_parts.collector import Collector
from tests.real_parts.exporter import Exporter
from tests.real_parts.processes import PATIENCE_S, eventually
from tests.real_parts.promtool import series

PERSON = {"actor": "ann", "reason": "because"}
SLOW_ROUNDS = {"COLLECTOR_ROLLOUT_INTERVAL_S": "3600"}
"""So that nothing but what arrived can have made a collector look."""


def ask(running: Collector, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer; raises urllib's HTTPError for what is no success."""
    request = urllib.request.Request(
        f"{running.url}{path}",
        None if body is None else json.dumps(body).encode(),
        running.reading | {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return dict(json.load(answer))


def begin(running: Collector, name: str = "checkout", **changes: Any) -> dict[str, Any]:
    """Apply and start a rollout to everybody; return what it is then."""
    stages = [{"name": "full", "percent": 100, "soak": "1h"}]
    spec = {"rollout": name, "service": "chat", "stages": stages} | changes
    ask(running, "PUT", f"/v1/rollouts/{name}", {"spec": spec, **PERSON})
    return ask(running, "POST", f"/v1/rollouts/{name}/start", PERSON)


def status(running: Collector, name: str = "checkout") -> str:
    return str(ask(running, "GET", f"/v1/rollouts/{name}")["state"]["status"])


def history(running: Collector, name: str = "checkout") -> list[dict[str, Any]]:
    """Return the changes, oldest first."""
    return list(reversed(ask(running, "GET", f"/v1/rollouts/{name}/history?limit=1000")["items"]))


def rolled_back(running: Collector, name: str = "checkout") -> dict[str, Any]:
    """Wait until the rollout is taken back and return that change."""
    eventually(lambda: status(running, name) == "rolled_back", f"{name} is rolled back")
    return history(running, name)[-1]


def violate(running: Collector, record_id: str, name: str = "checkout") -> None:
    """Send one violation record of a rollout's service, as of its last change by the collector's own clock."""
    rollout = ask(running, "GET", f"/v1/rollouts/{name}")
    send_violation(running, record_id, rollout["service"], rollout["state"]["changed_at"])


def send_violation(running: Collector, record_id: str, service: str, now: str) -> None:
    """Send one violation record of a service, of this time."""
    record = {
        "type": "violation", "id": record_id, "time": now, "kind": "wrong_socket", "grade": "crossed",
        "detector": "wrong_socket", "synthetic": False,
    }  # fmt: skip
    body = {"schema": "records/1", "service": service, "instance": "i", "sent_at": now, "records": [record]}
    request = urllib.request.Request(
        f"{running.url}/v1/records", json.dumps(body).encode(), running.sending | {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert json.load(answer)["accepted"] == 1


def wrong_sockets(service: str) -> str:
    """Return the counter of a service that moves when its new code sends to the wrong user."""
    labels = {"service": service, "kind": "wrong_socket", "grade": "crossed", "arm": "on", "synthetic": "false"}
    return series("isolation_violations_total", labels)


def scraping(folder: Path, worker: Exporter, *, base_url: str, collector: str, alertmanager: str) -> str:
    """Return the project's own Prometheus configuration for one exporter; its rules are written to `folder`.

    Args:
        folder: holds `token`, with which Prometheus asks the collector.
        base_url: where the rules' links lead.
        collector: host:port, as `alertmanager`.
    """
    files = []
    for name, text in build.rules(base_url, None).items():
        (folder / name).write_text(text)
        files.append(str(folder / name))
    return prometheus_config.render(
        isolation_targets=[worker.address],
        main_interval="5s",
        collector_target=collector,
        alertmanager=alertmanager,
        rule_files=files,
        metrics_token_file=str(folder / "token"),
    )


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """Give the address of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1000)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
