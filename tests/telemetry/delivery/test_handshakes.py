"""Handshakes by what became of them, closes by who closed, and connections that are not whose they seem to be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import Connection, clock
from isolation_monitor.telemetry.delivery import handshakes
from isolation_monitor.telemetry.lab import Lab
from tests.telemetry.delivery.conftest import Pusher, eventually

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
SEND = {"type": "websocket.send", "text": "{}"}
MESSAGE = {"type": "websocket.receive", "text": "{}"}
LEFT = {"type": "websocket.disconnect", "code": 1001}

Handler = Callable[[Any, Any, Any], Awaitable[None]]


def close(code: int = 1000) -> dict[str, Any]:
    return {"type": "websocket.close", "code": code}


class Service:
    """An application that answers each handshake by the same list of acts: messages to send, or None to receive one."""

    def __init__(self, monitor: IsolationMonitor, acts: list[Any]) -> None:
        self.monitor = monitor
        self.acts = acts
        self.change: Callable[[Any], None] = lambda scope: None
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        # What a router does.
        scope["endpoint"] = Service.serve
        scope["path_params"] = {"client": scope["path"].rsplit("/", 1)[-1]}
        await receive()
        self.change(scope)
        for act in self.acts:
            if act is None:
                await receive()
            elif isinstance(act, BaseException):
                raise act
            else:
                await send(act)

    async def visit(self, user: str | None, *comes: Any, path: str = "/ws/one", query: bytes = b"") -> None:
        inbox = [CONNECT, *comes]

        async def receive() -> Any:
            if inbox:
                return inbox.pop(0)
            return await asyncio.Event().wait()

        async def send(message: Any) -> None: ...

        headers = [(b"authorization", f"Bearer {user}".encode())] if user else []
        scope = {"type": "websocket", "path": path, "query_string": query, "headers": headers, "subprotocols": []}
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            await self.app(scope, receive, send)

    def outcomes(self) -> dict[str, float]:
        found = {one: self.monitor.registry.value(names.WEBSOCKET_CONNECTIONS, outcome=one) for one in names.HANDSHAKE_OUTCOMES}
        return {outcome: n for outcome, n in found.items() if n}

    def closes(self) -> dict[tuple[str, str], float]:
        found = {
            (by, reason): self.monitor.registry.value(names.WEBSOCKET_CLOSES, by=by, reason=reason)
            for by in names.CLOSED_BY
            for reason in names.CLOSE_REASONS
        }
        return {close: n for close, n in found.items() if n}

    def reported(self) -> list[str]:
        return [one.resource.detail["what"] for one in self.monitor.violations() if one.kind == names.BAD_HANDSHAKE]


@pytest.mark.parametrize(
    ("acts", "comes", "outcome", "closed"),
    [
        ([ACCEPT, None], [LEFT], "accepted", {("client", "going_away"): 1}),
        ([ACCEPT, None], [{"type": "websocket.disconnect"}], "accepted", {("client", "no_status"): 1}),
        ([ACCEPT, close(1000)], [], "accepted", {("server", "normal"): 1}),
        ([ACCEPT, close(1011)], [], "accepted", {("server", "error"): 1}),
        ([ACCEPT, close(4000)], [], "accepted", {("server", "application"): 1}),
        ([ACCEPT], [], "accepted", {("nobody", "abnormal"): 1}),
        ([ACCEPT, RuntimeError()], [], "accepted", {("nobody", "abnormal"): 1}),
        ([close(1008)], [], "refused", {}),
        ([{"type": "websocket.http.response.start", "status": 403}], [], "refused", {}),
        ([close(1011)], [], "error", {}),
        ([{"type": "websocket.http.response.start", "status": 503}], [], "error", {}),
        ([None], [LEFT], "timed_out", {}),
        ([asyncio.CancelledError()], [], "timed_out", {}),
        ([RuntimeError()], [], "error", {}),
        ([], [], "error", {}),
    ],
)
async def test_each_handshake_has_one_outcome_and_each_connection_one_close(
    make_monitor, acts: list[Any], comes: list[Any], outcome: str, closed: dict[tuple[str, str], float]
) -> None:
    service = Service(make_monitor(), acts)

    await service.visit("ann", *comes)

    assert service.outcomes() == {outcome: 1}
    assert service.closes() == closed
    assert service.reported() == []


async def test_a_handshake_that_nobody_answers_has_timed_out_while_it_still_hangs(make_monitor) -> None:
    """Users wait for it now: it must not be counted only when the process ends."""
    monitor = make_monitor()
    service = Service(monitor, [None])
    task = asyncio.create_task(service.visit("ann"))
    await asyncio.sleep(0.01)
    [connection] = monitor.connections
    monitor.handshakes.tick(0)
    assert service.outcomes() == {}

    connection.opened_at -= handshakes.ANSWER_AFTER_S
    monitor.handshakes.tick(0)
    assert service.outcomes() == {"timed_out": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert service.outcomes() == {"timed_out": 1}


async def test_nobody_among_users_is_reported_and_counted(make_monitor) -> None:
    service = Service(make_monitor(), [ACCEPT, None])
    for _ in range(handshakes.NAMED_AT_LEAST):
        await service.visit("ann", LEFT)

    await service.visit(None, LEFT)

    assert service.outcomes() == {"accepted": 3, "no_principal": 1}
    assert service.reported() == ["nobody is signed in on it"]


async def test_an_endpoint_that_many_visit_without_signing_in_owes_nobody_a_user(make_monitor) -> None:
    service = Service(make_monitor(), [ACCEPT, None])
    for visitor in (None, "ann", None, "ann", None, "ann", None):
        await service.visit(visitor, LEFT)

    assert service.outcomes() == {"accepted": 7}


async def test_a_public_endpoint_owes_nobody_a_user(make_monitor) -> None:
    monitor = make_monitor()
    service = Service(monitor, [ACCEPT, None])
    service.change = lambda scope: scope.__setitem__("endpoint", public)
    public = monitor.public(lambda: None)
    for visitor in ("ann", "ann", "ann", "ann", None):
        await service.visit(visitor, LEFT)

    assert service.outcomes() == {"accepted": 5}


async def test_who_is_turned_away_after_the_accept_was_refused(make_monitor) -> None:
    """A browser cannot read why a handshake was refused, so services accept first."""
    service = Service(make_monitor(), [ACCEPT, None])
    for _ in range(4):
        await service.visit("ann", LEFT)
    service.acts = [ACCEPT, close(4401)]

    await service.visit(None)

    assert service.outcomes() == {"accepted": 4, "refused": 1}
    assert service.reported() == []


async def test_who_signs_in_by_his_first_message_is_accepted(make_monitor) -> None:
    monitor = make_monitor()
    monitor.principal(lambda scope: scope.get("user"))
    service = Service(monitor, [ACCEPT, None, None])
    service.change = lambda scope: scope.__setitem__("user", "ann")

    for _ in range(5):
        await service.visit(None, MESSAGE, LEFT)

    assert service.outcomes() == {"accepted": 5}


async def test_a_connection_without_a_user_is_judged_while_it_is_open(make_monitor) -> None:
    monitor = make_monitor()
    service = Service(monitor, [ACCEPT, None])
    for _ in range(4):
        await service.visit("ann", LEFT)
    task = asyncio.create_task(service.visit(None))
    await asyncio.sleep(0.01)
    [connection] = monitor.connections

    connection.opened_at -= handshakes.NAMED_AFTER_S
    monitor.handshakes.tick(0)

    assert service.outcomes() == {"accepted": 4, "no_principal": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_principal_that_changes_with_the_accept_disagrees(make_monitor) -> None:
    """A session found by a guessable key, a context that another handshake left behind."""
    monitor = make_monitor()
    service = Service(monitor, [ACCEPT, None])
    service.change = lambda scope: scope.__setitem__("headers", [(b"authorization", b"Bearer bob")])

    await service.visit("ann", LEFT)

    assert service.outcomes() == {"principal_disagrees": 1}
    [violation] = monitor.violations()
    assert violation.grade == "hygiene"
    assert violation.offender.principal == monitor.principals.named("ann").hash
    assert violation.victim.principal == monitor.principals.named("bob").hash


@pytest.mark.parametrize(
    ("query", "outcome"), [(b"user_id=bob", "principal_disagrees"), (b"user_id=ann", "accepted"), (b"x=1", "accepted")]
)
async def test_an_address_that_names_another_user_disagrees(make_monitor, query: bytes, outcome: str) -> None:
    monitor = make_monitor()
    monitor.identity_fields("user_id")
    service = Service(monitor, [ACCEPT, None])

    await service.visit("ann", LEFT, query=query)

    assert service.outcomes() == {outcome: 1}


async def test_a_connection_id_of_another_user_is_reported_open_or_closed(make_monitor) -> None:
    """Late sends of the first user's tasks find the second user's socket under the id."""
    monitor = make_monitor(connection_id_field="client")
    service = Service(monitor, [ACCEPT, None])
    await service.visit("ann", LEFT, path="/ws/seven")
    await service.visit("ann", LEFT, path="/ws/seven")
    assert service.outcomes() == {"accepted": 2}, "his own, after a disconnect: a reconnect"

    await service.visit("bob", LEFT, path="/ws/seven")
    task = asyncio.create_task(service.visit("bob", path="/ws/eight"))
    await asyncio.sleep(0.01)
    await service.visit("bob", LEFT, path="/ws/eight")
    await service.visit("ann", LEFT, path="/ws/eight")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert service.outcomes() == {"accepted": 4, "principal_disagrees": 2}
    assert monitor.registry.value(names.WEBSOCKET_ID_REUSE, by="same_user") == 1
    assert monitor.registry.value(names.WEBSOCKET_ID_REUSE, by="another_user") == 2
    assert [what.rsplit(" ", 1)[-1] for what in service.reported()] == ["closed", "closed"]


def test_states_tell_idle_from_dead_only_where_the_client_answers() -> None:
    """A client that only listens never sends: without a pong of it, silence proves nothing."""
    connection = Connection(None, {})
    now = clock()
    assert connection.state(now) == "busy"
    assert connection.state(now + 3600) == "idle"

    connection.sent_at = now + 3599
    assert connection.state(now + 3600) == "busy", "nothing is known of its answers"
    connection.answered()
    assert connection.state(now + 3600) == "dead"
    connection.heard_at = now + 3599.5
    assert connection.state(now + 3600) == "busy"


async def test_the_states_of_connections_are_shown(make_monitor) -> None:
    monitor = make_monitor()
    service = Service(monitor, [ACCEPT, None])
    task = asyncio.create_task(service.visit("ann"))
    await asyncio.sleep(0.01)
    [connection] = monitor.connections
    monitor.handshakes.tick(0)
    assert monitor.registry.value(names.WEBSOCKET_STATE, state="busy") == 1

    for stamp in ("opened_at", "heard_at", "sent_at"):
        setattr(connection, stamp, getattr(connection, stamp) - 3600)
    monitor.handshakes.tick(0)
    assert [monitor.registry.value(names.WEBSOCKET_STATE, state=one) for one in names.CONNECTION_STATES] == [0, 1, 0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_planted_fault_is_seen(make_monitor) -> None:
    monitor = make_monitor()
    monitor.handshakes.plant(Lab(monitor.principals))

    [violation] = monitor.violations(synthetic=True)
    assert violation.kind == names.BAD_HANDSHAKE
    assert monitor.violations() == []
    assert monitor.registry.value(names.WEBSOCKET_CONNECTIONS, outcome="principal_disagrees") == 0


async def test_a_real_client_that_stops_answering_is_dead_and_alive_again_with_its_pong(make_monitor, serve, dial) -> None:
    """The network took the connection and told nobody: pongs are missing, and nothing else."""
    monitor = make_monitor()
    pusher = Pusher(monitor)
    ann = await dial(await serve(pusher.app), asks=False)
    await eventually(lambda: pusher.sends.get("ann"), "the application accepted")
    [connection] = monitor.connections
    await pusher.push("ann", {"n": 1})
    await eventually(lambda: connection.answers, "a pong came")

    ann.socket.transport.pause_reading()
    await pusher.push("ann", {"n": 2})
    connection.heard_at -= 3600
    monitor.handshakes.tick(0)
    assert monitor.registry.value(names.WEBSOCKET_STATE, state="dead") == 1

    ann.socket.transport.resume_reading()
    await eventually(lambda: connection.state(clock()) == "busy", "its pong came after all")
