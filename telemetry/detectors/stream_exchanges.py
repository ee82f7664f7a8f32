"""Exchanges on plain streams: who wrote, who read, and whose answer is still to come, without knowing the protocol.

For `shared_connection` and `dirty_handover`, about clients written by hand on a byte stream.
An exchange is what one request writes until it reads, and what it reads then. A line is dirty when an exchange ended
with its answer outstanding (the read was cancelled or failed before a byte came), cut (it failed after some had come) or
with bytes left unread. The exchange of another principal on a dirty line is a suspicion, not a violation: a client may
drop the answers that carry another number, skip what it knows to be outstanding, or close. Proven is it when the
suspected exchange has read its fill, was not cut itself, and bytes lie unread again: its own answer, so what it read was
somebody else's. Each exchange of a line that lost step so leaves its answer to the next; all of them are reported.
Two that are on a line at a time are told by the stream's refusal of a second reader, and by answers read in
another order than was asked, each by one of the writers itself. In-order pipelines and reader tasks are neither.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_connection import differ

if TYPE_CHECKING:
    from types import FrameType

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.dirty_handover import DirtyHandover
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.shared_connection import SharedConnection
    from isolation_monitor.telemetry.stacks import RawStack

DEBTS_LIMIT: Final = 16
"""Outstanding answers and suspicions remembered per line: the latest."""
ASKING_LIMIT: Final = 64
"""Exchanges of one line without an answer at a time; of a line with more the order is not judged."""
SWAPS_WANTED: Final = 3
"""Answers read out of order that are reported while more are being asked for; fewer wait until all are answered."""
LOOKS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""When to look, after a suspicion, whether an answer came that nobody reads."""
NEAR_FRAMES: Final = 8
"""Frames kept of a command: the client's layers, and who calls it."""
_GLANCE_BYTES: Final = 256
_current_task: Final = asyncio.current_task
_reference: Final = weakref.ref


class Stream(Protocol):
    """What the integration tells of a stream. Nothing here raises."""

    def has_rest(self) -> bool:
        """Whether bytes lie unread that are more than blanks, on a stream that has not ended."""

    def look_later(self, delay_s: float) -> None:
        """Call `Line.look` once, on the loop's thread."""


class Exchange:
    """What one request asks and reads. Of one line, those with a lower `number` asked earlier."""

    __slots__ = ("debtor", "found_rest", "is_certain", "is_cut", "number", "reads", "request", "stack", "writer")

    def __init__(self, request: RequestContext | None, stack: RawStack, number: int, found_rest: bool) -> None:
        self.request = request
        self.writer = _task()
        self.stack = stack
        self.number = number
        self.found_rest = found_rest
        """Bytes lay unread when it asked."""
        self.reads = 0
        """Reads that returned something."""
        self.is_cut = False
        self.debtor: Exchange | None = None
        """Whose answer it read first, where answers come in order."""
        self.is_certain = False
        """There was no answer of its own to be read first."""


class StreamExchanges:
    """Judges the exchanges on the lines of one monitor."""

    def __init__(self, kit: Kit, shared: SharedConnection, dirty: DirtyHandover) -> None:
        self.reporter = kit.reporter
        self.shared = shared
        self.dirty = dirty
        self._switches = (kit.switches[names.SHARED_CONNECTION], kit.switches[names.DIRTY_HANDOVER])

    @property
    def is_on(self) -> bool:
        return self._switches[0].is_on or self._switches[1].is_on


class Line:
    """One stream and the exchanges on it. Runs on the stream's loop only."""

    __slots__ = (
        "__weakref__", "asking", "cut", "debts", "exchange", "home", "is_dispatched", "looks", "name", "read_at", "reader", "refused",
        "stream", "suspects", "swaps", "waiting",
    )  # fmt: skip

    def __init__(self, home: StreamExchanges, name: str, stream: Stream) -> None:
        self.home = home
        self.name = name
        self.stream = stream
        self.exchange: Exchange | None = None
        """The latest."""
        self.debts: deque[Exchange] = deque(maxlen=DEBTS_LIMIT)
        """Whose answers are still to come, or lie unread, oldest first."""
        self.cut: Exchange | None = None
        """Cut after some of its answer had come: a rest may come, or it was a poll that came to its end."""
        self.suspects: deque[Exchange] = deque(maxlen=DEBTS_LIMIT)
        self.asking: list[Exchange] = []
        """Exchanges that wrote, in that order, the first of them without a byte read."""
        self.swaps: list[tuple[Exchange, Exchange, RawStack]] = []
        self.is_dispatched = False
        """Somebody was served without reading: whoever reads hands out to the others, by rules of its own."""
        self.waiting: list[RequestContext | None] = []
        self.reader: weakref.ref[asyncio.Task[object]] | None = None
        """The task that read last, and the number of the latest exchange then."""
        self.read_at = 0
        self.refused: RequestContext | None = None
        self.looks = -1
        """Looks done for the suspicion at hand; -1: none is due."""

    # --- writes -----------------------------------------------------------------------------------------------------

    def writes(self, request: RequestContext | None) -> None:
        """Note that a request, or nobody's code, is about to write."""
        last = self.exchange
        if last is not None and last.request is request and not last.reads and not last.is_cut:
            # More of the same command.
            return
        has_rest = self.stream.has_rest()
        if self.suspects and last is not None and last.request is not request:
            self._settle(last, has_rest)
        if has_rest and not self.debts and last is not None:
            self.debts.append(last)
        number = last.number + 1 if last is not None else 0
        self.exchange = Exchange(request, _near(sys._getframe(3)) if request is not None else (), number, has_rest)
        self._ask(self.exchange)
        sender = last.request if last is not None else None
        if sender is not None and request is not None and not self.debts and self.cut is None and differ(sender, request):
            self.home.reporter.checked(names.DIRTY_HANDOVER)

    def _settle(self, last: Exchange, has_rest: bool) -> None:
        """Judge the suspicions, now that the last exchange is over."""
        if last.is_cut or not last.reads:
            return
        if has_rest:
            self._prove()
        elif last.found_rest:
            # It read what lay there, and its own: the client knows what to skip.
            self._clean()

    def _prove(self) -> None:
        while self.suspects:
            taker = self.suspects.popleft()
            debtor = taker.debtor
            if debtor is None or debtor.request is None or taker.request is None:
                continue
            state = {"unread": "the answer to the other's request" if taker.is_certain else "the rest of an answer, or a subscription"}
            self.home.dirty.proven(
                self, self.name, state, debtor.request, debtor.stack, taker.request, taker.stack, is_crossed=taker.is_certain
            )

    def _clean(self) -> None:
        self.debts.clear()
        self.suspects.clear()
        self.cut = None

    # --- reads ------------------------------------------------------------------------------------------------------

    def reads(self) -> RequestContext | None:
        """Note that a read begins; returns whom it is for, to be handed to `read` or `failed`."""
        request, last = CURRENT.get(), self.exchange
        if request is not None and last is not None:
            task, mine = _task(), self._of(request)
            if mine is None:
                if request.finished:
                    # A task that lives on in the context of whoever started it.
                    request = None
            elif task is not None and task is self.reader and mine.writer is not task and self.read_at < mine.number:
                # It was here before this was asked, by another task: a reader for all, that was started by a request.
                request = None
            self.reader, self.read_at = task, last.number
        self.waiting.append(request)
        return request

    def read(self, request: RequestContext | None, is_empty: bool) -> None:
        """Note that a read is over; `is_empty`: it returned nothing, as at the stream's end."""
        self.waiting.remove(request)
        if is_empty:
            return
        last = self.exchange
        if last is None:
            return
        mine = self._of(request)
        if mine is None:
            # Nobody asked for this now: what was left is being drained.
            if not self.stream.has_rest():
                last.is_cut = False
                self._clean()
            return
        mine.reads += 1
        if self.cut is not None and self.cut is not mine and self.cut.request is request:
            # Whoever polled until it was cut has since asked something else and was answered.
            self.cut = None
        if mine.reads == 1:
            self._first_read(mine)

    def _of(self, request: RequestContext | None) -> Exchange | None:
        """Return the exchange of a request that reads now; None when it asked for nothing, or gave up."""
        last = self.exchange
        if last is not None and last.request is request:
            return None if last.is_cut else last
        if request is None:
            return None
        return next((one for one in self.asking if one.request is request and not one.is_cut), None)

    def _first_read(self, mine: Exchange) -> None:
        debtor = self.debts[0] if self.debts else self.cut
        if debtor is not None and debtor.number < mine.number:
            mine.debtor = debtor
            mine.is_certain = debtor is not self.cut
            if mine.is_certain:
                # In its place, its own answer is outstanding.
                self.debts.popleft()
                self.debts.append(mine)
            else:
                self.cut = None
            if debtor.request is not None and mine.request is not None and differ(debtor.request, mine.request):
                self.suspects.append(mine)
                if self.looks < 0:
                    self.looks = 0
                    self.stream.look_later(LOOKS_S[0])
        if len(self.asking) > 1 or self.swaps:
            self._judge_order(mine)

    def failed(self, request: RequestContext | None, error: BaseException) -> None:
        """Note that a read ended with an error, or was cancelled."""
        self.waiting.remove(request)
        if isinstance(error, EOFError | OSError):
            self._clean()
            return
        if request is None:
            return
        if isinstance(error, RuntimeError):
            self._refused(request)
        mine = self._of(request)
        if mine is None:
            return
        if mine in self.suspects:
            # What it would have read next may have been its own.
            self.suspects.remove(mine)
        mine.is_cut = True
        if mine.reads and not self.stream.has_rest():
            self.cut = mine
        elif not any(one is mine for one in self.debts):
            self.debts.append(mine)

    # --- two at a time ----------------------------------------------------------------------------------------------

    def _ask(self, exchange: Exchange) -> None:
        """Add to those that wait for answers; forget those that have one."""
        if len(self.asking) == 1 and self.asking[0].reads:
            # One at a time, as ever.
            self.asking[0] = exchange
            return
        if self.asking:
            kept = []
            for one in self.asking:
                if one.request is None or one.reads or one.is_cut or one.request is exchange.request:
                    continue
                if one.request.finished:
                    self.is_dispatched = True
                    self.swaps.clear()
                    continue
                kept.append(one)
            self.asking = kept
        if len(self.asking) >= ASKING_LIMIT:
            self.asking.clear()
            self.swaps.clear()
        self.asking.append(exchange)

    def _judge_order(self, mine: Exchange) -> None:
        """Remember an answer read before an older one was; report it when whoever asked first has read one as well."""
        if self.is_dispatched:
            return
        for one in self.asking:
            if one is mine:
                break
            if one.request is None or mine.request is None or one.reads or one.is_cut or one.request.finished:
                continue
            if differ(one.request, mine.request) and len(self.swaps) < ASKING_LIMIT:
                self.swaps.append((one, mine, stacks.capture(4)))
                break
        sure = [swap for swap in self.swaps if swap[0].reads]
        if len(sure) < SWAPS_WANTED and not all(one.reads for one in self.asking):
            return
        self.swaps = [swap for swap in self.swaps if not swap[0].reads]
        for asked, reader, stack in sure:
            if asked.request is not None and reader.request is not None:
                summary = (
                    f"an answer on a connection of {self.name} was read by a request of another principal than the one that asked first"
                )
                self.home.shared.between(self.name, summary, asked.request, asked.stack, reader.request, stack, is_crossed=True)

    def _refused(self, request: RequestContext) -> None:
        """The stream takes one reader at a time: the second one is told so by an error."""
        if self.refused is request:
            return
        for other in self.waiting:
            if other is None or other is request or not differ(other, request):
                continue
            asked = next((one.stack for one in self.asking if one.request is other), ())
            summary = f"two requests of different principals read a connection of {self.name} at the same time"
            self.refused = request
            self.home.shared.between(self.name, summary, other, asked, request, stacks.capture(4), is_crossed=False)
            return

    # --- what comes later -------------------------------------------------------------------------------------------

    def closes(self, request: RequestContext | None) -> None:
        """Note that the stream is about to be closed."""
        last = self.exchange
        # Whoever closes what it has just read from does not trust it: nobody else will be harmed.
        if self.suspects and last is not None and last.request is not request:
            self._settle(last, self.stream.has_rest())
        self._clean()
        self.exchange = None
        self.asking.clear()
        self.swaps.clear()

    def look(self) -> None:
        """Look whether the suspected exchange has left an answer behind."""
        last = self.exchange
        if not self.suspects or last is None:
            self.looks = -1
            return
        is_over = last.request is None or last.request.finished
        if is_over and not self.waiting and last.reads and not last.is_cut and self.stream.has_rest():
            self._prove()
            self.looks = -1
            return
        self.looks += 1
        if self.looks < len(LOOKS_S):
            self.stream.look_later(LOOKS_S[self.looks])
            return
        self.looks = -1
        if is_over and not self.waiting:
            self._clean()


def is_more_than_blanks(unread: bytes | bytearray) -> bool:
    """Return whether unread bytes say anything: the end of a line, or padding, is no answer."""
    return bool(unread) and not unread[:_GLANCE_BYTES].isspace()


def _near(frame: FrameType | None) -> RawStack:
    """Return the nearest frames: a whole stack would cost more than all the rest that is done for a command."""
    taken = []
    for _ in range(NEAR_FRAMES):
        if frame is None:
            break
        taken.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(taken)


def _task() -> weakref.ref[asyncio.Task[object]] | None:
    """Return the running task; two references to one task are one object."""
    try:
        task = _current_task()
    except RuntimeError:
        return None
    return _reference(task) if task is not None else None
