"""Runs over a WebSocket: what was emitted, what was sent, to whom, and what the user never got."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

EVENTS = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")


async def eventually(check: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


class Service:
    """A chat of a few lines; `route` decides on whose socket a run's events go, `lose` which event never leaves."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor
        self.sockets: dict[str, Any] = {}
        self.route = lambda user: user
        self.lose: str | None = None
        self.emit_lost = False
        self.serial = 0
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        await receive()
        await send({"type": "websocket.accept"})
        self.sockets[user] = send
        while (message := await receive())["type"] == "websocket.receive":
            asked = json.loads(message["text"])
            if "room" in asked:
                for other in self.sockets.values():
                    await other({"type": "websocket.send", "text": json.dumps({"type": "room_message", "author": user})})
            else:
                await self.run(user)

    async def run(self, user: str) -> None:
        self.serial += 1
        run_id = f"run-{self.serial}"
        async with self.monitor.run(run_id) as run:
            for event in EVENTS:
                if event == self.lose and not self.emit_lost:
                    continue
                run.emit(event)
                if event == self.lose:
                    continue
                frame = {"type": event, "run_id": run_id, "user_id": user}
                await self.sockets[self.route(user)]({"type": "websocket.send", "text": json.dumps(frame)})


async def test_a_complete_run_counts_five_delivered_events(monitor, socket, samples) -> None:
    monitor.identity_fields("user_id")
    service = Service(monitor)
    ann = await socket(service.app, "ann")

    ann.say({"text": "hi"})
    assert [(await ann.hear())["type"] for _ in EVENTS] == list(EVENTS)
    await ann.leave()

    assert monitor.violations() == []
    assert samples(monitor, "isolation_runs_total", outcome="complete") == 1
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 5
    assert samples(monitor, "isolation_event_deliveries_total", result="lost") == 0
    assert samples(monitor, "isolation_events_total", stage="sent", event="agent_completed") == 1
    assert samples(monitor, "isolation_checks_total", detector="wrong_socket", result="pass") == 5
    assert samples(monitor, "isolation_checks_total", detector="incomplete_run", result="pass") == 1


async def test_an_event_on_another_users_socket_is_found_with_both_sides(monitor, socket, samples) -> None:
    monitor.identity_fields("user_id")
    service = Service(monitor)
    ann, bob = await socket(service.app, "ann"), await socket(service.app, "bob")
    service.route = lambda user: "bob"

    ann.say({"text": "hi"})
    assert (await bob.hear())["user_id"] == "ann", "the harm itself"

    await eventually(lambda: len(monitor.violations()) >= 5, "all five events strayed")
    violation = monitor.violations()[0]
    assert violation.kind == "wrong_socket"
    assert violation.grade == "crossed"
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert violation.offender.principal == monitor.principals.named("bob").hash
    assert violation.victim.stack
    assert violation.offender.stack
    assert ann.frames.empty()


async def test_rooms_share_legitimately(monitor, socket) -> None:
    monitor.identity_fields("user_id")
    service = Service(monitor)
    ann, bob = await socket(service.app, "ann"), await socket(service.app, "bob")

    for one, other in ((ann, bob), (bob, ann)):
        one.say({"room": "lobby"})
        assert (await one.hear())["type"] == (await other.hear())["type"] == "room_message"

    assert monitor.violations() == []


async def test_an_event_that_never_left_is_found_at_the_runs_end(monitor, socket, samples) -> None:
    service = Service(monitor)
    service.lose = "agent_completed"
    ann = await socket(service.app, "ann")

    ann.say({"text": "hi"})
    for _ in range(4):
        await ann.hear()
    await eventually(monitor.violations, "the lost event is reported")

    [violation] = monitor.violations()
    assert (violation.kind, violation.grade) == ("incomplete_run", "hygiene")
    assert violation.resource.detail["lost"] == {"agent_completed": 1}
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert samples(monitor, "isolation_event_deliveries_total", result="lost") == 1
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 4
    assert samples(monitor, "isolation_runs_total", outcome="incomplete") == 1


async def test_an_event_emitted_and_never_sent_is_lost_after_the_settle_time(make_monitor, socket, samples) -> None:
    """A queue swallowed it: the application believes that it was sent."""
    monitor = make_monitor(settle_s=0.05)
    service = Service(monitor)
    service.lose, service.emit_lost = "agent_completed", True
    ann = await socket(service.app, "ann")

    ann.say({"text": "hi"})
    await eventually(monitor.violations, "the swallowed event is reported")

    assert samples(monitor, "isolation_runs_total", outcome="incomplete") == 1


async def test_a_run_whose_user_left_is_abandoned_and_owes_nothing(monitor, socket, samples) -> None:
    service = Service(monitor)
    gone = asyncio.Event()

    async def run(user: str) -> None:
        async with monitor.run("run-1") as run:
            run.emit("agent_started")
            await service.sockets[user]({"type": "websocket.send", "text": json.dumps({"type": "agent_started", "run_id": "run-1"})})
            gone.set()
            await asyncio.Event().wait()

    service.run = run
    ann = await socket(service.app, "ann")
    ann.say({"text": "hi"})
    await gone.wait()
    ann.task.cancel()
    await asyncio.wait([ann.task])

    assert monitor.violations() == []
    assert samples(monitor, "isolation_runs_total", outcome="abandoned") <= 1
    assert samples(monitor, "isolation_event_deliveries_total", result="lost") == 0


async def test_messages_that_overlap_another_users_are_exposed(monitor, socket, samples) -> None:
    service = Service(monitor)
    ann, bob = await socket(service.app, "ann"), await socket(service.app, "bob")

    for one in (ann, bob):
        one.say({"text": "hi"})
        for _ in EVENTS:
            await one.hear()
    await ann.leave()
    await bob.leave()

    assert samples(monitor, "isolation_requests_total", transport="websocket", verdict="isolated") == 4
    assert samples(monitor, "isolation_requests_total", transport="websocket", exposed="true") >= 1


async def test_the_first_event_is_timed_once_for_each_run(monitor, socket, samples) -> None:
    """Until then the user looks at an empty screen; later events do not count again."""
    service = Service(monitor)
    ann = await socket(service.app, "ann")
    name = "isolation_run_time_to_first_event_seconds"

    for _ in range(2):
        ann.say({"ask": "x"})
        for _ in EVENTS:
            await ann.hear()
    await eventually(lambda: samples(monitor, "isolation_runs_total", outcome="complete") == 2, "two runs ended")

    assert samples(monitor, f"{name}_count") == 2
    assert samples(monitor, f"{name}_sum") <= samples(monitor, "isolation_run_duration_seconds_sum")


async def test_a_run_whose_events_never_leave_has_no_first_event(monitor, samples) -> None:
    """It is a failed run, which availability counts; as a duration it would be a guess."""
    with monitor.run("run-1", owner="ann"):
        pass

    assert samples(monitor, "isolation_run_time_to_first_event_seconds_count") == 0


def test_ended_runs_are_remembered_up_to_the_setting_and_hold_little(make_monitor) -> None:
    monitor = make_monitor(remembered_limit=1_000)

    for n in range(1_200):
        with monitor.run(f"run-{n}") as run:
            run.emit("agent_started")
            run.emit("agent_completed")

    assert len(monitor.runs.known) == 1_000
    assert "run-1199" in monitor.runs.known
    assert "run-0" not in monitor.runs.known
    latest = monitor.runs.known["run-1199"]
    assert (latest.stack, latest.course) == ((), [])
