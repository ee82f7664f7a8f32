"""Phases of a start-up: declared by name with what they come after, run as decorated functions or as `with` blocks.

A phase is over once, in one of three ways: `done`, `failed`, or `cancelled` because another one failed. Times are seconds on the
clock of `time.monotonic`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle.ordering import Ordering
from isolation_monitor.telemetry.lifecycle.work import Function, check_function

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER: Final = ("done", "failed", "cancelled")

F = TypeVar("F", bound=Callable[..., Any])

clock = time.monotonic


class Phase:
    """One phase. Decorate a function of no arguments with it, or run a `with` or `async with` block inside it."""

    def __init__(self, name: str, phases: Phases, *, timeout_s: float | None, hangs_after_s: float, in_thread: bool) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.hangs_after_s = hangs_after_s
        self.in_thread = in_thread
        self.function: Function | None = None
        """None: run as a block, wherever the application does."""
        self._phases = phases
        self._rearm()

    def _rearm(self) -> None:
        self.state: State = "waiting"
        self.began = 0.0
        self.ended = 0.0
        self.error: BaseException | None = None
        self.task: object = None
        """The asyncio task that runs it, if one does."""
        self.thread_id: int | None = None
        """The thread that runs it: of a task that of its event loop."""
        self.told_at = 0.0
        """How long it had hung when that was last told; 0 for never."""
        self.over: Future[None] = Future()
        self.over.set_running_or_notify_cancel()

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def duration_s(self) -> float:
        """Return how long it took, or has taken so far; 0 before it begins."""
        if not self.began:
            return 0.0
        return (self.ended or clock()) - self.began

    def hung_s(self, now: float) -> float:
        """Return how long it has run when that is too long, else 0."""
        waited = now - self.began if self.state == "running" else 0.0
        return waited if waited >= self.hangs_after_s else 0.0

    # --- as a decorator ---------------------------------------------------------------------------------------------

    def __call__(self, function: F) -> F:
        check_function(function, f"phase {self.name!r}")
        if self.function is not None:
            raise LifecycleError(f"phase {self.name!r} has a function already: declare another phase")
        self.function = function
        return function

    # --- as a block -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Phase:
        self._refuse_function()
        if missing := [one.name for one in self._phases.leaders(self) if one.state != "done"]:
            raise LifecycleError(
                f"phase {self.name!r} begins before {', '.join(missing)}, which it comes after: use `async with`, which waits"
            )
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end(error)

    async def __aenter__(self) -> Phase:
        self._refuse_function()
        await self._phases.leaders_done(self)
        self.begin(asyncio.current_task())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end(error)

    def _refuse_function(self) -> None:
        if self.function is not None:
            raise LifecycleError(f"phase {self.name!r} has a function, which the start-up calls: use another name for a block")

    # --- its course -------------------------------------------------------------------------------------------------

    def begin(self, task: object = None) -> None:
        """Note that it runs now, in `task` or else on the calling thread.

        Raises:
            LifecycleError: it ran already, or the start-up is over.
        """
        if self.state != "waiting":
            raise LifecycleError(f"phase {self.name!r} is {self.state} already: each runs once in a start-up")
        self._phases.on_begin(self)
        self.state, self.began = "running", clock()
        self.task, self.thread_id = task, threading.get_ident()

    def end(self, error: BaseException | None) -> None:
        """Note that it is over, and why when it failed; the first call holds."""
        if self.is_over:
            return
        self.ended, self.error = clock(), error
        cancelled = isinstance(error, asyncio.CancelledError)
        self.state = "done" if error is None else "cancelled" if cancelled else "failed"
        self.task = self.thread_id = None
        # A reason of text, not the error itself: futures that nobody asks would keep its frames.
        with contextlib.suppress(Exception):
            self._phases.on_end(self)
        self.over.set_result(None)


class Phases:
    """All phases of one application. `on_begin` and `on_end` are told of each, on whichever thread runs it."""

    def __init__(self, hang_s: float, on_begin: Callable[[Phase], None], on_end: Callable[[Phase], None]) -> None:
        self._hang_s = hang_s
        self._ordering = Ordering("phase")
        self._phases: dict[str, Phase] = {}
        self.on_begin = on_begin
        self.on_end = on_end

    def declare(
        self,
        name: str,
        after: Iterable[str],
        before: Iterable[str],
        timeout_s: float | None,
        hangs_after_s: float | None,
        in_thread: bool,
    ) -> Phase:
        """Declare a phase.

        Raises:
            LifecycleError: see `Ordering.add`; or a time is no positive number.
        """
        for argument, seconds in (("timeout_s", timeout_s), ("hangs_after_s", hangs_after_s)):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise LifecycleError(f"phase {name!r}: {argument}={seconds!r} is no time: give seconds above 0")
        self._ordering.add(name, after, before)
        hang_s = self._hang_s if hangs_after_s is None else hangs_after_s
        phase = self._phases[name] = Phase(name, self, timeout_s=timeout_s, hangs_after_s=hang_s, in_thread=in_thread)
        return phase

    def rearm(self) -> None:
        """Get ready for another start-up: phases with functions will run again, blocks that ran are forgotten."""
        for name, phase in list(self._phases.items()):
            if phase.function is None and phase.state != "waiting":
                self._ordering.forget(name)
                del self._phases[name]
            else:
                phase._rearm()

    def leaders(self, phase: Phase) -> list[Phase]:
        """Return the phases that `phase` comes directly after, in the order of their declaration."""
        names = self._ordering.of(phase.name)
        return [one for one in self._phases.values() if one.name in names]

    async def leaders_done(self, phase: Phase) -> None:
        """Return when all that `phase` comes after are done.

        Raises:
            LifecycleError: one of them failed.
        """
        for leader in self.leaders(phase):
            await asyncio.wrap_future(leader.over)
            if leader.state != "done":
                raise LifecycleError(f"phase {phase.name!r} cannot begin: {leader.name!r}, which it comes after, {_ending(leader)}")

    def is_known(self, name: str) -> bool:
        return name in self._phases

    def never_began(self, name: str) -> bool:
        """Return whether there is a phase of that name which did not even begin."""
        return name in self._phases and not self._phases[name].began

    def __getitem__(self, name: str) -> Phase:
        try:
            return self._phases[name]
        except KeyError:
            known = ", ".join(map(repr, self._phases)) or "none"
            raise LifecycleError(f"there is no phase {name!r} (known: {known})") from None

    def __iter__(self) -> Iterator[Phase]:
        return iter(list(self._phases.values()))

    def __len__(self) -> int:
        return len(self._phases)

    def needs_loop(self) -> list[str]:
        """Return the names of the phases that are coroutine functions."""
        return [one.name for one in self if one.function is not None and inspect.iscoroutinefunction(one.function)]


def _ending(phase: Phase) -> str:
    return f"failed ({type(phase.error).__name__})" if phase.state == "failed" else "was cancelled"
