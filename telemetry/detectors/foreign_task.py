"""Foreign tasks: work that was started for one principal and goes on with the work of another, still as the first.

Sees three ways. A task that a request started lazily and that outlives it, with the request's context variables in force: it
takes what requests of other principals put into an `asyncio.Queue`, or wakes for an `asyncio.Event` that they set, while a
variable it inherited names its first principal and its code reads that variable. A task that no request started, whose
variable came to name a principal during its item and stays so during the next one's. And a thread of a pool, whose thread-local
or context still names the principal of an earlier job while a job of another one runs that reads it and did not set it; or holds
another principal's value, whatever it is, where an earlier job of the same request wrote its own: in another thread, that is.
Silent: tasks that set the variable themselves or run each job in a context of its own; whose code never reads it; of which
each principal has its own; that belong to an open WebSocket connection; and, but for the last, whatever carries no principal's id.
Cannot see: work handed over in plain lists without a signal; code that reads the variable behind a dynamic call; identities
that do not contain the principal's id.
Cost: 0.5 us for each item put and each taken; 3 us a job in a thread while no thread-local is known. Looks closer only at finished owners.
Precision: near 1. Grades: `reachable`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.detectors.foreign_context import was_said
from isolation_monitor.telemetry.detectors.naming import Slots, names_in
from isolation_monitor.telemetry.detectors.places import Place, cell_places
from isolation_monitor.telemetry.detectors.reach import function_of, may_have_read, mentions_in, reach, reach_of, sets_context
from isolation_monitor.telemetry.detectors.replies import Replies, Reply
from isolation_monitor.telemetry.detectors.thread_values import Held, ThreadValues
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from types import CodeType

    from isolation_monitor.telemetry.detectors.foreign_context import ForeignContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.task_leak import TaskLeaks
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

QUEUES_LIMIT: Final = 10_000
ITEMS_LIMIT: Final = 1_000
"""Items of one queue whose owners are remembered; while more wait, nobody knows whose they are."""

_NO_CONTEXT: Final = Context()

FRUITLESS_LOOKS: Final = 50
"""A task whose variables named nobody for so many items is not looked at any more."""

Snapshot = dict[tuple[object, str], tuple[Place, str, object]]
"""By place and path: the place, the id that it names, and the named value's place again for the report."""


class _Worker:
    """What was found out about a lazily started task: the variables that name its first principal, none if it is harmless."""

    __slots__ = ("reported", "variables")

    def __init__(self, variables: list[tuple[ContextVar[Any], object]]) -> None:
        self.variables = variables
        self.reported: set[str] = set()


class _Server:
    """A task of nobody's, that works off a queue: whose item it took last, and whom its variables named before."""

    __slots__ = ("fruitless", "learned", "named", "serves")

    def __init__(self, named: dict[ContextVar[Any], frozenset[str]]) -> None:
        self.named = named
        self.learned: set[ContextVar[Any]] = set()
        """Variables that came to name a principal while its item was worked on: each job should set them."""
        self.serves: RequestContext | None = None
        self.fruitless = 0


class ForeignTask:
    """Knows who put what into which queue, and what pool threads still hold of earlier jobs."""

    def __init__(self, kit: Kit, leaks: TaskLeaks, contexts: ForeignContext) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.FOREIGN_TASK]
        self._principals = kit.principals
        self._leaks = leaks
        self._places = contexts.places
        self._slots = Slots()
        self._values = ThreadValues()
        self._queues: ByIdentity[deque[RequestContext | Reply | None]] = ByIdentity(QUEUES_LIMIT)
        self._replies = Replies()
        self._events: ByIdentity[RequestContext] = ByIdentity(QUEUES_LIMIT)
        self._workers: ByIdentity[_Worker] = ByIdentity()
        self._servers: ByIdentity[_Server] = ByIdentity()
        self._closures: ByIdentity[tuple[Place, ...]] = ByIdentity()

    # --- queues and events ------------------------------------------------------------------------------------------

    def put(self, queue: Any, item: object, waiting: int) -> None:
        """Note that the running code put an item into a first-in-first-out queue, where `waiting` items are now."""
        owner = self._replies.owner_of_put(queue, item)
        owners = self._queues.get(queue)
        if owners is None:
            if owner is None or (type(owner) is RequestContext and owner.principal is None):
                return
            self._queues.put(queue, owners := deque())
        if waiting > ITEMS_LIMIT:
            owners.clear()
            return
        owners.append(owner)
        if len(owners) != waiting:
            owners.clear()
            owners.extend([None] * (waiting - 1))
            owners.append(owner)

    def taken(self, queue: Any, item: object, waiting: int) -> RequestContext | None:
        """Note that the running code took an item from a queue, where `waiting` items are left; return whose work had put it there."""
        owners = self._queues.get(queue)
        owner: RequestContext | Reply | None = None
        if owners:
            owner = owners.popleft()
            if len(owners) != waiting:
                owners.clear()
                owner = None
        if type(owner) is RequestContext:
            if CURRENT.get() is None:
                self._serves_all(owner)
            else:
                self._serves(owner)
        return self._replies.taken(queue, item, owner)

    def signalled(self, event: Any) -> None:
        """Note that the running code set an event."""
        owner = CURRENT.get()
        if owner is not None and owner.principal is not None and not owner.finished:
            self._events.put(event, owner)

    def cleared(self, event: Any) -> None:
        """Note that the running code cleared an event, as a worker does that goes on with what it was woken for."""
        if CURRENT.get() is not None:
            owner = self._events.get(event)
            if owner is not None:
                self._serves(owner)

    def _serves(self, served: RequestContext) -> None:
        mine = CURRENT.get()
        if mine is None or mine is served or not mine.finished or not self._switch.is_on:
            return
        if mine.principal is None or served.principal is None or mine.principal.id == served.principal.id:
            return
        if mine.connection is not None and not mine.connection.closed:
            return
        task = asyncio.current_task()
        if type(task) is not asyncio.Task:
            self._reporter.skipped(names.FOREIGN_TASK)
            return
        worker = self._workers.get(task)
        if worker is None:
            worker = _Worker(self._inherited(task, mine, mine.principal))
            self._workers.put(task, worker)
        if not worker.variables or self._leaks.owners_of(_code_of(task)) - {mine.principal.id}:
            self._reporter.checked(names.FOREIGN_TASK)
        else:
            # Judged once the task has gone on with the item: it may set the variable first.
            task.get_loop().call_soon(self._judge, weakref.ref(task), worker, mine, served, stacks.capture(3), context=Context())

    def _serves_all(self, next_one: RequestContext) -> None:
        """Judge the item before, now that a task which no request started goes on to the next.

        Its variables are as that item's work left them. One that came to name a principal during its own item, and then
        stayed so during an item of another, was set once where it should have been set each time.
        """
        task = asyncio.current_task()
        if type(task) is not asyncio.Task or not self._switch.is_on:
            return
        server = self._servers.get(task)
        if server is None:
            server = _Server(self._named_now())
            self._servers.put(task, server)
        elif server.serves is not None and server.fruitless < FRUITLESS_LOOKS:
            served, principal, before = server.serves, server.serves.principal, server.named
            now = server.named = self._named_now()
            server.fruitless = 0 if now else server.fruitless + 1
            for variable, ids in now.items():
                earlier = before.get(variable, frozenset())
                if principal is None or len(ids) != 1:
                    continue
                if principal.id in ids:
                    if earlier != ids:
                        server.learned.add(variable)
                elif earlier == ids and variable in server.learned and not was_said(served, next(iter(ids))):
                    codes, words = _code_around(task, variable, self._places.words_of(variable))
                    if any(mentions_in(code, words) for code in codes):
                        other = self._principals.known(next(iter(ids)))
                        self._report_server(variable.name, getattr(_code_of(task), "co_qualname", "?"), other, served)
                        break
            else:
                self._reporter.checked(names.FOREIGN_TASK)
        server.serves = next_one

    def _named_now(self) -> dict[ContextVar[Any], frozenset[str]]:
        found = {}
        for variable, value in copy_context().items():
            if variable is not CURRENT:
                ids = frozenset(id for _, id in names_in(value, self._principals.known))
                if ids:
                    found[variable] = ids
        return found

    def _report_server(self, variable: str, code: str, other: Principal | None, served: RequestContext) -> None:
        self._reporter.report(
            Violation(
                kind=names.FOREIGN_TASK,
                grade="reachable",
                summary=f"task {code} worked for {served.route} while its {variable} still named the principal of an earlier item",
                resource=Resource("task", code, {"variable": variable}),
                victim=side_of(None, principal=other),
                offender=side_of(served, stacks.capture(4)),
                arm=served.arm,
            ),
            served,
        )

    def _inherited(self, task: asyncio.Task[Any], mine: RequestContext, principal: Principal) -> list[tuple[ContextVar[Any], object]]:
        """Return the variables inherited from `mine` that name its principal and that the task's code reads but never sets."""
        found = []
        baseline = mine.baseline
        for variable, value in copy_context().items():
            if variable is CURRENT or (baseline is not None and baseline.get(variable) is value):
                continue
            if all(id != principal.id for _, id in names_in(value, self._principals.known)):
                continue
            codes, words = _code_around(task, variable, self._places.words_of(variable))
            sets = sets_context(words)
            if any(mentions_in(code, words) for code in codes) and not any(sets(code) for code in codes):
                found.append((variable, value))
        return found

    def _judge(
        self,
        reference: weakref.ref[asyncio.Task[Any]],
        worker: _Worker,
        mine: RequestContext,
        served: RequestContext,
        stack: stacks.RawStack,
    ) -> None:
        try:
            task = reference()
            context = _context_of(task) if task is not None else None
            still = [variable for variable, value in worker.variables if context is not None and context.get(variable) is value]
            if not still:
                worker.variables = []
                self._reporter.checked(names.FOREIGN_TASK)
                return
            if served.principal is None or served.principal.id in worker.reported:
                return
            worker.reported.add(served.principal.id)
            self._report_worker(still[0].name, getattr(_code_of(task), "co_qualname", "?"), mine, served, stack)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_TASK, "asyncio", error)

    def _report_worker(self, variable: str, code: str, mine: RequestContext, served: RequestContext, stack: stacks.RawStack) -> None:
        self._reporter.report(
            Violation(
                kind=names.FOREIGN_TASK,
                grade="reachable",
                summary=f"task {code}, started by {mine.route}, works for {served.route} of another principal; {variable} names the first",
                resource=Resource("task", code, {"variable": variable}),
                victim=side_of(mine),
                offender=side_of(served, stack),
                arm=served.arm,
            ),
            served,
        )

    # --- threads of pools -------------------------------------------------------------------------------------------

    def run_job(self, owner: RequestContext, is_in_copy: bool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a job of `owner` on the running thread, and look at what the thread holds before and after.

        `is_in_copy`: the job runs in a copy of its request's context, so the variables in force are no leftovers.
        """
        before = None
        try:
            before = self._job_started(owner, is_in_copy, function)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_TASK, "asyncio", error)
        try:
            return function(*args, **kwargs)
        finally:
            if before is not None:
                try:
                    self._job_ended(owner, is_in_copy, function, before)
                except Exception as error:
                    self._reporter.check_failed(names.FOREIGN_TASK, "asyncio", error)

    def _job_started(self, owner: RequestContext, is_in_copy: bool, function: object) -> tuple[Snapshot, Held] | None:
        if not self._switch.is_on or owner.principal is None or owner.principal.is_credential:
            return None
        self._slots.seen(owner.principal)
        locals = self._locals_of(function)
        if is_in_copy and not locals:
            # Nothing that a job could leave behind is known.
            self._reporter.checked(names.FOREIGN_TASK)
            return None
        return self._held(owner.principal, is_in_copy, locals), self._values.held(locals)

    def _job_ended(self, owner: RequestContext, is_in_copy: bool, function: object, at_start: tuple[Snapshot, Held]) -> None:
        principal, (before, held_before) = owner.principal, at_start
        if principal is None:
            return
        locals = self._locals_of(function)
        after, held = self._held(principal, is_in_copy, locals), self._values.held(locals)
        for key, (place, id, _) in after.items():
            earlier = before.get(key)
            if id == principal.id:
                if earlier is None or earlier[1] != id:
                    self._slots.right(key[0], key[1], principal, None)
            elif earlier is not None and earlier[1] == id and self._slots.carries_identity(key[0], key[1], place.name):
                other = self._principals.known(id)
                if (
                    other is not None
                    and other.is_synthetic == principal.is_synthetic
                    and self._slots.is_active(other)
                    and not was_said(owner, id)
                    and _mentions_slot(function, place, key[1])
                ):
                    self._report_thread(place, key[1], "still named the principal of an earlier job", other, owner, function)
                    return
        plain = _function_of_job(function) if held else None
        for place, name, other in list(self._values.left_by_others(owner, plain.__code__ if plain else None, held_before, held)):
            path = f"[{name}]"
            if other.is_synthetic == principal.is_synthetic and _mentions_slot(function, place, path):
                how = "still held what a job of another principal wrote"
                self._report_thread(place, path, how, other, owner, function)
                return
        self._reporter.checked(names.FOREIGN_TASK)

    def _held(self, principal: Principal, is_in_copy: bool, locals: tuple[Place, ...]) -> Snapshot:
        found: Snapshot = {}
        for place, value in self._thread_places(is_in_copy, locals):
            for path, id in names_in(value, self._principals.known):
                if id == principal.id or (place.key, path) not in found:
                    found[place.key, path] = (place, id, value)
        return found

    def _thread_places(self, is_in_copy: bool, locals: tuple[Place, ...]) -> Iterator[tuple[Place, object]]:
        for place in locals:
            yield place, place.read()
        context = _NO_CONTEXT if is_in_copy else copy_context()
        if len(context) > 1:
            for variable, value in context.items():
                if variable is not CURRENT:
                    yield Place("context_variable", variable.name, variable, self._places.words_of(variable), _nothing), value

    def _locals_of(self, function: object) -> tuple[Place, ...]:
        """Return the thread-locals that are known, and those in the closures of a job's functions."""
        found: tuple[Place, ...] = ()
        for plain in job_functions(function):
            if plain.__closure__:
                places = self._closures.get(plain)
                if places is None:
                    places = tuple(place for place in cell_places(plain) if place.kind == "thread_local")
                    self._closures.put(plain, places)
                found += places
        return (*self._places.locals, *found) if self._places.locals else found

    def _report_thread(self, place: Place, path: str, how: str, other: Principal, owner: RequestContext, function: object) -> None:
        plain = _function_of_job(function)
        self._reporter.report(
            Violation(
                kind=names.FOREIGN_TASK,
                grade="reachable",
                summary=f"{owner.route}: a job ran in a thread whose {place.name}{path} {how}",
                resource=Resource("thread", f"{place.name}{path}", {"job": plain.__qualname__ if plain is not None else None}),
                victim=side_of(None, principal=other),
                offender=side_of(owner, stacks.of_function(plain)),
                arm=owner.arm,
            ),
            owner,
        )

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let a place of this thread name both principals rightly, then the first one while a job of the other runs."""
        isolation_monitor_planted: ContextVar[str] = ContextVar("isolation_monitor_planted")
        victim, offender = lab.request(), lab.request(of_offender=True)

        # Its code is read anew for each plant, with all that it reaches: it must not reach the detector.
        def job(id: str | None) -> ContextVar[str]:
            if id is not None:
                isolation_monitor_planted.set(id)
            # A load that is seen to be run each time.
            return isolation_monitor_planted

        def run(owner: RequestContext, id: str | None) -> None:
            before = self._job_started(owner, False, job)
            job(id)
            self._job_ended(owner, False, job, before or ({}, {}))

        def all_jobs() -> None:
            for owner in (offender, victim):
                run(owner, owner.principal.id if owner.principal is not None else None)
            run(offender, None)

        try:
            lab.inside(offender, all_jobs)
        finally:
            self._slots.forget(isolation_monitor_planted)


def job_function(function: object) -> object:
    """Return the application's function behind what was handed to a pool: `asyncio.to_thread` hands a context's `run`."""
    if type(function) is functools.partial:
        inner = function.func
        if type(inner) is BuiltinFunctionType and type(inner.__self__) is Context and function.args:
            return function.args[0]
    return function


def job_functions(function: object) -> list[FunctionType]:
    """Return the plain functions that a job may run: what was handed to the pool, then those handed on among its arguments."""
    job = job_function(function)
    if type(job) is FunctionType:
        return [job]
    handed = (job, *job.args, *job.keywords.values()) if type(job) is functools.partial else (job,)
    return [plain for one in handed if (plain := function_of(one)) is not None]


def _function_of_job(function: object) -> FunctionType | None:
    """Return the application's own function: frameworks hand it to one of theirs, as an argument."""
    return next(reversed(job_functions(function)), None)


def _nothing() -> None:
    return None


def _mentions_slot(function: object, place: Place, path: str) -> bool:
    """Return whether the job's code has read the place and mentions, of a thread-local, the attribute that names somebody."""
    attribute = path[1:].partition("]")[0] if path.startswith("[") else ""
    codes = [code for plain in job_functions(function) for code in reach_of(plain)]
    return any(mentions_in(code, place.words) and may_have_read(code, place.words) for code in codes) and (
        not attribute or any(attribute in code.co_names or attribute in code.co_consts for code in codes)
    )


def _code_of(task: asyncio.Task[Any] | None) -> CodeType | None:
    return getattr(task.get_coro(), "cr_code", None) if type(task) is asyncio.Task else None


def _code_around(task: asyncio.Task[Any], variable: ContextVar[Any], words: frozenset[str]) -> tuple[list[CodeType], frozenset[str]]:
    """Return the code that a task's coroutine reaches, and all names under which that code knows a context variable."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    if frame is None:
        return [], words
    local = dict(frame.f_locals)
    own = {name for space in (frame.f_globals, local) for name, value in list(space.items()) if value is variable}
    codes = list(reach(frame.f_code, frame.f_globals))
    for name in frame.f_code.co_freevars:
        if type(local.get(name)) is FunctionType:
            codes.extend(reach_of(local[name]))
    return codes, words | own


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    """Return the context that a task runs in; before Python 3.12 it is found among what the task refers to."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    for referent in gc.get_referents(task):
        if type(referent) is Context:
            return referent
    return None
