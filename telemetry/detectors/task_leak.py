"""Task leaks: a task, thread, executor job or async generator that is still there after its request and the grace time.

Sees: what was started in the context of a request and is alive (a task not done, a thread running, a job not finished, a
generator suspended) `task_grace_s` after that request's end. It is reported when it repeats: the same code left behind
by several requests of one principal. One left by one request is a worker that was started lazily, and one for each principal
is a worker of that principal; neither is a leak. Code whose tasks were seen to end late by themselves gets four times
the longest time seen. What ends after it was reported is retracted.
Cannot see: what was started outside a request or by a request that was over; `call_later`; a leak that happened once.
Cost: 1.3 us a task; a walk over what is alive, once a second. Precision: 0.9; hygiene only, never counted against a request.
Grades: `hygiene`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from types import AsyncGeneratorType, CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.code_files import owner_of
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

TABLE_LIMIT: Final = 50_000
SITES_LIMIT: Final = 2_000
STACK_DEPTH: Final = 8
OF_ONE: Final = 3
"""Requests of one principal that each left one behind: a leak. Two do where six were left behind in all."""
OF_ONE_AMONG_MANY: Final = 2
MANY: Final = 6
OF_LIBRARY: Final = 6
"""The same for code of installed packages, which keep pools of connections with tasks of their own."""
LATE_ENDS_TO_LEARN: Final = 2
PATIENCE: Final = 4.0
CHECKS_LIMIT: Final = 10_000

_task_done = asyncio.Future.done
_thread_alive = threading.Thread.is_alive


class Started(weakref.ref[Any]):
    """A weak reference to what was started, with what is known of it."""

    __slots__ = ("code", "key", "over_since", "owner", "stack", "violation", "what")

    key: int
    what: str
    code: object
    owner: RequestContext
    stack: RawStack
    over_since: float
    violation: Violation | None

    def is_alive(self) -> bool:
        thing = self()
        if thing is None:
            return False
        if self.what == "task":
            return not (thing.done() if type(thing) is asyncio.Task else _task_done(thing) if isinstance(thing, asyncio.Future) else True)
        if self.what == "thread":
            return _thread_alive(thing)
        if self.what == "generator":
            return thing.ag_frame is not None
        # Without its lock: a word that is read is either the old or the new one.
        return object.__getattribute__(thing, "__dict__").get("_state") in ("PENDING", "RUNNING")


class _Site:
    __slots__ = ("late_ends", "longest_s")

    def __init__(self) -> None:
        self.late_ends = 0
        self.longest_s = 0.0


class TaskLeaks:
    """Remembers what requests start, and looks once a second for what outlived them."""

    def __init__(self, kit: Kit) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.TASK_LEAK]
        self._grace_s = kit.settings.task_grace_s
        self._alive: dict[int, Started] = {}
        self._sites: dict[int, tuple[object, _Site]] = {}
        self._lingering: list[Started] = []
        self._forget_it = self._forget
        self._started = 0
        self._counted = 0
        kit.housekeeper.every_second(self.sweep)

    def started(self, thing: Any, what: str, code: object, owner: RequestContext, skip: int = 2) -> None:
        """Note that `owner` started `thing`: a `task`, `thread`, `job` (its future) or `generator` that runs `code`."""
        if not self._switch.is_on or owner.finished:
            return
        if len(self._alive) >= TABLE_LIMIT:
            self._reporter.skipped(names.TASK_LEAK)
            return
        started = Started(thing, self._forget_it)
        started.key = id(thing)
        started.what = what
        started.code = code
        started.owner = owner
        started.over_since = 0.0
        started.violation = None
        frame: FrameType | None = sys._getframe(skip)
        taken: list[tuple[CodeType, int]] = []
        while frame is not None and len(taken) < STACK_DEPTH:
            taken.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        started.stack = tuple(taken)
        self._alive[started.key] = started
        self._started += 1

    def owners_of(self, code: object) -> set[str]:
        """Return the ids of the principals whose requests started something alive that runs `code`."""
        return {
            one.owner.principal.id
            for one in list(self._alive.values())
            if one.code is code and one.owner.principal is not None and one.is_alive()
        }

    def _forget(self, started: weakref.ref[Any]) -> None:
        # Called by the garbage collector, anywhere: no lock may be taken here.
        key = started.key  # type: ignore[attr-defined]  # only ever given to `Started`
        if self._alive.get(key) is started:
            # The housekeeper may be forgetting it at this moment.
            self._alive.pop(key, None)

    # --- once a second ----------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Look at what is alive; `now` is `time.monotonic()`. Called by the housekeeper."""
        if not self._switch.is_on:
            return
        try:
            self._settle(now)
            lingering: list[Started] = []
            for one in list(self._alive.values()):
                if not one.is_alive():
                    self._forget(one)
                elif one.owner.finished and not _is_connected(one.owner):
                    one.over_since = one.over_since or now
                    if now - one.over_since >= self._grace_s:
                        lingering.append(one)
                else:
                    one.over_since = 0.0
            self._lingering = lingering
            self._judge(lingering, now)
            passed, self._counted = min(self._started - len(self._alive) - self._counted, CHECKS_LIMIT), self._started - len(self._alive)
            for _ in range(passed):
                self._reporter.checked(names.TASK_LEAK)
        except Exception as error:
            self._reporter.check_failed(names.TASK_LEAK, "detector", error)

    def _settle(self, now: float) -> None:
        """Learn from what lingered at the last look and has ended since."""
        for one in self._lingering:
            if one.is_alive():
                continue
            site = self._site_of(one.code)
            site.late_ends += 1
            site.longest_s = max(site.longest_s, now - one.over_since)
            if one.violation is not None:
                self._reporter.retract(one.violation, f"the {one.what} ended {now - one.over_since:.0f} s after its request")
                one.violation = None

    def _judge(self, lingering: list[Started], now: float) -> None:
        groups: dict[int, list[Started]] = {}
        for one in lingering:
            site = self._site_of(one.code)
            if site.late_ends >= LATE_ENDS_TO_LEARN and now - one.over_since < PATIENCE * site.longest_s:
                continue
            groups.setdefault(id(one.code), []).append(one)
        for group in groups.values():
            requests: dict[str | None, set[int]] = {}
            for one in group:
                who = one.owner.principal.id if one.owner.principal is not None else None
                requests.setdefault(who, set()).add(one.owner.serial)
            most = max(len(serials) for who, serials in requests.items())
            in_all = sum(len(serials) for serials in requests.values())
            needed = OF_LIBRARY if _is_library(group[0].code) or None in requests else OF_ONE_AMONG_MANY if in_all >= MANY else OF_ONE
            if most >= needed:
                for one in group:
                    if one.violation is None:
                        self._report(one, now)

    def _report(self, one: Started, now: float) -> None:
        name = getattr(one.code, "co_qualname", None) or str(one.code)
        one.violation = Violation(
            kind=names.TASK_LEAK,
            grade="hygiene",
            summary=f"{one.owner.route}: {one.what} {name} was still there {now - one.over_since:.1f} s after its request",
            resource=Resource(one.what, name, {"alive": len(self._alive)}),
            victim=None,
            offender=side_of(one.owner, one.stack),
            arm=one.owner.arm,
        )
        self._reporter.report(one.violation, one.owner)

    def _site_of(self, code: object) -> _Site:
        known = self._sites.get(id(code))
        if known is None or known[0] is not code:
            if len(self._sites) >= SITES_LIMIT:
                del self._sites[next(iter(self._sites))]
            known = self._sites[id(code)] = (code, _Site())
        return known[1]

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let three finished requests of one principal leave a job behind, and look as if the grace time had passed."""
        code = compile("", "isolation-monitor-planted", "exec")
        futures: list[Future[None]] = []
        planted: list[Started] = []
        for _ in range(OF_ONE):
            request, future = lab.request(), Future[None]()
            futures.append(future)
            self.started(future, "job", code, request, 1)
            request.finished = True
            if (one := self._alive.get(id(future))) is not None:
                planted.append(one)
        now = time.monotonic()
        for one in planted:
            one.over_since = now - self._grace_s
        try:
            self._judge(planted, now)
        finally:
            self._sites.pop(id(code), None)
            for one in planted:
                self._forget(one)


def code_of(awaitable: object) -> object:
    """Return what identifies the code of a coroutine or generator: its code object, else its type."""
    kind = type(awaitable)
    if kind is _COROUTINE:
        return awaitable.cr_code  # type: ignore[attr-defined]  # exactly a coroutine
    if kind is AsyncGeneratorType:
        return awaitable.ag_code  # type: ignore[attr-defined]
    return kind


def _coroutine_type() -> type:
    async def nothing() -> None: ...

    coroutine = nothing()
    coroutine.close()
    return type(coroutine)


_COROUTINE: Final = _coroutine_type()


def _is_connected(owner: RequestContext) -> bool:
    """Return whether the request was of a WebSocket that is still open: what it started may live as long."""
    return owner.connection is not None and not owner.connection.closed


def _is_library(code: object) -> bool:
    return not isinstance(code, CodeType) or owner_of(code.co_filename) not in ("application", "nobody")
