"""Socket.IO over a WebSocket: which frames are events, and which of them the client's code has acknowledged.

Each text frame is an Engine.IO packet: `4` begins a message, in which `2` (`5` with binary parts) is an event, followed by the
namespace if it is not the default one, the number of the acknowledgement that the server asks for, if any, and a JSON array whose
first item names the event. `3` (`6`) with the same number answers it. All other packets are the protocol's own: they are no events.
Source: Socket.IO protocol 5 and Engine.IO protocol 4 (https://socket.io/docs/v4/socket-io-protocol/).

An event for which the server asked (`emit(..., callback=...)`, `call(...)`) climbs to `client_acked`; every other one as far as any
frame of its connection. Everything on the event loop's thread. Of long polling only the hand-over is known.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.delivery.ladder import CLIENT_ACKED

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.acknowledgements import Acks
    from isolation_monitor.telemetry.delivery.ladder import Ladder

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
Call = tuple[str, str]
"""Namespace and number of an acknowledgement that was asked for."""

PENDING_LIMIT: Final = 1_000
"""Acknowledgements of one connection that are waited for; with more, the oldest are unknown."""
HANDED_OVER: Final = "sent"
_EVENT: Final = re.compile(r'4(?:2|5\d+-)(?:(/[^,]*),)?(\d*)\[\s*"([^"\\]*)"')
_ACK: Final = re.compile(r"4(?:3|6\d+-)(?:(/[^,]*),)?(\d+)\[")


def is_socketio(scope: Mapping[str, Any]) -> bool:
    """Return whether a WebSocket's address is that of an Engine.IO transport."""
    parameters = (scope.get("query_string") or b"").split(b"&")
    return b"transport=websocket" in parameters and any(one.startswith(b"EIO=") for one in parameters)


def event_of(text: str) -> str:
    """Return the name of the event that a packet carries; empty for every other text."""
    found = _EVENT.match(text) if text[:2] in ("42", "45") else None
    return found[3] if found else ""


class SocketIO:
    """One such connection: what its application uses in place of the server's `receive` and `send`."""

    def __init__(
        self,
        ladder: Ladder,
        wait_s: float,
        on_error: Callable[[BaseException], None],
        receive: Receive,
        send: Send,
        acks: Acks | None,
    ) -> None:
        """`acks`: what the connection acknowledges without the client's code, None where it does not. `wait_s`: until unknown."""
        self._ladder = ladder
        self._wait_s = wait_s
        self._on_error = on_error
        self._receive = receive
        self._send = send
        self._acks = acks
        self.arm: Callable[[], str] = lambda: "none"
        """Tells the arm of the event that is being sent."""
        self._pending: dict[Call, tuple[float, str]] = {}
        """When each acknowledgement that is waited for was asked for, and its event's arm; oldest first."""
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, message: Message) -> None:
        """As the server's; an event counts once the server took it."""
        text = message.get("text")
        found = _EVENT.match(text) if type(text) is str else None
        acks = self._acks
        if message["type"] != "websocket.send":
            await (self._send if acks is None else acks.send)(message)
        elif found is None:
            await self._send(message)
        elif found[2]:
            arm = self.arm()
            await self._send(message)
            self._guarded(self._asked, (found[1] or "/", found[2]), arm)
        elif acks is not None:
            await acks.send(message)
        else:
            arm = self.arm()
            await self._send(message)
            self._guarded(self._handed_over, arm)

    async def receive(self) -> Message:
        """As the server's; acknowledgements are noted and go on to the application, whose own they are."""
        message: Message = await self._receive()
        if self._pending and message["type"] == "websocket.receive":
            self._guarded(self._heard, message.get("text"))
        return message

    def close(self) -> None:
        """The connection is over: what was not acknowledged is unknown."""
        if self._timer is not None:
            self._timer.cancel()
        for arm, n in Counter(arm for _, arm in self._pending.values()).items():
            self._ladder.settled("unknown", CLIENT_ACKED, n, arm=arm)
        self._pending.clear()

    def _asked(self, call: Call, arm: str) -> None:
        self._ladder.climbed("emitted", CLIENT_ACKED)
        self._ladder.climbed("sent", CLIENT_ACKED)
        if self._acks is not None:
            self._acks.sent_enveloped()
        pending = self._pending
        if len(pending) >= PENDING_LIMIT:
            _, oldest_arm = pending.pop(next(iter(pending)))
            self._ladder.settled("unknown", CLIENT_ACKED, arm=oldest_arm)
        pending[call] = time.monotonic(), arm
        if self._timer is None:
            self._wait(self._wait_s)

    def _handed_over(self, arm: str) -> None:
        self._ladder.climbed("emitted", HANDED_OVER)
        self._ladder.climbed("sent", HANDED_OVER)
        self._ladder.settled("acknowledged", HANDED_OVER, arm=arm)

    def _heard(self, text: object) -> None:
        found = _ACK.match(text) if type(text) is str else None
        # One that came too late was settled already, and one that nobody asked for settles nothing.
        if found is not None and (asked := self._pending.pop((found[1] or "/", found[2]), None)) is not None:
            self._ladder.climbed(CLIENT_ACKED, CLIENT_ACKED)
            self._ladder.settled("acknowledged", CLIENT_ACKED, arm=asked[1])

    def _wait(self, seconds: float) -> None:
        # An empty context: the timer belongs to no request.
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire, context=Context())

    def _expire(self) -> None:
        self._timer = None
        try:
            now, pending = time.monotonic(), self._pending
            while pending:
                oldest = next(iter(pending))
                asked_at, arm = pending[oldest]
                left = asked_at + self._wait_s - now
                if left > 0:
                    self._wait(left)
                    return
                del pending[oldest]
                self._ladder.settled("unknown", CLIENT_ACKED, arm=arm)
        except Exception as error:
            self._on_error(error)

    def _guarded(self, act: Callable[..., None], *args: object) -> None:
        try:
            act(*args)
        except Exception as error:
            self._on_error(error)
