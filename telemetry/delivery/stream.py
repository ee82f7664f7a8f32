"""One stream: the frames of one connection that asked for the envelope, kept until its client acknowledged them.

`conn` numbers begin at 1 and have no gap. A number is given under the stream's lock, in the order in which frames go to
the server, so that a client which sees them out of order has seen the transport do it. All on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.delivery.envelope import spliced

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.ladder import Ladder
    from isolation_monitor.telemetry.delivery.retention import UserQueue

HIGHEST: Final = "client_acked"

ServerSend = Callable[[dict[str, Any]], Awaitable[None]]


class Entry:
    """One event that waits for its acknowledgement. `at` is when it was emitted, in the clock of `Retention`."""

    __slots__ = ("at", "conn", "form", "id", "is_empty", "run", "start", "stream", "text", "was_replayed", "was_sent")

    def __init__(self, id: str, text: str, start: int, is_empty: bool, run: int | None, at: float, form: str | None = None) -> None:
        self.id = id
        self.text = text
        self.start = start
        """Where its object begins in the text."""
        self.is_empty = is_empty
        self.run = run
        self.at = at
        self.form = form
        """How the client gets a wrapped frame back out of `data`; None for the application's own objects."""
        self.conn = 0
        """Its number on the stream; 0 until it is sent there."""
        self.stream: Stream | None = None
        """The stream that it waits on; None when it waits no more."""
        self.was_replayed = False
        self.was_sent = False

    def again(self) -> Entry:
        """Return the same event, to be sent once more: with its own id, under a number of another stream."""
        entry = Entry(self.id, self.text, self.start, self.is_empty, self.run, self.at, self.form)
        entry.was_replayed = True
        entry.was_sent = self.was_sent
        return entry


class Stream:
    """What was sent on one connection and not acknowledged yet."""

    __slots__ = (
        "_emitted", "_envelope", "_ladder", "_send", "_sent", "_tell_sent", "closed_at", "entries", "events", "is_open", "last", "lock",
        "lost", "name", "queue", "reports", "serial", "settled_to", "shed_at", "shed_to", "successor", "unsure",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        epoch: str,
        owner: str | None,
        queue: UserQueue,
        send: ServerSend,
        ladder: Ladder,
        sent: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.queue = queue
        self.serial = 0
        """Rises from stream to stream of a process."""
        self.entries: deque[Entry] = deque()
        self.events = 0
        """Events emitted here; makes their ids."""
        self.last = 0
        """The number given last."""
        self.settled_to = 0
        """Numbers up to here are acknowledged, or given up."""
        self.shed_to = 0
        """Numbers above `settled_to` and up to here can still be acknowledged, but not be sent again: a limit was reached."""
        self.shed_at = 0.0
        self.lost = 0
        """Events given up since the connection was lost: the answer to whoever resumes."""
        self.is_open = True
        self.closed_at = 0.0
        self.successor: Stream | None = None
        """The stream that took over, when the client came back."""
        self.lock = asyncio.Lock()
        self.unsure: list[Entry] = []
        """Sent or not: their send was cancelled. They go out again under the same number, or their numbers would stay a gap."""
        self.reports = {"gaps": 0, "duplicates": 0, "disorder": 0}
        """Totals that the client told so far."""
        self._send = send
        self._ladder = ladder
        self._emitted = (ladder.cell("emitted", HIGHEST), ladder.cell("enqueued", HIGHEST))
        self._sent = ladder.cell("sent", HIGHEST)
        self._tell_sent = sent
        self.named(epoch, owner)

    def named(self, epoch: str, owner: str | None) -> None:
        """Say whose events these are; again when the application named the user late."""
        self._envelope = f'{{"epoch":"{epoch}","owner":{"null" if owner is None else chr(34) + owner + chr(34)},"conn":'

    @property
    def current(self) -> Stream:
        """The stream on which this one's user listens now: itself, or the latest that took over."""
        stream = self
        while stream.successor is not None:
            stream = stream.successor
        return stream

    @property
    def oldest_at(self) -> float | None:
        """When the oldest event was emitted that waits; None when none does."""
        if self.shed_to > self.settled_to:
            return self.shed_at
        return self.entries[0].at if self.entries else None

    @property
    def waiting(self) -> int:
        """Events that are neither acknowledged nor given up."""
        return len(self.entries) + max(0, self.shed_to - self.settled_to)

    def framed(self, entry: Entry) -> str:
        """Return the text that goes over the wire."""
        run = "" if entry.run is None else f',"run":{entry.run}'
        if entry.form is not None:
            run = f'{run},"as":"{entry.form}"'
        return spliced(entry.text, entry.start, entry.is_empty, f'{self._envelope}{entry.conn},"id":"{entry.id}"{run}}}')

    async def emit(self, entry: Entry) -> None:
        """Send an event and keep it; only keep it while nobody listens. Errors of the connection are not raised: it waits."""
        stream = self
        while True:
            stream = stream.current
            async with stream.lock:
                # Taken over while we waited for the lock: its successor has another one.
                if stream.successor is None:
                    await stream.put(entry)
                    return

    async def put(self, entry: Entry) -> None:
        """Keep an event, and send it while the connection is there. Call with the lock."""
        if self.unsure:
            await self.settle_unsure()
        if self.is_open:
            self.last += 1
            entry.conn = self.last
        entry.stream = self
        self.entries.append(entry)
        if not entry.was_replayed:
            for cell in self._emitted:
                cell.values[cell.index] += 1.0
        self.queue.add(entry)
        if entry.conn:
            await self.transmit(entry)

    async def settle_unsure(self) -> None:
        """Send once more what may not have left. Call with the lock."""
        again, self.unsure = self.unsure, []
        for entry in again:
            if entry.stream is self and self.is_open:
                await self.transmit(entry)

    async def retry(self) -> None:
        """Send what may not have left, when nothing followed that would have taken it along."""
        async with self.lock:
            await self.settle_unsure()

    async def transmit(self, entry: Entry) -> None:
        """Hand a numbered event to the server."""
        try:
            await self._send({"type": "websocket.send", "text": self.framed(entry)})
        except asyncio.CancelledError:
            self.unsure.append(entry)
            raise
        except Exception:
            # The server says that nobody is there: what waits is sent again when the user comes back.
            self.is_open = False
        else:
            if not entry.was_sent:
                entry.was_sent = True
                self._sent.values[self._sent.index] += 1.0
                if self._tell_sent is not None:
                    self._tell_sent()

    async def tell(self, text: str) -> None:
        """Send a frame of the monitor's own. Call with the lock."""
        if self.is_open:
            try:
                await self._send({"type": "websocket.send", "text": text})
            except Exception:
                self.is_open = False

    def acknowledge(self, number: int) -> int:
        """Settle everything up to `number`; return how many events that were."""
        number = min(number, self.last)
        before = self.settled_to
        if number <= before:
            return 0
        replayed, acknowledged = 0, max(0, min(number, self.shed_to) - before)
        entries = self.entries
        while entries and 0 < entries[0].conn <= number:
            entry = entries.popleft()
            self.queue.remove(entry)
            if entry.was_replayed:
                replayed += 1
            else:
                acknowledged += 1
        self.settled_to = number
        self._ladder.climbed("client_acked", HIGHEST, acknowledged + replayed)
        self._ladder.settled("acknowledged", HIGHEST, acknowledged)
        self._ladder.settled("replayed", HIGHEST, replayed)
        return acknowledged + replayed

    def shed(self, entry: Entry, reason: str) -> None:
        """Forget the text of the oldest event here, because its user's queue is full. It can still be acknowledged."""
        self.entries.remove(entry)
        self.queue.remove(entry)
        self._ladder.dropped(reason)
        if entry.conn:
            self.shed_to, self.shed_at = entry.conn, entry.at
        else:
            self._ladder.settled("expired", HIGHEST)
            self.lost += 1

    def expire(self, before: float) -> None:
        """Give up what was emitted before a moment: `unknown` on an open connection, `expired` when nobody came back."""
        outcome = "unknown" if self.is_open else "expired"
        if self.shed_to > self.settled_to and self.shed_at < before:
            self.lost += self.shed_to - self.settled_to
            self._ladder.settled(outcome, HIGHEST, self.shed_to - self.settled_to, result="unknown")
            self.settled_to = self.shed_to
        n = 0
        while self.entries and self.entries[0].at < before:
            n += 1
            self._forget(self.entries.popleft())
        if n:
            self.lost += n
            # A user who never comes back may have left on purpose: nobody knows whether he missed anything.
            self._ladder.settled(outcome, HIGHEST, n, result="unknown")
            self._ladder.dropped("age", n)

    def give_up(self, outcome: str) -> int:
        """Settle everything that waits; return how many events that were."""
        n = self.waiting
        self._ladder.settled(outcome, HIGHEST, n)
        while self.entries:
            self._forget(self.entries.popleft())
        self.settled_to = max(self.settled_to, self.shed_to)
        return n

    def _forget(self, entry: Entry) -> None:
        self.queue.remove(entry)
        if entry.conn:
            self.settled_to = max(self.settled_to, entry.conn)
