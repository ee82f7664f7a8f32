"""Runs that start for nobody who is there, and events that find nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.lab import Lab

STARTED, ENDED = "agent_started", "agent_completed"


class Service:
    """Runs on a socket, in an answer, and by a job that nobody waits for."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        self.sockets: dict[str, Any] = {}
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        if scope["type"] == "http":
            with self.monitor.run(f"http-{user}") as run:
                run.emit(STARTED)
                run.emit(ENDED)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        self.sockets[user] = send
        while (message := await receive())["type"] == "websocket.receive":
            await self.run(json.loads(message["text"])["run"], user)

    async def run(self, run_id: str, user: str) -> None:
        with self.monitor.run(run_id, owner=user) as run:
            for event in (STARTED, ENDED):
                run.emit(event)
                await self.send(user, event, run_id)

    async def send(self, user: str, event: str, run_id: str) -> None:
        await self.sockets[user]({"type": "websocket.send", "text": json.dumps({"type": event, "run_id": run_id})})

    def job(self, run_id: str, user: str) -> None:
        """A run outside of any request, whose events go nowhere."""
        with self.monitor.run(run_id, owner=user) as run:
            run.emit(STARTED)
            run.emit(ENDED)

    def unrouted(self, reason: str = "no_connection") -> float:
        return self.monitor.registry.value(names.EVENTS_UNROUTED, reason=reason)

    def reported(self) -> list[Any]:
        return [one for one in self.monitor.violations() if one.kind == names.UNROUTED_EVENT]


@pytest.fixture
def service(make_monitor) -> Service:
    return Service(make_monitor())


async def live(service: Service, socket: Any) -> Any:
    """A user whose run has gone over his connection: this service's runs are carried by connections."""
    ann = await socket(service.app, "ann")
    ann.say({"run": "run-1"})
    await ann.hear()
    await ann.hear()
    return ann


async def test_how_a_run_can_reach_its_user_is_counted_as_it_starts(service: Service, socket, client) -> None:
    ann = await live(service, socket)
    await client(service.app).get("/ask", user="bob")
    service.job("run-2", "ann")
    service.job("run-3", "nobody-here")
    await ann.leave()

    started = {route: service.monitor.registry.value(names.RUNS_STARTED, route=route) for route in names.RUN_ROUTES}
    assert started == {"connection": 2, "answer": 1, "none": 1}


async def test_events_for_a_user_who_is_not_here_are_counted_and_reported_once_a_run(service: Service, socket) -> None:
    ann = await live(service, socket)

    service.job("run-2", "bob")

    assert service.unrouted() == 2
    [violation] = service.reported()
    assert violation.grade == "hygiene"
    assert violation.victim.principal == service.monitor.principals.named("bob").hash
    assert violation.victim.run_id == "run-2"
    assert any("job" in line for line in violation.victim.stack)
    registry = service.monitor.registry
    assert registry.value(names.RUN_VERDICTS_TOTAL, verdict="undeliverable", arm="none") == 1
    assert registry.value(names.EVENT_DELIVERIES, result="lost", arm="none") == 0, "they were owed to nobody who is there"
    await ann.leave()


async def test_a_user_who_is_here_can_be_reached_by_a_job(service: Service, socket) -> None:
    ann = await live(service, socket)

    await service.run("run-2", "ann")

    assert [(await ann.hear())["run_id"] for _ in range(2)] == ["run-2", "run-2"]
    assert service.unrouted() == 0
    await ann.leave()
    service.job("run-3", "ann")
    assert service.unrouted() == 2


async def test_a_service_that_is_polled_keeps_its_events_elsewhere(service: Service, client) -> None:
    """No run of it ever went over a connection: nothing is missed there."""
    await client(service.app).get("/ask", user="bob")
    service.job("run-2", "bob")

    assert service.unrouted() == 0
    assert service.reported() == []


async def test_a_frame_of_a_run_that_nobody_knows_is_counted_and_reported(service: Service, socket) -> None:
    ann = await live(service, socket)

    await service.send("ann", STARTED, "run-of-nobody")
    await service.send("ann", "a_chunk", "run-of-nobody")

    assert service.unrouted("unknown_run") == 1
    [violation] = service.reported()
    assert violation.victim.principal == service.monitor.principals.named("ann").hash
    await ann.leave()


def test_a_planted_fault_is_seen(service: Service) -> None:
    service.monitor.runs.routes.plant(Lab(service.monitor.principals))

    [violation] = service.monitor.violations(synthetic=True)
    assert violation.kind == names.UNROUTED_EVENT
    assert service.unrouted() == 0
