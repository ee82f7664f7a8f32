"""The head of a request, bounded while it arrives: uvicorn's fast parser takes one of any size, and neither parser ever tires of waiting.

`isomon collector` serves with `BoundedHead`, and `uvicorn --http isolation_monitor.collector.http_head:BoundedHead` does, too: by
httptools where that is installed, else by h11 (`BoundedH11Head`), which bounds the bytes by itself. Nobody has shown a token yet when a
head arrives, so what it may cost is the same for all.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    HttpToolsProtocol = None  # type: ignore[assignment,misc]  # it is looked at before it is used

HEAD_BYTES: Final = 65_536
"""As many as uvicorn's other parser, h11, takes."""
HEAD_TIMEOUT_S: Final = 30.0


class _Timed(asyncio.Protocol):
    """The wait for a head: closes the connection where it takes longer than `head_timeout_s`."""

    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any  # Any: the request that is answered; each parser has a class of its own

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._end()
        self._timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self.transport.close()

    @property
    def _is_answered(self) -> bool:
        """Say whether what came last was answered whole: what comes now belongs to the next head."""
        return self.cycle is not None and bool(self.cycle.response_complete)


class BoundedH11Head(_Timed, H11Protocol):
    """A connection read by h11 whose heads end within bytes and time; what is longer is answered 400, what is slower is closed."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self._is_answered:
            self._end()
        elif self._timer is None and self._is_answered:
            # Its first bytes have ended the server's own wait for the next request.
            self._begin()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        # From here on another protocol has the connection, and this one hears of it no more.
        self._end()
        super().handle_websocket_upgrade(event)


if HttpToolsProtocol is None:
    BoundedHead: type[asyncio.Protocol] = BoundedH11Head
else:

    class _BoundedHttpToolsHead(_Timed, HttpToolsProtocol):
        """The same, read by httptools."""

        _arrived = 0
        _said = 0

        def data_received(self, data: bytes) -> None:
            self._arrived += len(data)
            super().data_received(data)
            if self.transport is None or self.transport.is_closing():
                return
            # A header is told of when it is whole: one without end is seen only here, and so is one behind a body in chunks.
            if self._arrived > HEAD_BYTES:
                self.send_400_response("")
            elif self._timer is None and self._is_answered:
                # What came between two requests, an empty line, has ended the server's own wait for the next.
                self._timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

        def on_body(self, body: bytes) -> None:
            self._arrived = 0
            super().on_body(body)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            self._said += len(name) + len(value)
            if self._said > HEAD_BYTES:
                # The parser stops, and the connection is answered 400.
                raise ValueError("too many headers")
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._end()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            is_long = max(self._said, self._arrived) > HEAD_BYTES
            super().send_400_response(f"the head of the request has more than {HEAD_BYTES} bytes" if is_long else msg)

        def _begin(self) -> None:
            super()._begin()
            self._arrived = self._said = 0

    BoundedHead = _BoundedHttpToolsHead
