"""Containment: which failures stayed with the principal they began with, and which reached another.

A failure is counted when its request fails. It *escaped* when a structural edge leads to a request of another
principal, within 30 seconds: the same exception object (or one of its causes) was raised there; a task group was
aborted by the failure there; this request waited in vain for a lock, or a connection, that the other held; it timed
out while the other's code made the loop stand still. It is a *common cause* when three principals failed on one
outside dependency (the same operating-system error from the same line of a library, or a bad-gateway answer of the
same route) with no such edge. Everything else is *contained*.

The failure that others were drawn into has been counted contained by then, because counters do not go down: a cascade
of one root and nine victims counts as one contained and nine escaped.

Never held: exceptions and their tracebacks. An exception is recognised by identity while it lives; one of a built-in class, which
takes no weak reference, by a number that is left in its `__dict__`.
Cannot see: an exception that the application turned into an answer itself, but for the other edges; a task that
another request's code cancelled by hand; instances that break for everybody.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.code_files import owner_of
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.recent import Recent

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.loop_stall import LoopStall
    from isolation_monitor.telemetry.detectors.session_leak import SessionLeaks
    from isolation_monitor.telemetry.detectors.starvation import Starvation

Edge = Literal["exception", "cancelled", "lock", "connection", "stall"]
Outcome = Literal["contained", "escaped", "common_cause"]

_REPORTED: Final = ("exception", "cancelled", "lock")
"""Edges whose evidence is written here: stalls and pools have been reported where they were seen."""
WINDOW_S: Final = 30.0
REMEMBERED: Final = 2_000
COMMON_PRINCIPALS: Final = 3
CASCADE_PRINCIPALS: Final = 3
"""The one that a failure began with, and two others."""
CHAIN_LIMIT: Final = 20
_BAD_GATEWAY: Final = (502, 504)
_OUTSIDE: Final = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""What the system says when the other end of a connection is away. Without its number it is a library's own word."""
_MARK: Final = "__isolation_monitor_failed_in__"

clock = time.perf_counter


class Escape(NamedTuple):
    """One failure that reached another principal: `root` is the request it began with."""

    root: RequestContext
    victim: RequestContext
    edge: Edge


class _Component:
    """The failures that hang together: the principals that one root touched."""

    __slots__ = ("is_cascade", "principals")

    def __init__(self) -> None:
        self.principals: set[str] = set()
        self.is_cascade = False


class _Known(NamedTuple):
    """A request that failed, or made others fail."""

    request: RequestContext
    component: _Component


class _Raised(NamedTuple):
    """What was read of the exception that a request ended with, while it was there."""

    root: RequestContext | None
    is_cancelled: bool
    is_timeout: bool
    signature: str | None


class Containment:
    """The graph of failures of the last half minute."""

    def __init__(self, kit: Kit, leaks: SessionLeaks, starvation: Starvation, stalls: LoopStall) -> None:
        self._kit = kit
        self._leaks = leaks
        self._starvation = starvation
        self._stalls = stalls
        self._counts = {
            (outcome, arm): kit.registry.counter(names.FAILURES, outcome=outcome, arm=arm)
            for outcome in names.FAILURE_OUTCOMES
            for arm in names.ARMS
        }
        self._principals = kit.registry.histogram(names.FAILURE_PRINCIPALS)
        self._cascades = kit.registry.counter(names.CASCADES)
        later = kit.housekeeper
        self._known: Recent[int, _Known] = Recent(later, REMEMBERED, WINDOW_S)
        """By serial number of the request."""
        self._raised: Recent[int, _Raised] = Recent(later, REMEMBERED, WINDOW_S)
        self._aborted: Recent[int, RequestContext] = Recent(later, REMEMBERED, WINDOW_S)
        """Because of which request tasks were cancelled, by serial number of theirs."""
        self._common: Recent[str, dict[str, float]] = Recent(later, REMEMBERED, WINDOW_S)
        """When each principal failed last, by what they failed on."""
        self._escapes: Recent[int, Escape] = Recent(later, REMEMBERED, WINDOW_S)
        self._serials: ByIdentity[int] = ByIdentity()
        """The requests, by serial number, that exceptions were raised in."""

    @property
    def escapes(self) -> list[Escape]:
        """The failures of the last half minute that reached another principal, oldest first."""
        return self._escapes.values()

    # --- what the middleware says -----------------------------------------------------------------------------------

    def raised(self, request: RequestContext, error: BaseException, *, is_answer: bool = False) -> None:
        """Read the exception that a request ends with, in the `except` clause that has it; it is not kept.

        Args:
            is_answer: the exception itself is the service's way to answer; only what caused it is a failure.
        """
        try:
            chain = list(_chain(error))[1 if is_answer else 0 :]
            raised = _Raised(
                self._marked(request, chain),
                _is(error, asyncio.CancelledError),
                any(_is(one, TimeoutError) for one in chain),
                _signature(chain),
            )
            if raised.root is None:
                for one in chain:
                    # Not into those of the host's classes: handlers make answers of what stands in their `__dict__`.
                    if not self._serials.put(one, request.serial):
                        _marks(one)[_MARK] = request.serial
            self._raised.put(request.serial, raised)
        except Exception as failure:
            self.failed_inside(failure)

    def failed(self, request: RequestContext) -> Outcome | None:
        """Count the failure of a request that is ending; None for a cancelled one, which is no failure of the server's."""
        try:
            now = clock()
            raised = self._raised.pop(request.serial)
            edge = self._edge(request, raised, now)
            if edge is None and raised is not None and raised.is_cancelled:
                return None
            outcome = self._count(request, raised, edge, now)
            if edge is not None and edge.edge in _REPORTED:
                self._starvation.drawn_in(edge.victim, edge.root, edge.edge)
            return outcome
        except Exception as failure:
            self.failed_inside(failure)
            return None

    # --- what the integrations say ----------------------------------------------------------------------------------

    def aborted(self, root: RequestContext | None, members: Iterable[RequestContext | None]) -> None:
        """Note that a failure in `root` cancelled tasks of `members`."""
        if root is None:
            return
        for member in members:
            if member is not None and root.is_of_another(member):
                self._aborted.put(member.serial, root)

    def failed_inside(self, error: BaseException) -> None:
        """Note an error of our own."""
        self._kit.reporter.check_failed(names.STARVATION, "asyncio", error)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _count(self, request: RequestContext, raised: _Raised | None, edge: Escape | None, now: float) -> Outcome:
        if edge is None:
            outcome: Outcome = "common_cause" if self._is_common(request, raised, now) else "contained"
            component = _Component()
        else:
            outcome = "escaped"
            self._escapes.put(request.serial, edge)
            component = self._component_of(edge.root)
        if request.principal is not None:
            component.principals.add(request.principal.id)
        if len(component.principals) >= CASCADE_PRINCIPALS and not component.is_cascade:
            component.is_cascade = True
            self._cascades.inc()
        self._known.put(request.serial, _Known(request, component))
        self._counts[outcome, request.arm].inc()
        self._principals.observe(float(max(1, len(component.principals))))
        return outcome

    def _edge(self, request: RequestContext, raised: _Raised | None, now: float) -> Escape | None:
        aborted = self._aborted.pop(request.serial)
        starved_by = self._starvation.starved_by(request)
        blocked = self._leaks.blocker(request)
        if raised is not None and raised.root is not None:
            return Escape(raised.root, request, "exception")
        if aborted is not None:
            return Escape(aborted, request, "cancelled")
        if starved_by is not None:
            return Escape(starved_by, request, "lock")
        if blocked is not None and blocked.request is not None:
            self._starvation.pool_starved(blocked.pool, request, blocked.request, blocked.stack, now - blocked.since)
            return Escape(blocked.request, request, "connection")
        if raised is not None and raised.is_timeout:
            return self._stalled(request, now)
        return None

    def _stalled(self, request: RequestContext, now: float) -> Escape | None:
        stood = 0.0
        root: RequestContext | None = None
        for stall in self._stalls.during(request.started, now):
            if stall.request is not None and stall.request.is_of_another(request):
                root = stall.request
                stood += min(stall.until, now) - max(stall.since, request.started)
        # A short stall is no reason for a long wait's end.
        return Escape(root, request, "stall") if root is not None and stood >= (now - request.started) / 2 else None

    def _marked(self, request: RequestContext, chain: list[BaseException]) -> RequestContext | None:
        for one in chain:
            serial = self._serials.get(one) or _marks(one).get(_MARK)
            known = self._known.get(serial) if isinstance(serial, int) else None
            if known is not None and known.request.is_of_another(request):
                return known.request
        return None

    def _component_of(self, root: RequestContext) -> _Component:
        known = self._known.get(root.serial)
        if known is None:
            known = _Known(root, _Component())
            self._known.put(root.serial, known)
        if root.principal is not None:
            known.component.principals.add(root.principal.id)
        return known.component

    def _is_common(self, request: RequestContext, raised: _Raised | None, now: float) -> bool:
        signature = raised.signature if raised is not None else None
        if signature is None and request.status in _BAD_GATEWAY:
            signature = f"{request.status} {request.route}"
        if signature is None or request.principal is None:
            return False
        failed = self._common.pop(signature) or {}
        failed = {principal: at for principal, at in failed.items() if now - at <= WINDOW_S}
        failed[request.principal.id] = now
        if len(failed) > 2 * COMMON_PRINCIPALS:
            failed.pop(min(failed, key=lambda principal: failed[principal]))
        self._common.put(signature, failed)
        return len(failed) >= COMMON_PRINCIPALS


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    # Not `isinstance`: it asks the object for its `__class__`, which may be the host's code.
    return issubclass(type(error), kind)


def _marks(error: BaseException) -> dict[str, Any]:
    # Not `error.__dict__`: the host may have written a `__getattribute__`.
    found = object.__getattribute__(error, "__dict__")
    return found if type(found) is dict else {}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes and contexts and the members of groups, each once."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < CHAIN_LIMIT:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        cause, context = _CAUSE(one), _CONTEXT(one)
        waiting += [other for other in (cause, context) if other is not None]
        if _is(one, BaseExceptionGroup):
            waiting += _MEMBERS(one)


_CAUSE: Final = BaseException.__dict__["__cause__"].__get__
_CONTEXT: Final = BaseException.__dict__["__context__"].__get__
_ARGUMENTS: Final = BaseException.__dict__["args"].__get__
_TRACEBACK: Final = BaseException.__dict__["__traceback__"].__get__
_MEMBERS: Final = BaseExceptionGroup.__dict__["exceptions"].__get__


def _signature(chain: list[BaseException]) -> str | None:
    """Return what tells one outside dependency from others: the system's error, the address and the library's line."""
    for one in chain:
        arguments = _ARGUMENTS(one)
        if not _is(one, OSError) or not arguments or not (arguments[0] in _OUTSIDE or _is(one, socket.gaierror)):
            continue
        site = None
        trace = _TRACEBACK(one)
        while trace is not None:
            code = trace.tb_frame.f_code
            owner = owner_of(code.co_filename)
            if owner in ("application", "nobody"):
                site = None
            elif site is None and owner != "monitor":
                # The first line of a library below the last one of the application.
                site = f"{code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        # The text carries the address; only plain built-in values are read.
        return f"{'|'.join(str(part) for part in arguments if type(part) in (str, int))} {site}"
    return None
