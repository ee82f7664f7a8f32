"""The client itself: connects, asks for the envelope, acknowledges, and comes back after a lost connection.

Times are seconds. Pauses between attempts double from `first_pause_s` to `longest_pause_s`, each shortened at random by
up to half, so that the clients of a restarted service do not all come back in the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.protocol import State

from isolation_monitor.client.receiver import Event, Receiver, Report

ASKING: Final = "isolation=1"
FINAL_CODES: Final = frozenset({1000, 1008, *range(4000, 5000)})
"""Close codes after which nobody comes back: normal, policy, and the application's own."""


class DeliveryClient:
    """Receives a service's events, each once and acknowledged: `async with DeliveryClient(url) as client: async for event in client: ...`.

    Args:
        url: address of the WebSocket, `ws://` or `wss://`; the parameter that asks for the envelope is added.
        headers: of the handshake, such as `Authorization`.
        reconnects: whether a lost connection is opened again; else the iteration ends with it.
        options: everything else that `websockets.asyncio.client.connect` takes.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        reconnects: bool = True,
        first_pause_s: float = 0.1,
        longest_pause_s: float = 10.0,
        **options: Any,  # Any: handed on
    ) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(query=f"{parts.query}&{ASKING}" if parts.query else ASKING))
        self._headers = dict(headers or {})
        self._reconnects = reconnects
        self._pauses = (first_pause_s, longest_pause_s)
        self._options = options
        self._receiver = Receiver()
        self._is_closed = False
        self._connected = asyncio.Event()
        self.socket: ClientConnection | None = None
        """The current connection; None between two."""
        self.close_code: int | None = None
        """How the last connection ended."""

    @property
    def report(self) -> Report:
        """What arrived so far, and what did not."""
        return self._receiver.report

    @property
    def is_current(self) -> bool:
        """Whether it is connected, and everything that it missed before was asked for and answered."""
        # A slow reader may still be busy with what came over a connection that is lost by now.
        return self.socket is not None and self.socket.state is State.OPEN and self._receiver.is_current

    async def __aenter__(self) -> DeliveryClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def send(self, frame: str | bytes) -> None:
        """Send a frame of the application's own; waits for a connection.

        Raises:
            ConnectionClosed: the connection was lost just now; nobody knows whether the frame arrived.
        """
        while self.socket is None:
            await self._connected.wait()
        await self.socket.send(frame)

    async def close(self) -> None:
        """Acknowledge what arrived and close; the iteration ends."""
        self._is_closed = True
        socket = self.socket
        if socket is not None:
            await self._acknowledge(socket)
            await socket.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield events until `close`, a final close code, or, where it does not reconnect, the end of the connection.

        Raises:
            InvalidStatus: the service refuses the handshake (401, 403, 404): trying again would not help.
            OSError, InvalidHandshake: there is no service, and the client does not reconnect.
        """
        pause_s, longest_s = self._pauses
        while not self._is_closed:
            try:
                socket = await connect(self._url, additional_headers=self._headers, **self._options)
            except (OSError, InvalidHandshake, TimeoutError) as error:
                if not self._reconnects or (isinstance(error, InvalidStatus) and 400 <= error.response.status_code < 500):
                    raise
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, longest_s)
                continue
            pause_s = self._pauses[0]
            async for event in self._events_of(socket):
                yield event
            self.close_code = socket.close_code
            if not self._reconnects or self._is_closed or self.close_code in FINAL_CODES:
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _events_of(self, socket: ClientConnection) -> AsyncIterator[Event]:
        self.socket = socket
        self._connected.set()
        acknowledging = asyncio.create_task(self._acknowledge_for_ever(socket))
        try:
            with contextlib.suppress(ConnectionClosed):
                async for frame in socket:
                    if self._is_closed:
                        # Would not be acknowledged any more: to be sent again to whoever comes next.
                        break
                    event, answer = self._receiver.heard(frame)
                    if answer is not None:
                        await socket.send(answer)
                    if event is not None:
                        yield event
        finally:
            acknowledging.cancel()
            self.socket = None
            self._connected.clear()
            self._receiver.disconnected()

    async def _acknowledge_for_ever(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._receiver.ack_ms / 1000)
            await self._acknowledge(socket)

    async def _acknowledge(self, socket: ClientConnection) -> None:
        news = self._receiver.acknowledgement()
        if news is not None:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(news)
