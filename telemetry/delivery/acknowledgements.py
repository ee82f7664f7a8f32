"""Acknowledgements without the client's help: by the kernel of the next hop, and by the pong of the peer's WebSocket stack.

Each connection that has news is looked at a few times a second, never at each frame: its kernel is asked whether all
bytes were acknowledged, and one ping is under way at most. Both acknowledge everything before them, since a connection
keeps its order. What a connection supports is known when it opens (`Probe`); one that supports neither is not watched here.
All on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from isolation_monitor.telemetry.delivery.ladder import CLIENT_ACKED
from isolation_monitor.telemetry.delivery.queues import Backlog

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.ladder import Ladder
    from isolation_monitor.telemetry.principals import Principal

LOOK_EVERY_S: Final = 0.25
ROWS_LIMIT: Final = 1_000
"""Changes of arm among the unsettled events of one connection that are told apart."""

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]


class Probe(Protocol):
    """What can be asked of one connection of one server; `instrument/pongs.py` finds it."""

    has_kernel: bool
    has_pong: bool

    def is_drained(self) -> bool:
        """Whether the next hop's kernel has acknowledged every byte."""

    def ping(self, ponged: Callable[[], None]) -> bool:
        """Send a ping; `ponged` is called when it is answered. False when it cannot be sent now."""

    def is_gone(self) -> bool:
        """Whether nothing will be acknowledged any more."""

    def held_bytes(self) -> int:
        """How much the server still holds for the connection."""


FindProbe = Callable[[object], Probe | None]


class Acks:
    """The acknowledgements of one connection: counts of events, those in an envelope (`client`) apart from the others."""

    __slots__ = (
        "_arms",
        "_home",
        "_is_noted",
        "_kernel",
        "_ladder",
        "_noted_at",
        "_pinged",
        "_pinged_at",
        "_ponged",
        "_send",
        "_sent_cells",
        "arm",
        "client",
        "highest",
        "on_pong",
        "others",
        "owner",
        "probe",
        "settled",
    )  # fmt: skip

    def __init__(self, home: Acknowledgements, probe: Probe, send: Send) -> None:
        self.probe = probe
        self.highest = "pong_acked" if probe.has_pong else "kernel_acked"
        self.client = 0
        """Events in an envelope that the server took."""
        self.others = 0
        """Events without one."""
        self.settled = 0
        """How many of the latter are settled."""
        self.arm: Callable[[], str] = lambda: "none"
        """Tells the arm of the event that is being sent."""
        self.owner: Callable[[], Principal | None] = lambda: None
        """Tells whose connection it is, once anybody knows."""
        self._arms: deque[tuple[str, int]] = deque()
        """Arms of the events that are not settled: each with the number of the last event of an unbroken row of them."""
        self.on_pong: Callable[[], None] = lambda: None
        """Called when the peer has answered."""
        self._home = home
        self._ladder = home.ladder
        self._send = send
        self._sent_cells = (home.ladder.cell("emitted", self.highest), home.ladder.cell("sent", self.highest))
        self._kernel = (0, 0)
        self._ponged = (0, 0)
        self._pinged: tuple[int, int] | None = None
        self._pinged_at = 0.0
        self._is_noted = False
        self._noted_at = 0.0

    async def send(self, message: Message) -> None:
        """As the server's; an event counts once the server took it."""
        if message["type"] == "websocket.close":
            # The pong comes before the peer's answer to the close: the last frames before it can still be acknowledged.
            self._ping()
        arm = self.arm()
        await self._send(message)
        if message["type"] == "websocket.send":
            self.others += 1
            rows = self._arms
            if rows and (rows[-1][0] == arm or len(rows) >= ROWS_LIMIT):
                rows[-1] = (rows[-1][0], self.others)
            else:
                rows.append((arm, self.others))
            for cell in self._sent_cells:
                cell.values[cell.index] += 1.0
            if not self._is_noted:
                self.note()

    def sent_enveloped(self) -> None:
        """Count an event that left in an envelope; its own stream settles it."""
        self.client += 1
        if not self._is_noted:
            self.note()

    def note(self) -> None:
        """Say that there is something to look at."""
        self._is_noted = True
        self._noted_at = time.monotonic()
        self._home.note(self)

    def ended(self) -> None:
        """The application is done with the connection; what is under way may still be acknowledged."""
        self._ping()

    def look(self, now: float, wait_s: float) -> bool:
        """Ask the connection; return whether there is more to wait for."""
        probe, sent = self.probe, (self.client, self.others)
        if probe.has_kernel and sent != self._kernel and probe.is_drained():
            self._climb("kernel_acked", self._kernel, sent)
            self._kernel = sent
            if not probe.has_pong:
                self._settle("acknowledged", sent[1])
        if probe.has_pong and self._pinged is not None and now - self._pinged_at > wait_s:
            self._settle("unknown", self._pinged[1])
            self._pinged = None
        if probe.is_gone():
            self._settle("unknown", self.others)
            return False
        if probe.has_pong and sent != self._ponged:
            self._ping()
        self._is_noted = (probe.has_kernel and sent != self._kernel) or (probe.has_pong and sent != self._ponged)
        return self._is_noted

    def backlog(self, now: float) -> Backlog:
        """What is not acknowledged yet, of the events without an envelope."""
        return Backlog(self.others - self.settled, self.probe.held_bytes(), max(0.0, now - self._noted_at), self.owner(), 1)

    def give_up(self) -> None:
        """Settle what is left: nobody will hear of it any more."""
        self._settle("unknown", self.others)

    def _ping(self) -> None:
        covered = (self.client, self.others)
        if self._pinged is not None or covered == self._ponged or not self.probe.has_pong:
            return
        try:
            is_out = self.probe.ping(self._pong)
        except Exception as error:
            # Of the server's own, on a connection that is ending. What cannot be asked is unknown.
            self._home.on_error(error)
            return
        if is_out:
            self._pinged = covered
            self._pinged_at = time.monotonic()

    def _pong(self) -> None:
        covered, self._pinged = self._pinged, None
        self.on_pong()
        if covered is not None:
            self._climb("pong_acked", self._ponged, covered)
            self._ponged = covered
            self._settle("acknowledged", covered[1])

    def _climb(self, rung: str, before: tuple[int, int], after: tuple[int, int]) -> None:
        for highest, n in ((CLIENT_ACKED, after[0] - before[0]), (self.highest, after[1] - before[1])):
            if n:
                self._ladder.climbed(rung, highest, n)

    def _settle(self, outcome: str, upto: int) -> None:
        rows = self._arms
        while rows and upto > self.settled:
            arm, last = rows[0]
            number = min(last, upto)
            self._ladder.settled(outcome, self.highest, number - self.settled, arm=arm)
            self.settled = number
            if number == last:
                rows.popleft()


class Acknowledgements:
    """The connections of one process that wait for an acknowledgement."""

    def __init__(self, ladder: Ladder, wait_s: float, on_error: Callable[[BaseException], None]) -> None:
        self.ladder = ladder
        self.find_probe: FindProbe = _no_probe
        self.looked: Callable[[bool], None] = lambda is_last: None
        """Called after each look at the connections; told whether it was the last one for now."""
        self.wait_s = wait_s
        """Seconds until what is not acknowledged is unknown."""
        self.on_error = on_error
        self._noted: set[Acks] = set()
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def watch(self, send: Send) -> Acks | None:
        """Return the acknowledgements of the connection that a server's `send` belongs to; None where it supports none."""
        try:
            probe = self.find_probe(send)
            return Acks(self, probe, send) if probe is not None and (probe.has_pong or probe.has_kernel) else None
        except Exception as error:
            self.on_error(error)
            return None

    def backlogs(self, now: float) -> Iterator[Backlog]:
        """What waits on each connection that has something waiting."""
        for acks in list(self._noted):
            if acks.others > acks.settled:
                yield acks.backlog(now)

    def note(self, acks: Acks) -> None:
        """Look at a connection soon."""
        self._noted.add(acks)
        loop = asyncio.get_running_loop()
        if self._timer_loop is not loop:
            self._timer_loop = loop
            loop.call_later(LOOK_EVERY_S, self._look)

    def forked(self) -> None:
        """Forget everything in a child process: the connections are the parent's."""
        self._noted = set()
        self._timer_loop = None

    def close(self) -> None:
        """The process ends: what is not acknowledged by now is unknown."""
        noted, self._noted = self._noted, set()
        for acks in noted:
            acks.give_up()

    def _look(self) -> None:
        self._timer_loop = None
        now = time.monotonic()
        for acks in list(self._noted):
            try:
                if not acks.look(now, self.wait_s):
                    self._noted.discard(acks)
            except Exception as error:
                self._noted.discard(acks)
                acks.give_up()
                self.on_error(error)
        self.looked(not self._noted)
        if self._noted:
            self._timer_loop = asyncio.get_running_loop()
            self._timer_loop.call_later(LOOK_EVERY_S, self._look)


def _no_probe(send: object) -> Probe | None:
    return None
