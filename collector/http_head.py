"""The head of a request, bounded while it arrives: uvicorn's fast parser takes one of any size, and waits for its end for ever.

Without httptools it is uvicorn's own parser, which bounds the bytes, not the time. `isomon collector` serves with it;
`uvicorn --http isolation_monitor.collector.http_head:BoundedHead` does, too. Nobody has shown a token yet when a head arrives, so
what it may cost is the same for all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Final

HEAD_BYTES: Final = 65_536
"""As many as uvicorn's other parser, h11, takes."""
HEAD_TIMEOUT_S: Final = 30.0

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
else:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        HttpToolsProtocol = None
        from uvicorn.protocols.http.h11_impl import H11Protocol as BoundedHead

if HttpToolsProtocol is not None:

    class BoundedHead(HttpToolsProtocol):
        """A connection whose heads end within bytes and time; what is longer is answered 400, what is slower is closed."""

        head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S

        _arrived = 0
        _said = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base
            super().connection_made(transport)
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._arrived += len(data)
            super().data_received(data)
            if self.transport is None or self.transport.is_closing():
                return
            # A header is told of when it is whole: one without end is seen only here, and so is one behind a body in chunks.
            if self._arrived > HEAD_BYTES:
                self.send_400_response("")
            elif self._timer is None and self.cycle is not None and self.cycle.response_complete:
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
            self._end()
            self._arrived = self._said = 0
            self._timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

        def _end(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self.transport.close()
