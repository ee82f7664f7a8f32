"""What a run's user saw: all events once and in order, or the worst that was wrong; one verdict a run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import EventNames, IsolationMonitor, names
from isolation_monitor.telemetry.errors import SettingsError

S, T, X, Y, C, E, Q = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
    "agent_error",
    "agent_cancelled",
)


class Script:
    """A service that plays a list of acts when its user says something: `emit:EVENT`, `send:EVENT`, `both:EVENT`, `stray:EVENT`."""

    def __init__(self, monitor: IsolationMonitor, acts: list[str]) -> None:
        self.monitor = monitor
        self.acts = acts
        self.sockets: dict[str, Any] = {}
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        await receive()
        await send({"type": "websocket.accept"})
        self.sockets[user] = send
        while (await receive())["type"] == "websocket.receive":
            with self.monitor.run("run-1") as run:
                for act in self.acts:
                    what, _, event = act.partition(":")
                    event, _, call = event.partition("/")
                    if what in ("emit", "both"):
                        run.emit(event, call)
                    if what in ("send", "both", "stray"):
                        to = self.sockets["bob"] if what == "stray" else send
                        await to({"type": "websocket.send", "text": json.dumps({"type": event, "run_id": "run-1"})})


async def play(make_monitor: Callable[..., IsolationMonitor], socket: Any, acts: list[str], **settings: Any) -> dict[str, float]:
    monitor = make_monitor(settle_s=0.02, **settings)
    service = Script(monitor, acts)
    ann, bob = await socket(service.app, "ann"), await socket(service.app, "bob")
    ann.say({})

    def verdicts() -> dict[str, float]:
        found = {v: monitor.registry.value(names.RUN_VERDICTS_TOTAL, verdict=v, arm="none") for v in names.RUN_VERDICTS}
        return {verdict: n for verdict, n in found.items() if n}

    deadline = time.monotonic() + 30
    while not verdicts():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await ann.leave()
    await bob.leave()
    return verdicts()


def both(*events: str) -> list[str]:
    return [f"both:{event}" for event in events]


@pytest.mark.parametrize(
    ("acts", "verdict"),
    [
        (both(S, T, X, Y, C), "complete_in_order"),
        (both(S, f"{X}/1", f"{X}/2", f"{Y}/2", f"{Y}/1", C), "complete_in_order"),
        (both(S, T, E), "complete_in_order"),
        (both(S, X, Q), "complete_in_order"),
        (both(S, T, X, Y), "no_end"),
        ([*both(S, T), "emit:" + C], "gap"),
        (both(S, X, C), "gap"),
        (both(S, Y, C), "disorder"),
        (both(S, C, T), "disorder"),
        (both(S, C, C), "duplicate"),
        # The application emits in order; what it sends is another matter.
        ([f"emit:{e}" for e in (S, X, Y, C)] + [f"send:{e}" for e in (S, Y, X, C)], "disorder"),
        ([*both(S, C), "send:" + C], "duplicate"),
        ([*both(S), "emit:" + T, "stray:" + T, *both(C)], "wrong_owner"),
        # Nothing is ever emitted by a call: the frames alone tell.
        ([f"send:{e}" for e in (S, T, X, Y, C)], "complete_in_order"),
        ([f"send:{e}" for e in (S, T, X, Y)], "no_end"),
        ([f"send:{e}" for e in (S, Y, C)], "disorder"),
    ],
)
async def test_each_run_has_the_verdict_of_what_its_user_saw(make_monitor, socket, acts: list[str], verdict: str) -> None:
    assert await play(make_monitor, socket, acts) == {verdict: 1}


async def test_the_names_of_events_are_configuration(make_monitor, socket) -> None:
    """AG-UI's names, for one; a run of theirs is complete without a line of code."""
    settings = {"run_events": ("started=RUN_STARTED", "completed=RUN_FINISHED", "failed=RUN_ERROR", "others=TEXT_MESSAGE_CONTENT|STEP")}

    sent = [f"send:{e}" for e in ("RUN_STARTED", "STEP", "TEXT_MESSAGE_CONTENT", "RUN_FINISHED")]
    assert await play(make_monitor, socket, sent, **settings) == {"complete_in_order": 1}
    assert await play(make_monitor, socket, [f"send:{e}" for e in (S, C)], **settings) == {"no_end": 1}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (["begun=X"], "begun=X"),
        (["started"], "started"),
        (["started="], "empty or twice"),
        (["started=agent_completed"], "empty or twice"),
        (["others=" + "|".join(f"e{n}" for n in range(20))], "more than 12"),
    ],
)
def test_names_that_cannot_be_used_fail_at_start(make_monitor, parts: list[str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        make_monitor(run_events=tuple(parts))


async def test_a_run_whose_user_has_left_is_undeliverable_and_in_no_rate(make_monitor, socket) -> None:
    monitor = make_monitor()
    service = Script(monitor, [])
    ann = await socket(service.app, "ann")
    [connection] = monitor.connections
    run = monitor.run("run-2", owner="ann")
    run.connection = connection
    run.emit(S)
    await ann.leave()
    with run:
        run.emit(C)

    assert monitor.registry.value(names.RUN_VERDICTS_TOTAL, verdict="undeliverable", arm="none") == 1


async def test_two_tabs_of_one_user_see_each_event_once_each(make_monitor, socket) -> None:
    """Fan-out to a user's own connections is no duplicate."""
    monitor = make_monitor()
    service = Script(monitor, [])
    first, second = await socket(service.app, "ann"), await socket(service.app, "ann")
    assert len(monitor.connections) == 2
    with monitor.run("run-3", owner="ann") as run:
        for event in (S, C):
            run.emit(event)
            for connection in list(monitor.connections):
                monitor.runs.sent(run, event, connection)

    assert monitor.registry.value(names.RUN_VERDICTS_TOTAL, verdict="complete_in_order", arm="none") == 1
    await first.leave()
    await second.leave()


async def test_a_run_that_http_started_and_a_socket_carries_counts_each_event_once(make_monitor, socket) -> None:
    """Started by a POST, answered on the user's WebSocket: nobody knows of the socket when the first event is emitted."""
    monitor = make_monitor()
    service = Script(monitor, [])
    ann = await socket(service.app, "ann")
    with monitor.run("run-4", owner="ann") as run:
        for event in (S, T, C):
            run.emit(event)
            await service.sockets["ann"]({"type": "websocket.send", "text": json.dumps({"type": event, "run_id": "run-4"})})

    assert run.sent == {S: 1, T: 1, C: 1}
    assert monitor.registry.value(names.RUN_VERDICTS_TOTAL, verdict="complete_in_order", arm="none") == 1
    await ann.leave()


def test_defaults_hold_where_no_part_is_named() -> None:
    assert EventNames.parse([]) == EventNames()
