"""What may be under way at once: bytes of batches that are being read, decoded, or waiting for their commit.

A store that is slower than its senders must cost them a wait, never this process its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from isolation_monitor.collector.problems import Unavailable


class Overloaded(Unavailable):
    """More is under way than may be; the sender keeps its batch and tries again."""


class Intake:
    """Counts bytes against `limit_bytes`, and gives out turns."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._turns = asyncio.Lock()

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """Give what one request counts its bytes with; what it has not passed on is given back at the end of the block."""
        held = Held(self)
        try:
            yield held
        finally:
            self.give_back(held.pass_on())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other request is decoded, and everything else that is ready has had its turn.

        To decode a batch takes milliseconds. When sixteen came at once, each of the ten statements of the commit that was under way
        waited for all of them, and the database meanwhile had nothing to do.
        """
        async with self._turns:
            await asyncio.sleep(0)
            yield

    def take(self, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            Overloaded: there is no room for them.
        """
        if self.held_bytes + size > self.limit_bytes:
            raise Overloaded(f"{self.held_bytes} bytes of records are under way, at most {self.limit_bytes} may be: send it again later")
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        self.held_bytes -= size


class Held:
    """The bytes of one request."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._bytes = 0

    def take(self, size: int) -> None:
        self._intake.take(size)
        self._bytes += size

    def pass_on(self) -> int:
        """Leave the bytes to the caller, who gives them back to the intake."""
        size, self._bytes = self._bytes, 0
        return size
