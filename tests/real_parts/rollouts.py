"""What a test asks a real collector about its rollouts, over HTTP."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.real_parts.collector import Collector
from tests.real_parts.processes import PATIENCE_S, eventually

PERSON = {"actor": "ann", "reason": "because"}


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
    now, service = rollout["state"]["changed_at"], rollout["service"]
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
