"""A small ASGI client that calls applications in-process, each request in a context and task of its own, as servers do."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor

to_json = json.dumps


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls an ASGI app. `context` runs a request inside a given context: a server that leaks contexts."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def post(self, path: str, *, user: str | None = None, json: Any) -> Answer:
        return await self.get(path, user=user, method="POST", body=to_json(json).encode())

    async def get(
        self,
        path: str,
        *,
        user: str | None = None,
        context: contextvars.Context | None = None,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: bytes = b"",
    ) -> Answer:
        answer = Answer()
        received = False

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:
                await asyncio.Event().wait()
            received = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode().lower(): v.decode() for k, v in message.get("headers", [])}
            else:
                answer.body += message.get("body", b"")

        raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        if user is not None:
            raw.append((b"authorization", f"Bearer {user}".encode()))
        if body:
            raw += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        task = asyncio.get_running_loop().create_task(
            self.app(scope, receive, send), context=contextvars.Context() if context is None else context
        )
        await task
        return answer


class Socket:
    """One WebSocket connection to an ASGI app, driven in-process."""

    def __init__(self, app: Any, user: str | None, path: str = "/ws") -> None:
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "ws",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {user}".encode())] if user else [],
            "subprotocols": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self._inbox.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.get_running_loop().create_task(app(scope, self._inbox.get, self.frames.put), context=contextvars.Context())

    async def accepted(self) -> Socket:
        assert (await asyncio.wait_for(self.frames.get(), 10))["type"] == "websocket.accept"
        return self

    def say(self, message: Any) -> None:
        self._inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def hear(self) -> Any:
        frame = await asyncio.wait_for(self.frames.get(), 10)
        return json.loads(frame["text"])

    async def leave(self) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait([self.task], timeout=10)


def user_of(scope: Any) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode().removeprefix("Bearer "))
    return None


@pytest.fixture
def make_monitor(tmp_path: Path) -> Iterator[Callable[..., IsolationMonitor]]:
    made: list[IsolationMonitor] = []

    def make(**arguments: Any) -> IsolationMonitor:
        arguments.setdefault("metrics_dir", str(tmp_path / f"metrics-{len(made)}"))
        arguments.setdefault("hash_key", "a key for tests")
        arguments.setdefault("service", "tests")
        # A machine under load stops every loop for a while: only tests of that ask for it.
        arguments.setdefault("stall_threshold_ms", 1_000)
        monitor = IsolationMonitor.from_env(**arguments)
        monitor.principal(user_of)
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.close()


@pytest.fixture
def monitor(make_monitor: Callable[..., IsolationMonitor]) -> IsolationMonitor:
    return make_monitor()


@pytest.fixture
def client() -> Callable[[Any], Client]:
    return Client


@pytest.fixture
async def socket() -> AsyncIterator[Callable[..., Any]]:
    opened: list[Socket] = []

    async def open(app: Any, user: str | None) -> Socket:
        one = Socket(app, user)
        opened.append(one)
        return await one.accepted()

    yield open
    for one in opened:
        if not one.task.done():
            await one.leave()


@pytest.fixture
def settled(monitor: IsolationMonitor) -> Callable[[], None]:
    """Run every job of the housekeeper that is due some day, now."""

    def settle() -> None:
        housekeeper = monitor.housekeeper
        with housekeeper._wake:
            jobs = [job for _, _, job in sorted(housekeeper._due, key=lambda due: due[:2])]
            housekeeper._due.clear()
        for job in jobs:
            job()

    return settle


@pytest.fixture
def samples() -> Callable[..., dict[tuple[tuple[str, str], ...], float]]:
    """Read the value of each series of one metric from the rendered page, as Prometheus would."""
    from prometheus_client.parser import text_string_to_metric_families

    def read(monitor: IsolationMonitor, name: str, **labels: str) -> float:
        total = 0.0
        for family in text_string_to_metric_families(monitor.registry.render(None).decode()):
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                    total += sample.value
        return total

    return read
