"""The clean-up: steps in their order, each with a limit of time, and by force where that has passed.

A step comes after the steps that it names; without a word, after all that were declared later, as `atexit` and `ExitStack` do it.
Whoever calls waits on a thread of its own and never on the event loop, so that a step which holds the loop is forced, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle.ordering import Ordering
from isolation_monitor.telemetry.lifecycle.work import Function, Work, begin, check_function

FORCE_LIMIT_S: Final = 1.0
"""How long a step's `force` may take."""

Outcome = Literal["done", "failed", "timed_out", "not_run", "not_needed"]

clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Step:
    """One declared step. `after` is None where the order of declaration decides."""

    name: str
    function: Function
    after: tuple[str, ...] | None
    timeout_s: float
    force: Function | None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step. `forced`: its `force` was called; `error`: the class of what it raised.

    timed_out: it did not end in time; not_run: the time of all was over before it began; not_needed: its phase never began.
    """

    name: str
    outcome: Outcome
    duration_s: float
    forced: bool = False
    error: str | None = None


class Steps:
    """The declared steps of one application."""

    def __init__(self, timeout_s: float, limit_s: float) -> None:
        self.timeout_s = timeout_s
        self.limit_s = limit_s
        self._declared: dict[str, Step] = {}
        self._ordering = Ordering("step")

    def declare(self, name: str, function: Function, after: Iterable[str] | None, timeout_s: float | None, force: Function | None) -> None:
        """Declare a step.

        Raises:
            LifecycleError: the name, the order, the time or a function cannot be.
        """
        check_function(function, f"clean-up step {name!r}")
        if force is not None:
            check_function(force, f"force of clean-up step {name!r}")
        seconds = min(self.timeout_s, self.limit_s) if timeout_s is None else timeout_s
        if not 0 < seconds < float("inf"):
            raise LifecycleError(f"clean-up step {name!r}: timeout_s={timeout_s!r} is no time: give seconds above 0")
        if seconds > self.limit_s:
            raise LifecycleError(
                f"clean-up step {name!r}: timeout_s={seconds:g} is longer than all steps together may take ({self.limit_s:g} s): raise the "
                "setting cleanup_limit_s, and the time that your platform gives a process to end"
            )
        self._ordering.add(name, after or ())
        self._declared[name] = Step(name, function, None if after is None else tuple(after), seconds, force)

    def order(self) -> dict[str, set[str]]:
        """Return, by step, those that it waits for.

        Steps that name none wait for all later ones that name none, and for later ones that name some where that is no cycle.
        """
        names = list(self._declared)
        waits = {name: set(self._ordering.of(name)) for name in names}
        unnamed = [name for name in names if self._declared[name].after is None]
        for at, name in enumerate(unnamed):
            waits[name] |= set(unnamed[at + 1 :])
        for name in reversed(unnamed):
            for later in names[names.index(name) + 1 :]:
                if later not in waits[name] and not _reaches(waits, later, name):
                    waits[name].add(later)
        return waits

    def __iter__(self) -> Iterator[Step]:
        return iter(list(self._declared.values()))

    def __len__(self) -> int:
        return len(self._declared)

    def __getitem__(self, name: str) -> Step:
        return self._declared[name]


def _reaches(waits: dict[str, set[str]], start: str, goal: str) -> bool:
    """Return whether `start` waits for `goal`, directly or not."""
    todo, seen = [start], {start}
    while todo:
        for name in waits[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return goal in seen


class _Running:
    """A step that has begun: first its function, then perhaps its force."""

    def __init__(self, step: Step, work: Work, deadline: float) -> None:
        self.step = step
        self.began = clock()
        self.work = work
        self.deadline = deadline
        self.outcome: Outcome | None = None
        """Known once it is by force that it ends."""
        self.error: str | None = None


class Cleanup:
    """One run of all steps. `home` is the application's event loop; `is_needed` tells whether a step has anything to do."""

    def __init__(self, steps: Steps, home: asyncio.AbstractEventLoop | None, is_needed: Callable[[str], bool] = lambda name: True) -> None:
        self._steps = steps
        self._home = home
        self._is_needed = is_needed
        self._changed = threading.Condition()
        self._waits = steps.order()
        self._running: dict[str, _Running] = {}
        self._results: dict[str, StepResult] = {}

    def run(self) -> list[StepResult]:
        """Run all steps and return what became of each, in the order in which they ended. Takes `limit_s` at most, and a force's time."""
        deadline = clock() + self._steps.limit_s
        while self._waits or self._running:
            self._begin_what_may(deadline)
            self._settle()
            if not self._running:
                continue
            until = min(one.deadline for one in self._running.values())
            with self._changed:
                if not any(one.work.future.done() for one in self._running.values()):
                    self._changed.wait(max(0.0, until - clock()))
        return list(self._results.values())

    def _begin_what_may(self, deadline: float) -> None:
        for name in [name for name, waits in self._waits.items() if waits <= self._results.keys()]:
            del self._waits[name]
            step = self._steps[name]
            if not self._is_needed(name):
                self._results[name] = StepResult(name, "not_needed", 0.0)
            elif clock() < deadline:
                work = self._begin(step.function, f"cleanup {name}")
                self._running[name] = _Running(step, work, min(clock() + step.timeout_s, deadline))
            elif step.force is not None:
                self._running[name] = one = _Running(step, self._begin(step.force, f"force {name}"), clock() + FORCE_LIMIT_S)
                one.outcome = "not_run"
            else:
                self._results[name] = StepResult(name, "not_run", 0.0)

    def _begin(self, function: Function, name: str) -> Work:
        work = begin(function, self._home, name)
        work.future.add_done_callback(self._notify)
        return work

    def _notify(self, future: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _settle(self) -> None:
        for one in list(self._running.values()):
            if one.work.future.done():
                error = one.work.future.exception()
                if one.outcome is not None:
                    self._end(one, one.outcome, forced=True)
                elif error is None:
                    self._end(one, "done")
                else:
                    one.error = type(error).__name__
                    self._force(one, "failed")
            elif clock() >= one.deadline:
                one.work.cancel()
                if one.outcome is not None:
                    self._end(one, one.outcome, forced=True)
                else:
                    self._force(one, "timed_out")

    def _force(self, one: _Running, outcome: Outcome) -> None:
        if one.step.force is None:
            self._end(one, outcome)
            return
        one.outcome = outcome
        one.deadline = clock() + FORCE_LIMIT_S
        one.work = self._begin(one.step.force, f"force {one.step.name}")

    def _end(self, one: _Running, outcome: Outcome, *, forced: bool = False) -> None:
        del self._running[one.step.name]
        self._results[one.step.name] = StepResult(one.step.name, outcome, clock() - one.began, forced, one.error)
