"""A bank upstream, on a socket of its own in the service's process: it answers the accounts of the key's owner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping


@contextlib.asynccontextmanager
async def upstream_bank(account_of_key: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve `GET` with an `X-Api-Key`; give the base URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                key = next(line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("x-api-key"))
                await asyncio.sleep(random.uniform(0.001, 0.01))
                body = json.dumps({"accounts": [{"number": account_of_key[key], "currency": "EUR"}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
