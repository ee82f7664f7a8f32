"""A connection whose client asked for the envelope: what stands between its application and the server.

Frames of the application that are JSON objects leave in an envelope and wait for their acknowledgement; frames of the
monitor's client never reach the application. Servers hand over the next message only when the application asks for it,
so a task of ours asks instead: acknowledgements arrive also while the application is busy sending. All other messages
wait for the application, at most `WAITING` of them; then the client is slowed down as it would be without us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.delivery.envelope import (
    MEMBER,
    WrappedBytes,
    WrappedText,
    divided,
    object_of,
    own_content,
    own_frame,
    whole_number,
    wrapped,
)
from isolation_monitor.telemetry.delivery.socketio import SocketIO

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import Connection
    from isolation_monitor.telemetry.delivery.acknowledgements import Acknowledgements, Acks
    from isolation_monitor.telemetry.delivery.deepest_queues import DeepestQueues
    from isolation_monitor.telemetry.delivery.envelope import Frame
    from isolation_monitor.telemetry.delivery.retention import Retention
    from isolation_monitor.telemetry.delivery.run import Runs
    from isolation_monitor.telemetry.delivery.stream import Entry, Stream
    from isolation_monitor.telemetry.principals import Principal

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]

WAITING: Final = 64
_OWN_MEMBER: Final = f'"{MEMBER}"'
REPORTED_AT_ONCE: Final = 1_000_000
"""A client's totals are believed up to this growth per message."""


def _wrapped(frame: WrappedText | WrappedBytes) -> Frame:
    text, form = wrapped(frame)
    return divided(text, 0, False, f',"as":"{form}"')


class Delivery:
    """Makes the connections of one monitor's clients deliver measurably."""

    def __init__(
        self,
        retention: Retention,
        acknowledgements: Acknowledgements,
        runs: Runs,
        fields: tuple[str, str],
        limit: int,
        ack_ms: int,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.retention = retention
        self.acknowledgements = acknowledgements
        self.runs = runs
        self.run_id_field, self.event_field = fields
        self.limit = limit
        self.ack_ms = ack_ms
        self.on_error = on_error
        self.deepest: DeepestQueues | None = None
        """Tells the collector who waits; None without a collector, or when the monitor is off."""

    def negotiated(self, connection: Connection, receive: Receive, send: Send, acks: Acks | None) -> Negotiated:
        """Return what the application of a connection that asked shall use in place of the server's `receive` and `send`."""
        return Negotiated(self, connection, receive, send, acks)

    def socketio(self, receive: Receive, send: Send, acks: Acks | None) -> SocketIO:
        """Return the same for a connection of Socket.IO."""
        known = self.acknowledgements
        return SocketIO(known.ladder, known.wait_s, self.on_error, receive, send, acks)

    def frame_of(self, frame: object) -> Frame | None:
        """Return a frame in parts, ready for its envelope; None for one that gets none."""
        if type(frame) is not str:
            if isinstance(frame, (WrappedText, WrappedBytes)):
                return _wrapped(frame)
            if not isinstance(frame, str):
                return None
        if len(frame) > self.limit:
            return None if _OWN_MEMBER not in frame else _wrapped(WrappedText(frame))
        found = object_of(frame)
        if found is None:
            return None
        fields, start = found
        if MEMBER in fields:
            # The application's own member of that name, or what one of its users wrote: to the client it must not look like ours.
            return _wrapped(WrappedText(frame))
        more = "" if (number := self._run_number(fields)) is None else f',"run":{number}'
        if not start and fields:
            # `divided` for nearly all frames.
            return "{", "," + frame[1:], more
        return divided(frame, start, not fields, more)

    async def deliver(self, principal: Principal, frame: str | bytes) -> bool:
        """Send a frame to a user wherever he listens in this process; it waits for him where he does not.

        Raises:
            ValueError: the frame can have no envelope: it is neither a JSON object nor wrapped.
        """
        parts = self.frame_of(frame)
        if parts is None:
            raise ValueError("deliver() takes a JSON object as text, or what monitor.envelope(...) returns: other frames have no number")
        return await self.retention.deliver(principal, parts)

    def _run_number(self, fields: dict[str, Any]) -> int | None:
        run_id = fields.get(self.run_id_field)
        run = self.runs.known.get(run_id) if isinstance(run_id, str) else None
        if run is None:
            return None
        event = fields.get(self.event_field)
        return run.numbers.of_frame(event) if isinstance(event, str) else None

    def forked(self) -> None:
        """Forget everything in a child process: the connections are the parent's."""
        self.retention.forked()
        self.acknowledgements.forked()
        if self.deepest is not None:
            self.deepest.forked()

    def close(self) -> None:
        """The process ends: what is not acknowledged by now is unknown."""
        self.retention.close()
        self.acknowledgements.close()
        if self.deepest is not None:
            self.deepest.look((), time.monotonic())


class _Inbox(asyncio.Queue[Any]):
    """A queue that the detectors of foreign tasks do not look at: it is ours."""


class Negotiated:
    """One such connection."""

    def __init__(self, delivery: Delivery, connection: Connection, receive: Receive, send: Send, acks: Acks | None) -> None:
        self._delivery = delivery
        self._connection = connection
        self._receive = receive
        self._send = send
        self._acks = acks
        self._inbox: _Inbox | None = None
        self._pump: asyncio.Task[None] | None = None
        self.stream: Stream | None = None

    async def receive(self) -> Any:
        """As the server's, without the frames of the monitor's client."""
        if self._inbox is None:
            return await self._receive()
        message = await self._inbox.get()
        if isinstance(message, BaseException):
            raise message
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """As the server's; frames that are JSON objects get their envelope and are kept."""
        kind = message["type"]
        if kind == "websocket.send":
            entry = self._entry(message)
            if entry is None or self.stream is None:
                # On the lower rungs.
                return self._send(message) if self._acks is None else self._acks.send(message)
            return self.stream.emit(entry)
        return self._accept(message) if kind == "websocket.accept" else self._send(message)

    def close(self) -> None:
        """The application is done with the connection."""
        if self._pump is not None:
            self._pump.cancel()
        if self.stream is not None:
            self._delivery.retention.closed(self.stream)

    async def _accept(self, message: Message) -> None:
        await self._send(message)
        delivery = self._delivery
        try:
            sent = self._acks.sent_enveloped if self._acks is not None else None
            stream = delivery.retention.open(self._connection.principal, self._send, sent)
            welcome = own_frame(welcome={"stream": stream.name, "epoch": delivery.retention.epoch, "ack_ms": delivery.ack_ms})
            async with stream.turn:
                await stream.tell(welcome)
            self._inbox = _Inbox(WAITING)
            # An empty context: the task belongs to no request.
            self._pump = asyncio.get_running_loop().create_task(self._read(self._inbox, stream), context=Context())
            self.stream = stream
            await delivery.retention.welcome(stream)
        except Exception as error:
            delivery.on_error(error)

    def _entry(self, message: Message) -> Entry | None:
        """Return the event that a frame is; None for a frame that gets no envelope."""
        try:
            stream = self.stream
            if stream is None:
                return None
            text, body = message.get("text"), message.get("bytes")
            frame = self._delivery.frame_of(text if body is None else body)
            if frame is None:
                return None
            principal = self._connection.principal
            if stream.queue.principal is None and principal is not None:
                self._delivery.retention.named(stream, principal)
            return stream.entry(frame, self._connection.sending_arm())
        except Exception as error:
            self._delivery.on_error(error)
            return None

    async def _read(self, inbox: _Inbox, stream: Stream) -> None:
        """Read the connection to its end; acknowledgements are taken, everything else waits for the application."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == "websocket.receive":
                    said = own_content(message.get("text"))
                    if said is not None:
                        await self._heard(said, stream)
                        continue
                elif message["type"] == "websocket.disconnect":
                    self._delivery.retention.closed(stream)
                    await inbox.put(message)
                    return
                await inbox.put(message)
        except Exception as error:
            # The server's own error is the application's to see.
            await inbox.put(error)

    async def _heard(self, said: dict[str, Any], stream: Stream) -> None:
        """Take a frame of the monitor's client. What cannot be understood is ignored: it may come from a later version."""
        try:
            self._connection.answered()
            number = whole_number(said.get("ack"))
            if number is not None:
                stream.acknowledge(number)
                for what, before in stream.reports.items():
                    total = whole_number(said.get(what))
                    if total is not None and before < total <= before + REPORTED_AT_ONCE:
                        stream.reports[what] = total
                        self._delivery.retention.ladder.reported(what, total - before)
            hello = said.get("hello")
            if isinstance(hello, dict) and isinstance(hello.get("stream"), str):
                principal = self._connection.principal
                if stream.queue.principal is None and principal is not None:
                    self._delivery.retention.named(stream, principal)
                await self._delivery.retention.resume(hello["stream"], whole_number(hello.get("conn")) or 0, stream)
        except Exception as error:
            self._delivery.on_error(error)
