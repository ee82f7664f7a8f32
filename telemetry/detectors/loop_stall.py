"""Loop stall: the event loop stood still, blamed on the request whose code held it.

Sees: while somebody is served, a thread of the monitor asks the loop for a sign of life twice per threshold
(`stall_threshold_ms`), so a stall of one and a half thresholds is always seen, a shorter one by chance. When none comes
it takes the stack of the loop's thread and the request of the running task, and reports when the loop moves again, or
after five seconds of standing still. Time during which the thread itself was late is not the host's (a suspended or
overloaded machine), unless the loop's thread was computing in it: code in C that holds the interpreter stops our thread
too. Time of full garbage collections is taken off as well.
Cannot see: stretches below the threshold, however many; loops other than the server's; who is to blame when the stall
was over before the first look (code that holds the interpreter): then the request is unknown.
Cost: one wake-up of the loop and one of the thread per half of the threshold, 0.3 % of one core; 0.1 % while nobody is served.
Precision: near 1. A machine that gives the loop's thread no time, but ours, looks like a blocking call.
Grade: `hygiene`. One check is one second without a stall. While no principal is served nobody waits, and nothing is asked.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from isolation_monitor.telemetry import names, running
from isolation_monitor.telemetry.recent import Recent
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

LOOKS_PER_THRESHOLD: Final = 2
SHORTEST_LOOK_S: Final = 0.01
TOO_LONG_S: Final = 5.0
"""A stall that lasts so long is reported although it has not ended."""
REMEMBERED: Final = 64
REMEMBERED_S: Final = 60.0
"""Stalls kept for those who ask what else happened then, and for how long."""

clock = time.perf_counter


class Stall(NamedTuple):
    """One stall, on the clock of `RequestContext.started`."""

    since: float
    until: float
    request: RequestContext | None


class _Caught(NamedTuple):
    """What was seen of the loop while it stood still."""

    request: RequestContext | None
    stack: RawStack


class LoopStall:
    """Watches one loop at a time: the one that serves."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._reporter = kit.reporter
        self._switch = kit.switches[names.LOOP_STALL]
        self._threshold_s = max(kit.settings.stall_threshold_ms / 1000, 2 * SHORTEST_LOOK_S)
        self._durations = kit.registry.histogram(names.LOOP_STALL_DURATION)
        self._recent: Recent[float, Stall] = Recent(kit.housekeeper, REMEMBERED, REMEMBERED_S)
        self._watch: _Watch | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch `loop`, called on its thread; whichever was watched before is left."""
        if self._watch is not None and self._watch.loop is loop and self._watch.is_running:
            return
        self.unwatch()
        self._watch = _Watch(loop, self, self._threshold_s)
        self._watch.start()

    def unwatch(self) -> None:
        """Stop watching; called from any thread."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    @property
    def is_needed(self) -> bool:
        """Whether somebody would wait if the loop stood still."""
        return self._switch.is_on and self._kit.exposure.principals > 0

    def alive(self) -> None:
        """Note one second without a stall."""
        if self._switch.is_on:
            self._reporter.checked(names.LOOP_STALL)

    def failed(self, error: BaseException) -> None:
        self._reporter.check_failed(names.LOOP_STALL, "asyncio", error)

    def stalled(self, seconds: float, request: RequestContext | None, stack: RawStack, *, has_ended: bool = True) -> None:
        """Judge a stretch of `seconds` that ends now."""
        if not self._switch.is_on:
            return
        principal = request.principal if request is not None else None
        if principal is None or not principal.is_synthetic:
            # What was planted did not happen: nobody may measure it, or find it as a cause.
            now = clock()
            self._recent.put(now, Stall(now - seconds, now, request))
            if has_ended:
                self.ended(seconds)
        self._reporter.report(
            Violation(
                kind=names.LOOP_STALL,
                grade="hygiene",
                summary=f"the event loop stood still for {seconds * 1000:.0f} ms" + ("" if has_ended else " and still does"),
                resource=Resource(
                    "event_loop",
                    "asyncio",
                    {
                        "stalled_s": round(seconds, 3),
                        "threshold_s": self._threshold_s,
                        "has_ended": has_ended,
                        "live_principals": self._kit.exposure.principals,
                        "is_blamed": request is not None,
                    },
                ),
                victim=None,
                offender=side_of(request, stack, at=time.time() - seconds) if request is not None or stack else None,
                arm=request.arm if request is not None else "none",
            ),
            request,
        )

    def ended(self, seconds: float) -> None:
        """Measure a stall that is over."""
        self._durations.observe(seconds)

    def during(self, since: float, until: float) -> list[Stall]:
        """Return the stalls that overlap a stretch of time, oldest first."""
        return [stall for stall in self._recent.values() if stall.since < until and stall.until > since]

    def plant(self, lab: Lab) -> None:
        self.stalled(self._threshold_s * 2, lab.request(of_offender=True), ())


class _Watch:
    """One loop and the thread that watches it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, detector: LoopStall, threshold_s: float) -> None:
        self.loop = loop
        self._detector = detector
        self._threshold_s = threshold_s
        self._look_s = max(threshold_s / LOOKS_PER_THRESHOLD, SHORTEST_LOOK_S)
        self._loop_thread = threading.get_ident()
        self._loop_cpu = _cpu_clock_of_this_thread()
        self._answered = 0
        """Number of the sign of life that came last, and when; written on the loop's thread only."""
        self._answered_at = 0.0
        self._stopped = threading.Event()
        self._asleep = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="isolation-monitor-loop-watch", daemon=True)
        self._collections = _Collections()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._stopped.is_set()

    def start(self) -> None:
        self._asleep.acquire()
        self._collections.watch()
        self._thread.start()

    def stop(self) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            self._asleep.release()
        self._collections.unwatch()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(1.0)

    def _sleep(self) -> None:
        # Ends at once with `stop`. Measured: 30 us dearer than a plain sleep each time; waiting for an event is 50 us dearer.
        self._asleep.acquire(timeout=self._look_s)

    def _answer(self, number: int) -> None:
        self._answered_at = clock()
        self._answered = number

    def _run(self) -> None:
        try:
            number, since_check = 0, clock()
            while not self._stopped.is_set() and not self.loop.is_closed():
                if not self._detector.is_needed:
                    self._sleep()
                    since_check = clock()
                    continue
                number += 1
                try:
                    self.loop.call_soon_threadsafe(self._answer, number)
                except RuntimeError:
                    # Closed just now.
                    break
                try:
                    if self._wait_for(number):
                        since_check = clock()
                    elif clock() - since_check >= 1.0:
                        since_check = clock()
                        self._detector.alive()
                except Exception as error:
                    self._detector.failed(error)
        finally:
            self._collections.unwatch()

    def _wait_for(self, number: int) -> bool:
        """Wait for a sign of life; return whether the loop stalled before it gave one."""
        asked = clock()
        collecting = self._collections.seconds
        excused = 0.0
        caught: _Caught | None = None
        is_reported = False
        while True:
            slept, computed = clock(), self._loop_cpu()
            self._sleep()
            if self._stopped.is_set():
                return False
            has_answered = self._answered >= number
            until = self._answered_at if has_answered else clock()
            late = until - slept - self._look_s
            if late > 0:
                # We were late ourselves. That is the host's doing only as far as its loop was computing.
                excused += max(0.0, late - (self._loop_cpu() - computed))
            stood = until - asked - excused - (self._collections.seconds - collecting)
            if has_answered and is_reported:
                self._detector.ended(stood)
                return True
            if has_answered:
                if stood > self._threshold_s:
                    self._detector.stalled(stood, *(caught or _Caught(None, ())))
                return stood > self._threshold_s
            if caught is None:
                caught = self._look(number)
            if caught is not None and stood > TOO_LONG_S and not is_reported:
                is_reported = True
                self._detector.stalled(stood, caught.request, caught.stack, has_ended=False)

    def _look(self, number: int) -> _Caught | None:
        """Take the stack of the loop's thread and whose code it runs; None when the loop moved meanwhile."""
        task = asyncio.current_task(self.loop)
        seen = running.stack_of_thread(self._loop_thread)
        if seen is None or self._answered >= number:
            return None
        frame, stack = seen
        request = running.request_of_task(task) if task is asyncio.current_task(self.loop) else None
        return _Caught(request or running.request_of_frames(frame), stack)


class _Collections:
    """How long full garbage collections took, in sum. They stop every thread and are nobody's doing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def watch(self) -> None:
        gc.callbacks.append(self._collecting)

    def unwatch(self) -> None:
        if self._collecting in gc.callbacks:
            gc.callbacks.remove(self._collecting)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._since = clock()
        else:
            self.seconds += clock() - self._since


def _cpu_clock_of_this_thread() -> Callable[[], float]:
    """Return what reads this thread's processor time from any thread; where that cannot be read, time that stands still."""
    try:
        number = time.pthread_getcpuclockid(threading.get_ident())
        time.clock_gettime(number)
    except (AttributeError, OSError):
        return lambda: 0.0

    def read() -> float:
        try:
            return time.clock_gettime(number)
        except OSError:
            return 0.0

    return read
