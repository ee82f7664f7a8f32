"""WebSocket connections: each is bound to its principal, and each inbound message with what it starts is one request."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, SCOPE_KEY, Connection, RequestContext, Served, clock
from isolation_monitor.telemetry.delivery.envelope import is_asked
from isolation_monitor.telemetry.delivery.socketio import is_socketio
from isolation_monitor.telemetry.detectors import inherited_context
from isolation_monitor.telemetry.flags.arms import inherit
from isolation_monitor.telemetry.tokens import legible

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.frames import Frames
    from isolation_monitor.telemetry.instrument.bodies import ASGIApp, Message, Receive, Scope, Send
    from isolation_monitor.telemetry.monitor import IsolationMonitor
    from isolation_monitor.telemetry.principals import Principal

ASKED_LIMIT: Final = 8
"""Frames to nobody known before which the extractor is asked once more; after that only at messages that come in."""


class Sockets:
    """Watches the WebSocket connections of one application."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self._monitor = monitor
        self._ledger = monitor.ledger
        self._exposure = monitor.ledger.exposure
        self._frames: Frames = monitor.frames
        self._delivery = monitor.delivery
        self._content = monitor.detection.foreign_content
        self._access = monitor.detection.access_rules
        self._isolated = monitor.ledger.isolated_cells("websocket")
        self._limit = monitor.settings.body_limit_bytes
        self._looks = monitor.detection.message_looks
        registry = monitor.registry
        self._handshakes = monitor.handshakes
        self._queues = monitor.queue_depths
        self._received = registry.counter(names.WEBSOCKET_MESSAGES, direction="received")
        self._sent = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")

    async def handle(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection by `app`, watching what comes and goes."""
        connection = self._open(scope)
        handshake = unit = self._enter_handshake(scope, connection)
        frames, received, sent = self._frames, self._received, self._sent
        receive, send, measuring = self._measured(scope, connection, receive, send)
        handshakes, queues, failure = self._handshakes, self._queues, None

        async def watching_receive() -> Message:
            nonlocal unit
            # One inbound message and what it starts is one request. It is judged when the application asks for the next
            # one, or, while a run of it is still going, when the next one comes.
            if unit is not None and not unit.finished and not unit.open_runs:
                self._leave_message(unit, connection, is_handshake=unit is handshake)
            message = await receive()
            # What the server queues for the application feeds no socket.
            queues.latest = None
            if message["type"] == "websocket.receive":
                received.values[received.index] += 1.0
                connection.heard_at = clock()
                if unit is not None and not unit.finished:
                    self._leave_message(unit, connection, is_handshake=unit is handshake)
                unit = self._enter_message(scope, connection, unit)
                if unit is not None:
                    if handshake is not None and handshake.arms is not None:
                        inherit(unit, handshake)
                    if self._limit:
                        self._take(unit, message)
            elif message["type"] == "websocket.disconnect":
                connection.closed = True
                handshakes.closed(connection, "client", message.get("code"))
            return message

        def watching_send(message: Message) -> Awaitable[None]:
            kind = message["type"]
            if kind == "websocket.send":
                sent.values[sent.index] += 1.0
                connection.sent_at, connection.sending = clock(), unit
                if queues.latest is not None:
                    queues.sent()
                if connection.principal is None and connection.asked < ASKED_LIMIT:
                    self._name_before_frame(scope, connection, unit)
                if frames.reads:
                    return frames.send(message, send, connection, unit)
            elif kind == "websocket.accept":
                handshakes.accepted(connection, scope, unit)
                if unit is not None and self._access.rules:
                    self._judge_access(unit, scope)
            elif kind == "websocket.close":
                connection.closed = True
                handshakes.closed(connection, "server", message.get("code", 1000))
            elif kind == "websocket.http.response.start":
                handshakes.closed(connection, "server", 1011 if message["status"] >= 500 else 1008)
            return send(message)

        try:
            await app(scope, watching_receive, watching_send)
        except BaseException as error:
            failure = error
            if unit is not None:
                unit.failed = isinstance(error, Exception)
                self._monitor.detection.containment.raised(unit, error)
            raise
        finally:
            for end in measuring:
                self._guarded(end)
            self._close(connection, failure)
            # Its traceback holds this frame: kept in it, both would wait for the collector of cycles, with all the application's.
            failure = None
            if unit is not None and not unit.finished:
                self._leave_message(unit, connection, is_handshake=unit is handshake)
            connection.let_go()

    def _measured(
        self, scope: Scope, connection: Connection, receive: Receive, send: Send
    ) -> tuple[Receive, Send, list[Callable[[], None]]]:
        """Return a receive and a send by which delivery is measured as far as the connection can tell, and what to call at its end."""
        try:
            acks = self._delivery.acknowledgements.watch(send)
            if acks is not None:
                acks.on_pong, acks.arm, acks.owner = connection.answered, connection.sending_arm, lambda: connection.principal
            ends = [acks.ended] if acks is not None else []
            if is_asked(scope):
                negotiated = self._delivery.negotiated(connection, receive, send, acks)
                measured: tuple[Receive, Send] = negotiated.receive, negotiated.send
                ends.insert(0, negotiated.close)
            elif is_socketio(scope):
                socketio = self._delivery.socketio(receive, send, acks)
                socketio.arm = connection.sending_arm
                measured = socketio.receive, socketio.send
                ends.insert(0, socketio.close)
            else:
                measured = receive, send if acks is None else acks.send
            connection.is_measured = bool(ends)
            return *measured, ends
        except Exception as error:
            self._ledger.internal_error("delivery", error)
            return receive, send, []

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._ledger.internal_error("delivery", error)

    def _judge_access(self, request: RequestContext, scope: Scope) -> None:
        """Judge whether the user may see what the handshake names, now that the application lets him in."""
        try:
            self._access.answering(request, scope)
        except Exception as error:
            self._ledger.check_failed(names.UNSCOPED_ACCESS, "middleware", error)

    def _open(self, scope: Scope) -> Connection:
        connection = Connection(self._monitor.principal_of(scope), scope)
        try:
            task = asyncio.current_task()
            connection.task = weakref.ref(task) if task is not None else None
            self._monitor.connections.add(connection)
            self._exposure.enter(connection.principal, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)
        return connection

    def _close(self, connection: Connection, failure: BaseException | None) -> None:
        connection.closed = True
        try:
            self._handshakes.ended(connection, failure)
            self._monitor.connections.discard(connection)
            self._exposure.leave(connection.principal, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def _enter_handshake(self, scope: Scope, connection: Connection) -> RequestContext | None:
        try:
            earlier = CURRENT.get()
            request = RequestContext(connection.principal, scope, connection, copy_context())
            if earlier is not None:
                inherited_context.judge(request, earlier)
            CURRENT.set(request)
            scope[SCOPE_KEY] = request
            self._note_overlap(request)
            if self._limit:
                self._content.entered(request, scope)
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _take(self, request: RequestContext, message: Message) -> None:
        """Learn from what the user says."""
        try:
            text = message.get("text")
            if text is None:
                body = message.get("bytes")
                text = legible(body) if isinstance(body, bytes) and len(body) <= self._limit else ""
            if text and len(text) <= self._limit:
                self._content.came_in(request, text)
        except Exception as error:
            self._ledger.check_failed(names.FOREIGN_CONTENT, "middleware", error)

    def _enter_message(self, scope: Scope, connection: Connection, previous: RequestContext | None) -> RequestContext | None:
        try:
            principal = connection.principal
            if principal is None:
                principal = self._named_late(scope, connection)
            request = RequestContext(principal, scope, connection, None if previous is None else previous.baseline)
            # Set in the task that receives, so that what it starts belongs to this message.
            CURRENT.set(request)
            # _note_overlap
            exposure = self._exposure
            if exposure.principals > 1:
                exposure.latest_overlap = request.serial
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _note_overlap(self, request: RequestContext) -> None:
        """Exposure.enter without its counting: the open connection keeps its principal live for all its messages."""
        exposure = self._exposure
        if exposure.principals > 1:
            exposure.latest_overlap = request.serial

    def _named_late(self, scope: Scope, connection: Connection) -> Principal | None:
        """Ask again whose the connection is: authentication inside the application may have named the user by now."""
        principal = self._monitor.principal_of(scope)
        if principal is not None:
            self._exposure.named(principal, connection.serial)
            connection.principal = principal
            self._handshakes.named(connection)
        return principal

    def _name_before_frame(self, scope: Scope, connection: Connection, request: RequestContext | None) -> None:
        """Ask again before a frame leaves: who says who he is in his first message is known once the application has read it."""
        try:
            connection.asked += 1
            principal = self._named_late(scope, connection)
            if request is not None and request.principal is None:
                request.principal = principal
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def _leave_message(self, request: RequestContext, connection: Connection, *, is_handshake: bool = False) -> None:
        try:
            if request.pending is not None:
                inherited_context.settle(request, self._ledger)
            if request.checkouts or request.fetched is not None:
                self._monitor.request_ended(request)
            if request.failed:
                self._monitor.request_failed(request)
            served = connection.served
            if served is None or served.endpoint is None:
                # Once for all messages of a connection, but not before a router has run.
                served = connection.served = Served(connection.scope)
            request.served = served
            request.scope = None
            looks = self._looks
            if looks.left > 0:
                looks.left -= 1
                self._monitor.detection.ended(request)
            else:
                looks.missed += 1
            exposure = self._exposure
            if exposure.latest_overlap >= request.serial:
                request.exposed = True
            if request.principal is None or request.violated or request.unverifiable:
                self._ledger.finish(request)
            else:
                # Ledger.finish for the messages that nothing was found on.
                request.finished = True
                exposure.latest_finished = request.serial
                cell = self._isolated[request.arm][request.exposed]
                cell.values[cell.index] += 1.0
            if request.arms is not None:
                self._ledger.rollouts.ended(request, request.failed, None if is_handshake else _worked_s(request))
        except Exception as error:
            self._ledger.internal_error("middleware", error)


def _worked_s(message: RequestContext) -> float | None:
    """Return how long a message was worked on, seconds: to the end of its runs, or until the next was asked for.

    None while a run is still going, which the next message or the end of the connection cut off.
    """
    return None if message.open_runs else (message.worked_until or clock()) - message.started
