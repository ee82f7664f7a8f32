"""The collector's flag routes on a real server, over rollouts that a test changes at will."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from isolation_monitor.collector.app import create_app
from isolation_monitor.collector.settings import load_settings
from tests.real_parts.processes import eventually, free_port

SEND, READ = "token-that-sends", "token-that-reads"


class Rollouts:
    """Rules in the shape in which rollouts give them: the source that a collector is built on."""

    def __init__(self, *rules: Mapping[str, Any]) -> None:
        self.revision = 1
        self.of: dict[str, dict[str, Any]] = {str(rule["key"]): dict(rule) for rule in rules}
        self.failure: Exception | None = None
        self.asked = 0

    async def rules(self, service: str | None) -> tuple[int, Sequence[Mapping[str, Any]]]:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        mine = [rule for rule in self.of.values() if service in (None, rule.get("service", "tests"))]
        return self.revision, [{name: value for name, value in rule.items() if name != "service"} for rule in mine]

    def set(self, key: str, **changes: Any) -> None:
        """Change a rollout, which raises the revision."""
        self.revision += 1
        self.of[key] = {**rule(key), **self.of.get(key, {}), **changes, "revision": self.revision}


def rule(key: str, **changes: Any) -> dict[str, Any]:
    """Return a rule as plain values: half of the users."""
    return {"key": key, "enabled": True, "percent": 50.0, "internal": [], "holdback_percent": 0.0, "revision": 1, **changes}


def flag_app(rollouts: Rollouts) -> FastAPI:
    """Return a collector over these rollouts. Its own store is never opened: the flag routes ask the source alone."""
    settings = load_settings(database_url="sqlite+aiosqlite:///unused.sqlite3", send_token=SEND, read_token=READ)
    return create_app(settings, flag_source=rollouts)


@contextlib.contextmanager
def flag_server(rollouts: Rollouts, *, port: int | None = None) -> Iterator[str]:
    """Serve a collector over these rollouts until the block ends; yields its address."""
    port = port or free_port()
    # Without lifespan nothing else of the collector runs.
    config = uvicorn.Config(
        flag_app(rollouts), host="127.0.0.1", port=port, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), "the collector serves")
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
