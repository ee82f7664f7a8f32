"""The course of an application's life: where it stands, since when, and what that means for readiness.

idle -> starting -> ready -> stopping -> stopped, or starting -> failed -> stopping -> stopped. A stopped one can start again.
Read from any thread; written by whoever starts and stops, and by a signal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle.phases import Phases

State = Literal["idle", "starting", "ready", "failed", "stopping", "stopped"]

clock = time.monotonic


class Course:
    """Where one application stands. `starts` is told each time that a start-up begins, before anything of it runs."""

    def __init__(self, phases: Phases, starts: Callable[[], None]) -> None:
        self.phases = phases
        self._starts = starts
        self.state: State = "idle"
        self.was_ready = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the application lives on, once it has started there."""
        self.is_draining = False
        """A signal has asked for the end, which has not begun yet."""
        self._began = 0.0
        self._ended = 0.0
        self.waits_since = 0.0
        """Since when the start-up has run its phases and waits for blocks elsewhere; 0 for never."""

    @property
    def is_ready(self) -> bool:
        """Return whether it has started and does not end. One without phases needs no start."""
        return (self.state == "ready" or self._needs_no_start) and not self.is_draining

    @property
    def is_started(self) -> bool:
        """Return whether its start-up is over, also when it ends by now. One without phases needs none."""
        return self.was_ready or self._needs_no_start

    @property
    def _needs_no_start(self) -> bool:
        return self.state == "idle" and not len(self.phases)

    @property
    def startup_s(self) -> float:
        """Return how long the start-up took, or has taken so far; 0 before it began."""
        return (self._ended or clock()) - self._began if self._began else 0.0

    def why_not_ready(self) -> str:
        """Return in words what keeps it from being ready."""
        if self.is_draining or self.state in ("stopping", "stopped"):
            return "it is shutting down"
        if self.state == "failed":
            failed = [phase.name for phase in self.phases if phase.state == "failed"]
            return "the start-up failed" + (f" in {', '.join(failed)}" if failed else "")
        if self.state == "idle":
            return "the start-up has not begun: nobody has entered monitor.lifecycle"
        running = [phase.name for phase in self.phases if phase.state == "running"]
        waiting = [phase.name for phase in self.phases if phase.state == "waiting"]
        named = [f"{what}: {', '.join(which)}" for what, which in (("running", running), ("waiting", waiting)) if which]
        return "the start-up is not over" + (f" ({'; '.join(named)})" if named else "")

    def begin(self) -> None:
        """Begin a start-up; called again while one runs it changes nothing.

        Raises:
            LifecycleError: the last one is over and nothing has ended it.
        """
        self.rearm()
        if self.state == "starting":
            return
        if self.state != "idle":
            raise LifecycleError(f"the application is {self.state}: its start-up is over, and begins anew only after a clean-up")
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begin, also where one is under way already: in a forked child that is its parent's."""
        self._starts()
        self.state, self._began, self._ended = "starting", clock(), 0.0
        self.was_ready = self.is_draining = False
        self.waits_since = 0.0

    def rearm(self) -> None:
        """Get ready for another start-up where the last one was cleaned up."""
        if self.state == "stopped":
            self.phases.rearm()
            self.state = "idle"

    def ready(self) -> None:
        self._ended, self.state, self.was_ready = clock(), "ready", True

    def fail(self) -> None:
        self._ended, self.state = clock(), "failed"

    def stop(self) -> None:
        self.state = "stopping"

    def stopped(self) -> None:
        self.state, self.loop, self.is_draining = "stopped", None, False
