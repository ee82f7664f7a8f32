"""A small Redis client with a pool of its own, as services write them: the leak is in how a cancelled command ends."""

from __future__ import annotations

import asyncio
import urllib.parse
from dataclasses import dataclass


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class RedisClient:
    """Sends one command at a time on each of at most `size` connections; the least recently used connection comes last."""

    def __init__(self, url: str, *, size: int, discards_cancelled: bool) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._free: list[_Connection] = []
        self._permits = asyncio.Semaphore(size)
        self._discards_cancelled = discards_cancelled

    async def execute(self, *words: str) -> object:
        """Send a command and return its reply: str, int, list or None."""
        async with self._permits:
            connection = self._free.pop() if self._free else _Connection(*await asyncio.open_connection(*self._address))
            try:
                connection.writer.write(_encode(words))
                await connection.writer.drain()
                reply = await _reply(connection.reader)
            except (OSError, asyncio.IncompleteReadError):
                connection.writer.close()
                raise
            except asyncio.CancelledError:
                if self._discards_cancelled:
                    connection.writer.close()
                else:
                    self._free.append(connection)
                raise
            self._free.append(connection)
            return reply

    async def close(self) -> None:
        for connection in self._free:
            connection.writer.close()
            await connection.writer.wait_closed()


def _encode(words: tuple[str, ...]) -> bytes:
    raw = [word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


async def _reply(reader: asyncio.StreamReader) -> object:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"$":
        if rest == b"-1":
            return None
        return (await reader.readexactly(int(rest) + 2))[:-2].decode()
    if kind == b"*":
        return None if rest == b"-1" else [await _reply(reader) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    if kind == b"-":
        raise RuntimeError(rest.decode())
    return rest.decode()
