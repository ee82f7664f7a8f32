"""A collector for one run: takes the records that a monitor sends, and keeps the violations in them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

KEPT: Final = 2_000
_ALL_TAKEN: Final = b'{"accepted": 0, "duplicate": 0, "rejected": []}'
"""Without a list of what was rejected no sender believes that it was the collector who answered."""
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ALL_TAKEN) + _ALL_TAKEN
NOTHING_HERE: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Evidence:
    """The latest violations of users, as records (docs/records.md)."""

    def __init__(self) -> None:
        self.url = ""
        self.violations: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def take(self, records: list[dict[str, Any]]) -> None:
        self.violations.extend(record for record in records if record["type"] == "violation" and not record["synthetic"])


def described(record: dict[str, Any]) -> str:
    """Tell in a line what was found, and in which lines of code."""
    sides = []
    for name in ("victim", "offender"):
        side = record[name]
        if side is not None:
            sides.append(f"{name} {side['principal']} in {side['route']} {side['stack'][-1] if side['stack'] else ''}".strip())
    return f"{record['time']} {record['kind']} {record['grade']}: {record['summary']} [{record['resource']['name']}; {'; '.join(sides)}]"


@asynccontextmanager
async def collecting() -> AsyncIterator[Evidence]:
    """Listen on loopback until the block ends; the address is in `url`."""
    evidence = Evidence()
    open_connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                    if not head.startswith("post /v1/records "):
                        # Flags are asked for, too: this collector has none.
                        writer.write(NOTHING_HERE)
                        await writer.drain()
                        continue
                    body = await reader.readexactly(int(headers["content-length"]))
                    if headers.get("content-encoding") == "gzip":
                        body = gzip.decompress(body)
                    evidence.take(json.loads(body)["records"])
                    writer.write(ANSWER)
                    await writer.drain()
        finally:
            open_connections.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    evidence.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield evidence
    finally:
        server.close()
        for writer in list(open_connections):
            writer.transport.abort()
        await server.wait_closed()
