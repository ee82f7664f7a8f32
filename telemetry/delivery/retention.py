"""Retention: what waits for each user, with limits for number, bytes and age, and the replay when he comes back.

A user's queue is all of his streams together. Beyond a limit the oldest event's text is forgotten and counted by reason:
it can still be acknowledged, but not be sent again. One process keeps its own streams: a client that comes back to
another worker is told that nobody knows what it missed (`lost` is null). Times are `time.monotonic()`, limits settings.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.delivery.envelope import own_frame
from isolation_monitor.telemetry.delivery.queues import Backlog
from isolation_monitor.telemetry.delivery.stream import Stream

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.envelope import Frame
    from isolation_monitor.telemetry.delivery.ladder import Ladder
    from isolation_monitor.telemetry.delivery.stream import Entry, ServerSend
    from isolation_monitor.telemetry.principals import Principal

TOTAL_BYTES: Final = 256 * 1024 * 1024
"""Text that waits for all users of one process together; beyond it the user who adds loses his oldest."""
CLOSED_STREAMS: Final = 32
"""Closed streams of one user that can still be resumed; beyond it the oldest is given up."""
LOOK_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait for one user, and for how long (seconds)."""

    events: int = 1_000
    bytes: int = 4 * 1024 * 1024
    wait_s: float = 120.0


class UserQueue:
    """What waits for one user."""

    __slots__ = ("_order", "_retention", "bytes", "closed", "events", "offline", "principal", "streams")

    def __init__(self, retention: Retention, principal: Principal | None) -> None:
        self._retention = retention
        self.principal = principal
        """None while nobody knows whose connection it is; then nothing can be resumed."""
        self._order: deque[Entry] = deque()
        self.events = 0
        self.bytes = 0
        self.streams: set[Stream] = set()
        self.closed: deque[Stream] = deque()
        self.offline: Stream | None = None
        """What was sent to the user while he had no connection here; nobody's connection."""

    def add(self, entry: Entry) -> None:
        """Take an event in, at the cost of the oldest where a limit is reached."""
        retention = self._retention
        size = len(entry.text)
        self.events += 1
        self.bytes += size
        retention.bytes += size
        self._order.append(entry)
        limits = retention.limits
        while self.events > limits.events:
            self._shed("number")
        while self.bytes > limits.bytes or (retention.bytes > TOTAL_BYTES and self.events):
            self._shed("bytes")
        if len(self._order) > 2 * self.events + 64:
            self._order = deque(entry for entry in self._order if entry.stream is not None)

    def remove(self, entry: Entry) -> None:
        """Let an event go that waits no more."""
        self.remove_all((entry,))

    def remove_all(self, entries: Iterable[Entry]) -> None:
        """As `remove`, for many at once."""
        events = size = 0
        for entry in entries:
            if entry.stream is not None:
                entry.stream = None
                events += 1
                size += len(entry.text)
        self.events -= events
        self.bytes -= size
        self._retention.bytes -= size

    def _shed(self, reason: str) -> None:
        while self._order:
            entry = self._order.popleft()
            if entry.stream is not None:
                entry.stream.shed(entry, reason)
                return


class Retention:
    """The streams of this process, by name and by user."""

    def __init__(self, ladder: Ladder, limits: Limits, on_error: Callable[[BaseException], None]) -> None:
        self.ladder = ladder
        self.limits = limits
        self.bytes = 0
        """Text that waits, of all users; characters, which are bytes for nearly all frames."""
        self.streams: dict[str, Stream] = {}
        self.users: dict[str, UserQueue] = {}
        self._epoch = ""
        self._opened = 0
        self._on_error = on_error
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        self.looked: Callable[[bool], None] = lambda is_last: None
        """Called after each look at the streams; told whether it was the last one for now."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def epoch(self) -> str:
        """Name of this serving process: made with its first stream."""
        if not self._epoch:
            self._epoch = secrets.token_hex(4)
        return self._epoch

    def forked(self) -> None:
        """Forget everything in a child process: the connections are the parent's."""
        self._epoch = ""
        self.streams, self.users, self.bytes = {}, {}, 0
        self._timer = self._timer_loop = None

    def open(self, principal: Principal | None, send: ServerSend, sent: Callable[[], None] | None = None) -> Stream:
        """Begin a stream for a connection of `principal`; `sent` is told of each event that the server took."""
        name = secrets.token_urlsafe(12)
        queue = self._queue_of(principal)
        self._opened += 1
        stream = Stream(name, self.epoch, principal.hash if principal else None, queue, send, self.ladder, sent)
        stream.serial = self._opened
        queue.streams.add(stream)
        self.streams[name] = stream
        self._ensure_timer()
        return stream

    def named(self, stream: Stream, principal: Principal) -> None:
        """The application has named the user of a stream that was nobody's."""
        queue = self._queue_of(principal)
        before = stream.queue
        before.streams.discard(stream)
        queue.streams.add(stream)
        stream.named(self.epoch, principal.hash)
        stream.queue = queue
        for entry in list(stream.entries):
            before.remove(entry)
            entry.stream = stream
            queue.add(entry)

    def closed(self, stream: Stream) -> None:
        """The connection is gone: what was not acknowledged waits, if anybody can come back for it."""
        if stream.closed_at:
            return
        stream.disconnected(time.monotonic())
        queue = stream.queue
        if queue.principal is None:
            stream.give_up("unknown")
            self._forget(stream)
            return
        queue.closed.append(stream)
        while len(queue.closed) > CLOSED_STREAMS:
            oldest = queue.closed[0]
            if n := oldest.give_up("expired"):
                self.ladder.dropped("number", n)
            self._forget(oldest)

    async def resume(self, name: str, number: int, stream: Stream) -> None:
        """Send on `stream` what a client missed of the stream `name` after `number`, and tell it first how much that is."""
        old = self.streams.get(name)
        if old is None or old is stream or stream.queue.principal is None or old.queue is not stream.queue:
            # The same answer for an unknown stream and for somebody else's: a name is no credential, and must not become one.
            self.ladder.resumed("unknown" if old is None else "refused")
            async with stream.turn:
                await stream.tell(own_frame(resumed={"replayed": 0, "lost": None}))
            return
        self.ladder.resumed("resumed")
        old.acknowledge(number)
        missed: list[Entry] = []
        lost = 0
        one: Stream | None = old
        while one is not None and one is not stream:
            # Forgotten, and beyond what the client has: nobody can send it again.
            lost += one.settle_shed("expired") + one.lost
            one.lost = 0
            after = one.successor
            missed += self._taken_over(one, stream)
            one = after
        # What the application sends to the old connection from here on waits for this turn.
        async with stream.turn:
            await stream.tell(own_frame(resumed={"replayed": len(missed), "lost": lost}))
            for entry in missed:
                await stream.put(entry)

    async def deliver(self, principal: Principal, frame: Frame) -> bool:
        """Send an event to a user on his latest connection; let it wait when there is none. Return whether there was one."""
        queue = self._queue_of(principal)
        listening = [stream for stream in queue.streams if stream.is_open]
        if listening:
            stream = max(listening, key=lambda stream: stream.serial)
            await stream.emit(stream.entry(frame, _arm()))
            return True
        if queue.offline is None:
            queue.offline = self.open(principal, _nobody)
            queue.offline.is_open = False
        queue.offline.closed_at = time.monotonic()
        await queue.offline.emit(queue.offline.entry(frame, _arm()))
        return False

    async def welcome(self, stream: Stream) -> None:
        """Send on a new stream what waited for its user while he had no connection at all."""
        offline = stream.queue.offline
        if offline is not None and stream.queue.principal is not None:
            stream.queue.offline = None
            missed = self._taken_over(offline, stream)
            async with stream.turn:
                for entry in missed:
                    await stream.put(entry)
            self._forget(offline)

    def backlogs(self, now: float) -> Iterator[Backlog]:
        """What waits for each user for whom something waits."""
        for queue in list(self.users.values()):
            oldest = [at for stream in queue.streams if (at := stream.oldest_at) is not None]
            if oldest:
                waiting = sum(stream.waiting for stream in queue.streams)
                listening = sum(stream.is_open for stream in queue.streams)
                yield Backlog(waiting, queue.bytes, now - min(oldest), queue.principal, listening)

    def expire(self, now: float) -> None:
        """Give up what waited too long, and forget streams that nobody will resume any more."""
        before = now - self.limits.wait_s
        for stream in list(self.streams.values()):
            stream.expire(before)
            if stream.unsure and stream.is_open and not stream.turn.is_taken:
                task = asyncio.get_running_loop().create_task(stream.retry(), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if stream.closed_at and stream.closed_at < before and not stream.waiting:
                self._forget(stream)

    def close(self) -> None:
        """The process ends: what is not acknowledged by now is unknown."""
        for stream in list(self.streams.values()):
            stream.is_open = False
            stream.give_up("unknown")
        self.streams.clear()
        self.users.clear()
        if self._timer is not None and self._timer_loop is not None and not self._timer_loop.is_closed():
            # Called from any thread; a timer of a closed loop never fires.
            self._timer_loop.call_soon_threadsafe(self._timer.cancel)
        self._timer = None

    def _taken_over(self, old: Stream, stream: Stream) -> list[Entry]:
        """Take the events off a stream whose user listens on another one from now on."""
        old.is_open = False
        missed = []
        while old.entries:
            entry = old.entries.popleft()
            old.queue.remove(entry)
            missed.append(entry.again())
        if old.successor is None:
            old.successor = stream
        return missed

    def _queue_of(self, principal: Principal | None) -> UserQueue:
        if principal is None:
            return UserQueue(self, None)
        queue = self.users.get(principal.id)
        if queue is None:
            queue = self.users[principal.id] = UserQueue(self, principal)
        return queue

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.name, None)
        queue = stream.queue
        queue.streams.discard(stream)
        if queue.offline is stream:
            queue.offline = None
        if stream in queue.closed:
            queue.closed.remove(stream)
        if not queue.streams and queue.principal is not None:
            self.users.pop(queue.principal.id, None)

    def _ensure_timer(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer_loop is not loop:
            self._timer_loop = loop
            self._timer = loop.call_later(LOOK_EVERY_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self.expire(time.monotonic())
            self.looked(not self.streams)
        except Exception as error:
            self._on_error(error)
        if self.streams:
            self._ensure_timer()


def _arm() -> str:
    """Return the arm of the running request."""
    request = CURRENT.get()
    return request.arm if request is not None else "none"


async def _nobody(message: object) -> None:
    """Stand for the server's `send` where there is no connection; never called, since the stream is closed."""
