"""Shared transactions: writes of two principals' requests in one transaction of a connection that they share.

Part of `shared_connection`, for drivers under which one connection rightly serves several requests by turns, so that two
users of it prove nothing: SQLite's.

Sees: what an integration tells of statements, savepoints, commits and rollbacks, with what the driver says about whether
a transaction is open. Reported is
- a rollback that undoes what a request of another principal wrote, which is still at work, has released its savepoint, or
  wrote into a transaction that another had begun by a statement of its own;
- a request that rolls back what another's commit has made permanent in the meantime;
- a write or commit inside the open transaction of another principal's request that had begun it by a statement of its own,
  or that left the event loop to others before it was over;
- rows fetched by a request of a statement that a request of another principal executed, on one cursor.
Cannot see: reads of what is not committed yet; two threads that take turns in an implicit transaction without a rollback.
Cost: about 2 us per statement, most of it two reads of the driver's flag; one entry and one stack (about 3 us) per request and
transaction that writes.
Precision: near 1. A statement and its commit that others come between, as on every shared connection without a lock,
accuse nobody where each request commits what it wrote.
Grades: `reachable`; `crossed` for rows.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.detectors.shared_connection import differ

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.stacks import RawStack

WRITES_LIMIT: Final = 200
"""Writes kept of one transaction, those of one request in a row as one; later ones are not looked at."""
TAKEN_LIMIT: Final = 32
"""Requests kept per connection whose writes another has committed."""
TEXT_LIMIT: Final = 2_000
"""Letters of a statement within which its first word is looked for."""

ASKED_BY: Final = "_isolation_monitor_asked_by"
"""In the `__dict__` of a cursor of ours: the request whose statement it executed last, and where."""
ASKED_AT: Final[ContextVar[RawStack | None]] = ContextVar("isolation_monitor_asked_at", default=None)
"""Set by a client that runs its statements on another thread: where they were asked for."""

_WORD: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.S)
_WRITES: Final = frozenset(("insert", "update", "delete", "replace", "create", "drop", "alter"))
_SAVEPOINT: Final = re.compile(r"""\bto\s+(?:savepoint\s+)?["'`\[]?(\w+)|(?:savepoint|release)\s+(?:savepoint\s+)?["'`\[]?(\w+)""", re.I)
_UNDOES: Final = "a rollback on a connection of {} undid what a request of another principal had written"
_BOOKED: Final = "what a request rolls back on a connection of {} was committed by a request of another principal"
_INSIDE: Final = "a connection of {} was used by a request of another principal while the first one's transaction was open"
_ROWS: Final = "rows that a request asked for on a cursor of {} were fetched by a request of another principal"


class _Write:
    """What one request wrote, one statement or several in a row."""

    __slots__ = ("is_settled", "on_loop", "request", "stack")

    def __init__(self, request: RequestContext, stack: RawStack, on_loop: bool) -> None:
        self.request = request
        self.stack = stack
        self.on_loop = on_loop
        self.is_settled = False
        """Whether its request has released the savepoint around it, so takes it for done."""


class _Transaction:
    """One open transaction. `opener` is the request that began it; `is_explicit` that it did so by a statement of its own."""

    __slots__ = ("accused", "is_explicit", "opener", "savepoints", "writes")

    def __init__(self, opener: RequestContext | None, is_explicit: bool) -> None:
        self.opener = opener
        self.is_explicit = is_explicit
        self.writes: list[_Write] = []
        self.savepoints: list[tuple[str, int]] = []
        """Their names, and how many writes came before each."""
        self.accused: RequestContext | None = None


class _Taken:
    """What a request wrote and another committed before it was asked."""

    __slots__ = ("by", "by_stack", "write")

    def __init__(self, write: _Write, by: RequestContext, by_stack: RawStack) -> None:
        self.write = write
        self.by = by
        self.by_stack = by_stack


class SharedTransactions:
    """Knows the open transactions of one driver's connections."""

    def __init__(self, detection: Detection, name: str) -> None:
        self._shared = detection.shared_connection
        self._switch = detection.switches[names.SHARED_CONNECTION]
        self._reporter = detection.kit.reporter
        self._name = name
        self._open: ByIdentity[_Transaction] = ByIdentity()
        self._taken: ByIdentity[list[_Taken]] = ByIdentity()

    # --- statements -------------------------------------------------------------------------------------------------

    def executed(self, connection: object, text: str, *, was_open: bool, is_open: bool) -> None:
        """Note that the current request executed a statement; `was_open` and `is_open` tell of a transaction before and after."""
        if not (was_open or is_open) or not self._switch.is_on:
            return
        word = first_word(text)
        transaction = self._open.get(connection) if was_open else None
        if is_open and transaction is None:
            # Also one that was begun before anybody looked: its opener is not known then.
            transaction = _Transaction(None if was_open else CURRENT.get(), word in ("begin", "savepoint"))
            self._open.put(connection, transaction)
        if transaction is None:
            return
        if not is_open:
            self.ended(connection, was_open=True, by_rollback=word == "rollback")
        elif word == "savepoint":
            transaction.savepoints.append((_savepoint_of(text), len(transaction.writes)))
        elif word == "release":
            self._release(transaction, _savepoint_of(text))
        elif word == "rollback":
            self._undo(transaction, self._back_to(transaction, _savepoint_of(text)))
        elif word in _WRITES:
            self._wrote(transaction)

    def ended(self, connection: object, *, was_open: bool, by_rollback: bool) -> None:
        """Note that the current request committed or rolled back; `was_open` is False where there was nothing to."""
        transaction, request = self._open.drop(connection), CURRENT.get()
        if request is None or not self._switch.is_on:
            return
        self._settle_taken(connection, request, by_rollback)
        if not was_open or transaction is None or not transaction.writes:
            return
        self._reporter.checked(names.SHARED_CONNECTION)
        if by_rollback:
            self._undo(transaction, 0)
        else:
            self._intrude(transaction, request)
            self._take(connection, transaction, request)

    def _wrote(self, transaction: _Transaction) -> None:
        request = CURRENT.get()
        if request is None:
            return
        self._intrude(transaction, request)
        writes = transaction.writes
        barrier = transaction.savepoints[-1][1] if transaction.savepoints else 0
        if len(writes) > barrier and writes[-1].request is request and not writes[-1].is_settled:
            return
        if len(writes) < WRITES_LIMIT:
            writes.append(_Write(request, _stack(), asyncio._get_running_loop() is not None))

    def _release(self, transaction: _Transaction, name: str) -> None:
        request, place = CURRENT.get(), self._back_to(transaction, name, keeps=False)
        for write in transaction.writes[place:]:
            if write.request is request:
                write.is_settled = True

    @staticmethod
    def _back_to(transaction: _Transaction, name: str, keeps: bool = True) -> int:
        """Forget the savepoints after `name`, and itself unless it is kept; return how many writes came before it."""
        savepoints = transaction.savepoints
        for place in range(len(savepoints) - 1, -1, -1):
            if savepoints[place][0] == name:
                before = savepoints[place][1]
                del savepoints[place + keeps :]
                return before
        return len(transaction.writes)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _intrude(self, transaction: _Transaction, request: RequestContext) -> None:
        """Judge a write or commit of the current request by whose transaction it stands in."""
        if transaction.accused is request or request.finished:
            return
        on_loop = asyncio._get_running_loop() is not None
        for write in transaction.writes:
            owner = write.request
            if owner is request or owner.finished or write.is_settled or not differ(owner, request):
                continue
            # On one loop, the owner has given it away before its transaction was over; through threads, the turns are the driver's.
            if (on_loop and write.on_loop) or (transaction.is_explicit and owner is transaction.opener):
                transaction.accused = request
                self._report(_INSIDE, owner, write.stack, request, _stack())
                return

    def _undo(self, transaction: _Transaction, place: int) -> None:
        """Judge a rollback of all writes from `place` on."""
        request, undone = CURRENT.get(), transaction.writes[place:]
        del transaction.writes[place:]
        if request is None:
            return
        for write in undone:
            owner = write.request
            is_guest = transaction.is_explicit and transaction.opener is not None and differ(transaction.opener, owner)
            # A write that its own finished request left open is cleared away rightly.
            if (not owner.finished or write.is_settled or is_guest) and differ(owner, request):
                self._report(_UNDOES, owner, write.stack, request, _stack())
                return

    def _take(self, connection: object, transaction: _Transaction, request: RequestContext) -> None:
        """Remember whose writes the current request has committed with its own."""
        foreign = [w for w in transaction.writes if not w.request.finished and not w.is_settled and differ(w.request, request)]
        if foreign:
            known = [taken for taken in self._taken.get(connection) or () if not taken.write.request.finished]
            stack = _stack()
            known.extend(_Taken(write, request, stack) for write in foreign)
            self._taken.put(connection, known[-TAKEN_LIMIT:])

    def _settle_taken(self, connection: object, request: RequestContext, by_rollback: bool) -> None:
        """Judge what the current request meant with writes that were committed for it: it commits them too, or it does not."""
        taken = self._taken.get(connection)
        if taken is None:
            return
        mine = [one for one in taken if one.write.request is request]
        self._taken.put(connection, [one for one in taken if one.write.request is not request])
        if mine and by_rollback:
            self._report(_BOOKED, request, mine[-1].write.stack, mine[-1].by, mine[-1].by_stack)

    # --- cursors ----------------------------------------------------------------------------------------------------

    def asked(self, cursor: Any) -> None:
        """Note that the current request executes a statement on a cursor of ours."""
        request, inside = CURRENT.get(), cursor.__dict__
        if request is None or not self._switch.is_on:
            inside.pop(ASKED_BY, None)
            return
        known = inside.get(ASKED_BY)
        if known is None:
            # Nearly every cursor serves one request: where that asked is worth its cost once a second one comes.
            inside[ASKED_BY] = (request, ())
        elif known[0] is not request:
            inside[ASKED_BY] = (request, _stack())

    def fetched(self, cursor: Any) -> None:
        """Note that the current request fetched rows from a cursor of ours."""
        known = cursor.__dict__.get(ASKED_BY)
        request = CURRENT.get()
        if known is not None and request is not None and known[0] is not request and not request.finished and differ(known[0], request):
            del cursor.__dict__[ASKED_BY]
            self._report(_ROWS, known[0], known[1], request, _stack(), is_crossed=True)

    def _report(
        self, summary: str, victim: RequestContext, victim_stack: RawStack,
        offender: RequestContext, offender_stack: RawStack, *, is_crossed: bool = False,
    ) -> None:  # fmt: skip
        sentence = summary.format(self._name)
        self._shared.between(self._name, sentence, victim, victim_stack, offender, offender_stack, is_crossed=is_crossed)


def _stack() -> RawStack:
    """Return the stack of the code that asked, from the first frame outside of the monitor."""
    asked = ASKED_AT.get()
    if asked is not None:
        return asked
    frame, skip = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("isolation_monitor."):
        frame, skip = frame.f_back, skip + 1
    return stacks.capture(skip)


def first_word(text: str) -> str:
    """Return the first word of a statement in small letters, comments left out.

    >>> first_word("  -- the newest first\\nSELECT 1")
    'select'
    """
    found = _WORD.match(text, 0, TEXT_LIMIT)
    return found.group(1).lower() if found else ""


def _savepoint_of(text: str) -> str:
    """Return the savepoint that a statement names; nothing where it names none, which stands for the whole transaction."""
    found = _SAVEPOINT.search(text)
    return (found.group(1) or found.group(2)).lower() if found else ""
