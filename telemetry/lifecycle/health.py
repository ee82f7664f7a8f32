"""What the three health answers say, as Kubernetes asks: 200 for yes, 503 for no, and why as JSON.

livez: the process works; ask for a restart when not. readyz: it can serve now; give it no traffic when not. startupz: the start-up
is over; wait when not. None of them says a stack, a text of an error, or anything of a user.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolation_monitor.telemetry.lifecycle.checks import Checks, Result
    from isolation_monitor.telemetry.lifecycle.course import Course
    from isolation_monitor.telemetry.lifecycle.pulse import Pulse


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `status` is HTTP's."""

    status: int
    body: dict[str, Any]


class Health:
    """Answers for one application."""

    def __init__(self, service: str, course: Course, checks: Checks, pulse: Pulse, live_lag_s: float) -> None:
        self._service = service
        self._course = course
        self._checks = checks
        self._pulse = pulse
        self._live_lag_s = live_lag_s
        self._since = time.monotonic()

    async def answer(self, name: str) -> Answer:
        """Answer on the event loop: that it does is the sign of life."""
        if asyncio._get_running_loop() is None:
            trio: Any = sys.modules.get("trio")  # Any: no library that is required
            # Nothing here can wait on its loop, and the checks may take their time.
            if trio is None:
                return self.answer_from_thread(name)
            answer: Answer = await trio.to_thread.run_sync(self.answer_from_thread, name)
            return answer
        if name == "livez":
            began = time.monotonic()
            # Everything that is due now runs before.
            await asyncio.sleep(0)
            return self._live(time.monotonic() - began, 0.0)
        if name == "startupz":
            return self._started()
        return self._ready(await self._checks.ask(self._home()) if self._asks_checks() else {})

    def answer_from_thread(self, name: str) -> Answer:
        """Answer from a thread, also while the event loop stands still: then the process is not ready, and at length not live."""
        self._pulse.ask()
        if name == "livez":
            return self._live(self._pulse.lag_s, self._pulse.stalled_s)
        if name == "startupz":
            return self._started()
        return self._ready(self._checks.ask_from_thread(self._home()) if self._asks_checks() else {})

    def _home(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that the application's connections belong to, also where nobody ran a start-up on it."""
        return self._course.loop or asyncio._get_running_loop() or self._pulse.loop

    def _asks_checks(self) -> bool:
        """Before it is ready and when it ends, the application's resources are not to be touched."""
        return self._course.is_ready

    def _live(self, lag_s: float | None, stalled_s: float) -> Answer:
        is_live = not self._live_lag_s or stalled_s < self._live_lag_s
        worst = self._pulse.worst_lag_s
        return Answer(
            200 if is_live else 503,
            {
                "status": "alive" if is_live else "stalled",
                **self._who(),
                "uptime_s": round(time.monotonic() - self._since, 1),
                "loop_lag_s": None if lag_s is None else round(lag_s, 4),
                "loop_lag_worst_s": None if worst is None else round(worst, 4),
                "loop_stalled_s": round(stalled_s, 1),
            },
        )

    def _started(self) -> Answer:
        is_over = self._course.is_started
        return Answer(
            200 if is_over else 503, {"status": "started" if is_over else self._course.state, **self._who(), "startup": self._startup()}
        )

    def _ready(self, results: dict[str, Result]) -> Answer:
        reasons = [] if self._course.is_ready else [self._course.why_not_ready()]
        reasons += [f"{name}: {one.reason}" for name, one in results.items() if not one.is_well and self._checks.is_required(name)]
        return Answer(
            503 if reasons else 200,
            {
                "status": "not_ready" if reasons else "ready",
                **({"reasons": reasons} if reasons else {}),
                **self._who(),
                "checks": {name: self._shown(name, one) for name, one in results.items()},
                "startup": self._startup(),
            },
        )

    def _shown(self, name: str, result: Result) -> dict[str, Any]:
        return {
            "status": "ok" if result.is_well else "failed",
            **({"reason": result.reason} if result.reason else {}),
            **({} if self._checks.is_required(name) else {"required": False}),
            "took_s": round(result.duration_s, 4),
            **({"detail": result.detail} if result.detail else {}),
        }

    def _who(self) -> dict[str, Any]:
        return {"service": self._service, "pid": os.getpid()}

    def _startup(self) -> dict[str, Any]:
        now = time.monotonic()
        phases = {
            phase.name: {
                "state": phase.state,
                **({"took_s": round(phase.duration_s, 3)} if phase.began else {}),
                **({"hangs": True} if phase.hung_s(now) else {}),
            }
            for phase in self._course.phases
        }
        return {"took_s": round(self._course.startup_s, 3), "phases": phases}
