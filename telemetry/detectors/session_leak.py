"""Session leaks: a database connection that is still out after its request has ended and the grace time has passed.

Sees: every connection that a watched pool hands out, with the request, the line that asked for it and the task that
holds it. A connection that is still out counts once; if it comes back later the leak is retracted. A session that was
dropped and whose connection the garbage collector had to destroy counts too: nobody closed it.
Cannot see: connections opened beside the pool; a session of a synchronous engine that the garbage collector gave back
before the deadline; who holds a connection in a plain thread, so such a thread gets the grace time and no more.
Cost: one table entry, one stack and one task look-up per checkout: with the pool's own events about 11 us a session;
nothing for a request without any.
Precision: near 1: a report needs the pool's own handle to say that the connection is out, and the task that took it to
have ended, unless it is the request's own. Every checkout is one check.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.violations import Reporter, Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.stacks import RawStack

TASK_WAIT_S: Final = 60.0
"""How long after its request a task may go on with a connection that it took while the request was running."""
STARVED_LIMIT: Final = 1_000

# Unlike `asyncio.current_task()` these raise nothing in a worker thread, where there is no loop.
_running_loop = asyncio._get_running_loop
# Before 3.12 that function is Python code around one look into this table.
_task_of: Callable[[Any], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)
_clock = time.perf_counter

OUT: Final = 0
DETACHED: Final = 1
"""Taken out of its pool on purpose; the application owes its closing."""
REAPED: Final = 2
"""Destroyed by the garbage collector, because the session that held it was dropped without being closed."""
RETURNED: Final = 3


class Handle(Protocol):
    """What the application holds while a connection is out. The only thing ever read of it."""

    @property
    def is_valid(self) -> bool: ...


class Checkout:
    """One connection that is out. `since` is `time.perf_counter()`; `task` and `handle` are weak references."""

    # What a class holds for all of them is not set for each: one is made for every connection that is taken.
    state = OUT
    task_limit = 0.0
    """Until when (`time.monotonic()`) a running task of this request puts the judgement off; 0: it does not."""
    violation: Violation | None = None
    is_forsaken = False
    """Its handle was found dead, without any event yet."""

    def __init__(
        self,
        key: int,
        pool: str,
        request: RequestContext | None,
        stack: RawStack,
        handle: Callable[[], Handle | None] | None,
        task: Callable[[], asyncio.Task[Any] | None] | None,
    ) -> None:
        self.key = key
        self.pool = pool
        self.request = request
        self.stack = stack
        self.handle = handle
        self.task = task
        self.since = _clock()

    @property
    def age_s(self) -> float:
        return _clock() - self.since

    @property
    def is_out(self) -> bool:
        """Whether the connection has not come back. Asks the pool's handle, so that a missed event is no false alarm."""
        if self.state == REAPED or self.handle is None:
            return self.state != RETURNED
        handle = self.handle()
        return self.state != RETURNED and handle is not None and handle.is_valid

    @property
    def has_no_holder(self) -> bool:
        return self.state != REAPED and self.handle is not None and self.handle() is None

    @property
    def task_is_running(self) -> bool:
        task = self.task() if self.task is not None else None
        return task is not None and not task.done()


class SessionLeaks:
    """Judges the connections that requests leave behind. Called from the event loop, worker threads and the garbage collector."""

    def __init__(self, reporter: Reporter, registry: MetricRegistry, housekeeper: Housekeeper, grace_s: float) -> None:
        self._reporter = reporter
        self._registry = registry
        self._housekeeper = housekeeper
        self._grace_s = grace_s
        self._out: dict[int, Checkout] = {}
        self._late: dict[int, Checkout] = {}
        self._is_sweeping = False
        self._starved: dict[int, str] = {}
        self._settling = threading.Lock()
        self.on_left_out: Callable[[Checkout], None] | None = None
        """Called for each connection that is still out when its request ends."""
        self.on_outside: Callable[[], None] | None = None
        """Called when a connection is taken outside of requests."""
        # Known beforehand: one step less for each connection that comes back.
        self._passed = registry.counter(names.CHECKS, detector=names.SESSION_LEAK, result="pass").inc

    # --- what the pool says -----------------------------------------------------------------------------------------

    def checked_out(
        self,
        key: int,
        pool_name: str,
        stack: RawStack = (),
        handle: Callable[[], Handle | None] | None = None,
    ) -> None:
        """Note that a connection left its pool. `key` names it until `checked_in`; outside any request it is only counted.

        Args:
            stack: who asked for it; evidence if it does not come back.
            handle: a weak reference to what the application holds.
        """
        request = CURRENT.get()
        task = None
        if request is not None and (loop := _running_loop()) is not None:
            running = _task_of(loop)
            task = weakref.ref(running) if running is not None else None
        checkout = Checkout(key, pool_name, request, stack, handle, task)
        if key in self._out and (previous := self._out.get(key)) is not None:
            # Its pool forgot the earlier holder, so nobody can tell whether it came back: never a reason to accuse.
            self._drop(previous)
        self._out[key] = checkout
        if request is None:
            if self.on_outside is not None:
                self.on_outside()
            return
        if request.checkouts is None:
            request.checkouts = {key: checkout}
        else:
            request.checkouts[key] = checkout
        if request.finished:
            self._watch_late(checkout)

    def checked_in(self, key: int) -> float | None:
        """Note that a connection came back (or was closed for good); return how long it was out, seconds, if it was known."""
        checkout = self._out.pop(key, None)
        if checkout is None:
            return None
        checkout.state = RETURNED
        request = checkout.request
        if request is not None:
            if request.checkouts is not None:
                request.checkouts.pop(key, None)
            if checkout.violation is None:
                self._passed()
                if self._late:
                    self._late.pop(key, None)
            else:
                self._retract(checkout)
        return _clock() - checkout.since

    def detached(self, key: int, new_key: int) -> None:
        """Note that a connection left its pool for good: by the application's wish, or by the garbage collector's.

        From then on `new_key` names it. Safe inside the garbage collector: nothing is counted, sent or locked here.
        """
        checkout = self._out.get(key)
        if checkout is None:
            return
        is_late = self._late.get(key) is checkout
        self._drop(checkout)
        holder = checkout.handle() if checkout.handle is not None else None
        checkout.state = DETACHED if holder is not None else REAPED
        # The identity of the connection may be used again once it is destroyed; that of this object may not.
        checkout.key = new_key if holder is not None else id(checkout)
        if checkout.state == DETACHED:
            self._out[checkout.key] = checkout
        request = checkout.request
        if request is None or request.checkouts is None or checkout.violation is not None:
            return
        # Left for the request's end to judge; where that is over, a deadline is set already.
        request.checkouts[checkout.key] = checkout
        if is_late:
            self._late[checkout.key] = checkout

    def starved(self, pool_name: str) -> None:
        """Note that the current request waited for a connection in vain."""
        request = CURRENT.get()
        if request is not None:
            self._starved[request.serial] = pool_name
            if len(self._starved) > STARVED_LIMIT:
                self._starved.pop(next(iter(self._starved)), None)

    def failed(self, error: BaseException) -> None:
        """Note an error of our own in a hook."""
        self._reporter.check_failed(names.SESSION_LEAK, "sqlalchemy", error)

    def out_of(self, pool_name: str) -> int:
        """Return how many connections of a pool are out now."""
        return sum(checkout.pool == pool_name for checkout in list(self._out.values()))

    def found(self, key: int) -> Checkout | None:
        """Return what is known of a connection that is out."""
        return self._out.get(key)

    def all_out(self) -> list[Checkout]:
        """Return the connections that are out now."""
        return list(self._out.values())

    # --- what the middleware says -----------------------------------------------------------------------------------

    def request_ended(self, request: RequestContext) -> None:
        """Give each connection that the request left out its deadline."""
        if not request.checkouts:
            return
        ending = _current_task()
        for checkout in list(request.checkouts.values()):
            if not checkout.is_out and not checkout.has_no_holder:
                self._came_back_unseen(checkout)
                continue
            task = checkout.task() if checkout.task is not None else None
            if task is not None and task is not ending and not task.done():
                checkout.task_limit = time.monotonic() + TASK_WAIT_S
            self._judge_later(checkout)
            if self.on_left_out is not None:
                self.on_left_out(checkout)

    def blocks(self, request: RequestContext) -> bool:
        """Return whether the request waited in vain for a connection while another principal held what it needed."""
        return self.blocker(request) is not None

    def blocker(self, request: RequestContext) -> Checkout | None:
        """Return because of which checkout the request got no connection: another principal's leak, or one of another who held them all.

        Answers once for each wait in vain.
        """
        pool = self._starved.pop(request.serial, None)
        if pool is None or request.principal is None:
            return None
        out = [checkout for checkout in list(self._out.values()) if checkout.pool == pool]
        owners = [checkout.request.principal if checkout.request is not None else None for checkout in out]
        others = {owner.id for owner in owners if owner is not None} - {request.principal.id}
        for checkout, owner in zip(out, owners, strict=True):
            if checkout.violation is not None and owner is not None and owner.id in others:
                return checkout
        held_by_one = len(others) == 1 and all(owner is not None and owner.id in others for owner in owners)
        return out[0] if held_by_one else None

    def plant(self, lab: Lab) -> None:
        """Let a request end with a connection out, and look as if the grace time had passed; then give it back."""
        handle = _Planted()
        key = id(handle)
        request = lab.request(of_offender=True)
        lab.inside(request, self.checked_out, key, "planted", (), weakref.ref(handle))
        try:
            request.finished = True
            for checkout in list((request.checkouts or {}).values()):
                self._judge(checkout)
        finally:
            self.checked_in(key)

    # --- deadlines, on the housekeeper's thread ---------------------------------------------------------------------

    def _judge_later(self, checkout: Checkout) -> None:
        self._housekeeper.after(self._grace_s, functools.partial(self._judge, checkout))

    def _judge(self, checkout: Checkout) -> None:
        if checkout.state == RETURNED or checkout.violation is not None:
            return
        if checkout.has_no_holder and not checkout.is_forsaken:
            # The garbage collector clears weak references first and runs finalizers later, other threads in between:
            # whether the connection was destroyed or given back will be known by the next look.
            checkout.is_forsaken = True
            self._judge_later(checkout)
        elif not checkout.is_out:
            self._came_back_unseen(checkout)
        elif checkout.task_limit and checkout.state != REAPED:
            if not checkout.task_is_running or time.monotonic() >= checkout.task_limit:
                # The task's own end starts the grace time: it may still be giving back.
                checkout.task_limit = 0.0
            self._judge_later(checkout)
        else:
            self._report(checkout)

    def _watch_late(self, checkout: Checkout) -> None:
        """Watch a connection that was taken after its request had ended: its deadline starts when its task ends."""
        self._late[checkout.key] = checkout
        self._start_sweeping()

    def _start_sweeping(self) -> None:
        # One job for all of them: background work may take thousands of connections, and each job wakes a thread.
        if not self._is_sweeping:
            self._is_sweeping = True
            self._housekeeper.after(self._grace_s, self._sweep_late)

    def _sweep_late(self) -> None:
        for key, checkout in list(self._late.items()):
            if checkout.state == REAPED or not checkout.task_is_running:
                self._late.pop(key, None)
                self._judge_later(checkout)
        # In this order: one that comes in between finds the flag down and starts the next sweep itself.
        self._is_sweeping = False
        if self._late:
            self._start_sweeping()

    def _report(self, checkout: Checkout) -> None:
        request = checkout.request
        if request is None:
            return
        held_s = _clock() - checkout.since
        how = {
            OUT: f"is still out {held_s:.1f} s after it was taken; its request has ended",
            DETACHED: f"was detached from its pool and is still open after {held_s:.1f} s; its request has ended",
            REAPED: "was never given back: its session was dropped without being closed, and the garbage collector destroyed it",
        }[checkout.state]
        violation = checkout.violation = Violation(
            kind=names.SESSION_LEAK,
            grade="hygiene",
            summary=f"a connection of {checkout.pool} {how}",
            resource=Resource(
                "db_connection",
                checkout.pool,
                {
                    "held_s": round(held_s, 3),
                    "grace_s": self._grace_s,
                    "state": {OUT: "out", DETACHED: "detached", REAPED: "reaped"}[checkout.state],
                    "task_is_running": checkout.task_is_running,
                },
            ),
            victim=None,
            offender=side_of(request, checkout.stack, at=time.time() - held_s),
            arm=request.arm,
        )
        if request.checkouts is not None:
            request.checkouts.pop(checkout.key, None)
        if not _is_planted(request):
            self._registry.counter(names.SESSION_LEAKS, arm=request.arm).inc()
        self._reporter.report(violation, request)
        if checkout.state == RETURNED:
            # It came back while we were writing.
            self._retract(checkout)

    def _retract(self, checkout: Checkout) -> None:
        with self._settling:
            violation, checkout.violation = checkout.violation, None
        if violation is None:
            return
        if not violation.synthetic:
            self._registry.counter(names.SESSION_LEAKS_RETRACTED, arm=violation.arm).inc()
        self._reporter.retract(violation, f"the connection came back after {_clock() - checkout.since:.1f} s")

    def _came_back_unseen(self, checkout: Checkout) -> None:
        """Settle a connection that came back without an event (a connection shared by several holders, or closed by hand)."""
        self._drop(checkout)
        checkout.state = RETURNED
        self._passed()

    def _drop(self, checkout: Checkout) -> None:
        if self._out.get(checkout.key) is checkout:
            self._out.pop(checkout.key, None)
        self._late.pop(checkout.key, None)
        request = checkout.request
        if request is not None and request.checkouts is not None and request.checkouts.get(checkout.key) is checkout:
            request.checkouts.pop(checkout.key, None)


class _Planted:
    """Stands for what a pool hands out in a planted fault."""

    __slots__ = ("__weakref__",)
    is_valid = True


def _is_planted(request: RequestContext) -> bool:
    return request.principal is not None and request.principal.is_synthetic


def _current_task() -> asyncio.Task[Any] | None:
    loop = _running_loop()
    return _task_of(loop) if loop is not None else None
