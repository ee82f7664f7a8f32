"""A TCP proxy that cuts: what stands between a client and a real server when the network is bad."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

from tests.real_parts.processes import free_port

# Closing sends a reset, as a dead network device would make one: neither side gets a word of farewell.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections of `port` to `target`, both on loopback. Every method may be called from any thread."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.cuts = 0
        """Connections that were cut so far."""
        self._target = target
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._refuses = False
        self._budget: int | None = None
        self._marker = b""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, and each new one until `restore`."""
        with self._lock:
            self._refuses = True
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def restore(self) -> None:
        """Let new connections through again."""
        self._refuses = False

    def cut_after(self, to_client: int, *, of: bytes = b"GET /ws") -> None:
        """Cut when more than `to_client` further bytes go to clients whose connections began with `of`; new ones pass at once."""
        self._marker, self._budget = of, to_client

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                self._reset((client,))
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                self._reset((client,))
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._forward, args=(pair,), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        first = b""
        with contextlib.suppress(OSError, ValueError):
            while True:
                for side in select.select(pair, [], [])[0]:
                    data = side.recv(65_536)
                    if not data:
                        return self._drop(pair)
                    if side is client:
                        first = first or data
                        server.sendall(data)
                    elif self._budget is not None and first.startswith(self._marker):
                        budget, self._budget = self._budget, max(0, self._budget - len(data))
                        client.sendall(data[:budget])
                        # Only in the middle of something: what the client has whole, it may answer at once.
                        if len(data) > budget:
                            self._budget = None
                            return self._reset(pair)
                    else:
                        client.sendall(data)
        self._drop(pair)
        return None

    def _reset(self, pair: tuple[socket.socket, ...]) -> None:
        for side in pair:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.cuts += 1
        self._drop(pair)

    def _drop(self, pair: tuple[socket.socket, ...]) -> None:
        with self._lock:
            self._pairs.discard(pair)  # type: ignore[arg-type]  # a lone client is in no pair
        for side in pair:
            with contextlib.suppress(OSError):
                side.close()


@contextlib.contextmanager
def cutting_proxy(target: int) -> Iterator[Proxy]:
    """Run a proxy to a port of loopback until the block ends."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
