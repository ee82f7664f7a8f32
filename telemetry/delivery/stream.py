"""One stream: the frames of one connection that asked for the envelope, kept until its client acknowledged them.

`conn` numbers begin at 1 and have no gap. A number is given to whoever has the stream's turn, in the order in which frames go to
the server, so that a client which sees them out of order has seen the transport do it. All on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry.delivery.ladder import CLIENT_ACKED

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.envelope import Frame
    from isolation_monitor.telemetry.delivery.ladder import Ladder
    from isolation_monitor.telemetry.delivery.retention import UserQueue

ServerSend = Callable[[dict[str, Any]], Awaitable[None]]


class Entry:
    """One event that waits for its acknowledgement. `at` is when it was emitted, in the clock of `Retention`."""

    __slots__ = ("arm", "at", "conn", "frame", "id", "stream", "text", "was_replayed", "was_sent")

    def __init__(self, id: str, frame: Frame, at: float, arm: str) -> None:
        self.id = id
        self.arm = arm
        """Of the request that it is an event of."""
        self.frame = frame
        self.text = frame[1]
        """What it keeps in memory; the rest is small."""
        self.at = at
        self.conn = 0
        """Its number on the stream; 0 until it is sent there."""
        self.stream: Stream | None = None
        """The stream that it waits on; None when it waits no more."""
        self.was_replayed = False
        self.was_sent = False

    def again(self) -> Entry:
        """Return the same event, to be sent once more: with its own id, under a number of another stream."""
        entry = Entry(self.id, self.frame, self.at, self.arm)
        entry.was_replayed = True
        entry.was_sent = self.was_sent
        return entry


class Turn:
    """A lock whose taking costs nothing while nobody else has it: `asyncio.Lock` costs a quarter of all that an event costs."""

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Take it as soon as all who came before have had it. Only needed while `is_taken`."""
        if not self.is_taken:
            self.is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Give it to whoever waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.is_taken = False

    async def __aenter__(self) -> None:
        await self.wait()

    async def __aexit__(self, *error: object) -> None:
        self.give()


class Stream:
    """What was sent on one connection and not acknowledged yet."""

    __slots__ = (
        "_emitted", "_envelope", "_ladder", "_send", "_sent", "_tell_sent", "closed_at", "entries", "events", "is_open", "last", "lost",
         "name", "queue", "reports", "serial", "settled_to", "shed_arm", "shed_at", "shed_to", "successor", "turn", "unsure",
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
        self.shed_arm = "none"
        """Arm of the event forgotten last, under which all forgotten ones count: a user has the same one for long."""
        self.lost = 0
        """Events given up since the connection was lost: the answer to whoever resumes."""
        self.is_open = True
        self.closed_at = 0.0
        self.successor: Stream | None = None
        """The stream that took over, when the client came back."""
        self.turn = Turn()
        self.unsure: list[Entry] = []
        """Sent or not: their send was cancelled. They go out again under the same number, or their numbers would stay a gap."""
        self.reports = {"gaps": 0, "duplicates": 0, "disorder": 0}
        """Totals that the client told so far."""
        self._send = send
        self._ladder = ladder
        self._emitted = (ladder.cell("emitted", CLIENT_ACKED), ladder.cell("enqueued", CLIENT_ACKED))
        self._sent = ladder.cell("sent", CLIENT_ACKED)
        self._tell_sent = sent
        self.named(epoch, owner)

    def named(self, epoch: str, owner: str | None) -> None:
        """Say whose events these are; again when the application named the user late."""
        self._envelope = f'{{"epoch":"{epoch}","owner":{"null" if owner is None else chr(34) + owner + chr(34)},"conn":'

    def disconnected(self, at: float) -> None:
        """The connection is gone, at that moment: what waits is kept, and nothing of the server's."""
        self.is_open = False
        self.closed_at = at
        self._send, self._tell_sent = _nowhere, None

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

    def entry(self, frame: Frame, arm: str) -> Entry:
        """Return a new event of this stream, emitted now for a request of that arm."""
        self.events += 1
        return Entry(f"{self.name}-{self.events}", frame, time.monotonic(), arm)

    def framed(self, entry: Entry) -> str:
        """Return the text that goes over the wire."""
        before, after, more = entry.frame
        return f'{before}"isolation":{self._envelope}{entry.conn},"id":"{entry.id}"{more}}}{after}'

    async def emit(self, entry: Entry) -> None:
        """Send an event and keep it; only keep it while nobody listens. Errors of the connection are not raised: it waits."""
        stream = self
        while True:
            while stream.successor is not None:
                stream = stream.successor
            turn = stream.turn
            if turn.is_taken:
                await turn.wait()
            else:
                turn.is_taken = True
            try:
                # Else it was taken over while we waited for the turn: its successor has another one.
                if stream.successor is None:
                    if stream.unsure:
                        await stream.settle_unsure()
                    if stream.keep(entry):
                        # As `transmit`, without a coroutine of its own.
                        try:
                            await stream._send({"type": "websocket.send", "text": stream.framed(entry)})
                        except BaseException as error:
                            if stream._has_failed(entry, error):
                                raise
                        else:
                            stream._has_left(entry)
                    return
            finally:
                turn.give()

    async def put(self, entry: Entry) -> None:
        """As `emit`, for whoever has the turn."""
        if self.unsure:
            await self.settle_unsure()
        if self.keep(entry):
            await self.transmit(entry)

    def keep(self, entry: Entry) -> bool:
        """Keep an event, numbered if it is to be sent now, which is the answer. Call with the turn."""
        if self.is_open:
            self.last = entry.conn = self.last + 1
        entry.stream = self
        self.entries.append(entry)
        if not entry.was_replayed:
            emitted, enqueued = self._emitted
            emitted.values[emitted.index] += 1.0
            enqueued.values[enqueued.index] += 1.0
        self.queue.add(entry)
        return entry.conn > 0

    async def settle_unsure(self) -> None:
        """Send once more what may not have left. Call with the turn."""
        again, self.unsure = self.unsure, []
        for entry in again:
            if entry.stream is self and self.is_open:
                await self.transmit(entry)

    async def retry(self) -> None:
        """Send what may not have left, when nothing followed that would have taken it along."""
        async with self.turn:
            await self.settle_unsure()

    async def transmit(self, entry: Entry) -> None:
        """Hand a numbered event to the server."""
        try:
            await self._send({"type": "websocket.send", "text": self.framed(entry)})
        except BaseException as error:
            if self._has_failed(entry, error):
                raise
        else:
            self._has_left(entry)

    def _has_failed(self, entry: Entry, error: BaseException) -> bool:
        """Take note that the server's send raised; return whether the sender shall see it."""
        if isinstance(error, Exception):
            # The server says that nobody is there: what waits is sent again when the user comes back.
            self.is_open = False
            return False
        if isinstance(error, asyncio.CancelledError):
            self.unsure.append(entry)
        return True

    def _has_left(self, entry: Entry) -> None:
        """Count an event that the server took, once."""
        if not entry.was_sent:
            entry.was_sent = True
            self._sent.values[self._sent.index] += 1.0
            if self._tell_sent is not None:
                self._tell_sent()

    async def tell(self, text: str) -> None:
        """Send a frame of the monitor's own. Call with the turn."""
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
        replayed, acknowledged = Counter[str](), Counter({self.shed_arm: max(0, min(number, self.shed_to) - before)})
        entries = self.entries
        settled = []
        while entries and 0 < entries[0].conn <= number:
            settled.append(entries.popleft())
        self.queue.remove_all(settled)
        # Nearly always one arm and no replay: counted as a whole, by C code.
        acknowledged.update([entry.arm for entry in settled if not entry.was_replayed])
        replayed.update([entry.arm for entry in settled if entry.was_replayed])
        self.settled_to = number
        n = acknowledged.total() + replayed.total()
        self._ladder.climbed(CLIENT_ACKED, CLIENT_ACKED, n)
        self._settle("acknowledged", acknowledged)
        self._settle("replayed", replayed)
        return n

    def shed(self, entry: Entry, reason: str) -> None:
        """Forget the text of the oldest event here, because its user's queue is full. It can still be acknowledged."""
        self.entries.remove(entry)
        self.queue.remove(entry)
        self._ladder.dropped(reason)
        if entry.conn:
            self.shed_to, self.shed_at, self.shed_arm = entry.conn, entry.at, entry.arm
        else:
            self._ladder.settled("expired", CLIENT_ACKED, arm=entry.arm)
            self.lost += 1

    def expire(self, before: float) -> None:
        """Give up what was emitted before a moment: `unknown` on an open connection, `expired` when nobody came back."""
        outcome = "unknown" if self.is_open else "expired"
        if self.shed_at < before:
            self.lost += self.settle_shed(outcome, result="unknown")
        late = Counter[str]()
        while self.entries and self.entries[0].at < before:
            late[self.entries[0].arm] += 1
            self._forget(self.entries.popleft())
        if late:
            self.lost += late.total()
            # A user who never comes back may have left on purpose: nobody knows whether he missed anything.
            self._settle(outcome, late, result="unknown")
            self._ladder.dropped("age", late.total())

    def settle_shed(self, outcome: str, result: str | None = None) -> int:
        """Settle what was forgotten and not acknowledged; return how many events that were."""
        n = self.shed_to - self.settled_to
        if n <= 0:
            return 0
        self._settle(outcome, {self.shed_arm: n}, result)
        self.settled_to = self.shed_to
        return n

    def give_up(self, outcome: str) -> int:
        """Settle everything that waits; return how many events that were."""
        n = self.waiting
        left = Counter({self.shed_arm: n - len(self.entries)})
        while self.entries:
            left[self.entries[0].arm] += 1
            self._forget(self.entries.popleft())
        self._settle(outcome, left)
        self.settled_to = max(self.settled_to, self.shed_to)
        return n

    def _settle(self, outcome: str, by_arm: Mapping[str, int], result: str | None = None) -> None:
        for arm, n in by_arm.items():
            self._ladder.settled(outcome, CLIENT_ACKED, n, arm=arm, result=result)

    def _forget(self, entry: Entry) -> None:
        self.queue.remove(entry)
        if entry.conn:
            self.settled_to = max(self.settled_to, entry.conn)


async def _nowhere(message: object) -> None:
    """Stand for the server's `send` of a connection that is gone; never called, since nothing is sent on a closed stream."""
