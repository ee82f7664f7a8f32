"""`monitor.lifecycle`: declare what starts, what ends and what is checked, and run it all around the application.

    @monitor.lifecycle.phase("database")
    async def connect() -> None: ...

    @monitor.lifecycle.cleanup("database", force=database.abort)
    async def disconnect() -> None: ...

    async with monitor.lifecycle:      # in the lifespan, or around a script's work: `with` where nothing is async
        yield

Errors of declarations are raised where they are made; a phase's own error is raised to whoever starts. Nothing else raises.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle import startup
from isolation_monitor.telemetry.lifecycle.ahead import Ahead
from isolation_monitor.telemetry.lifecycle.checks import Checks
from isolation_monitor.telemetry.lifecycle.cleanup import FORCE_LIMIT_S, Cleanup, Steps
from isolation_monitor.telemetry.lifecycle.course import Course, State
from isolation_monitor.telemetry.lifecycle.endpoint import NAMES, HealthEndpoint
from isolation_monitor.telemetry.lifecycle.hangs import Hangs
from isolation_monitor.telemetry.lifecycle.health import Health
from isolation_monitor.telemetry.lifecycle.inventory import Baseline, Left, left_since, own_of
from isolation_monitor.telemetry.lifecycle.phases import Phase, Phases
from isolation_monitor.telemetry.lifecycle.port import serve_health
from isolation_monitor.telemetry.lifecycle.pulse import Pulse
from isolation_monitor.telemetry.lifecycle.signals import Signals
from isolation_monitor.telemetry.lifecycle.telling import CleanupReport, Telling

if TYPE_CHECKING:
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.instrument.patches import Patch
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.metrics.port import ThreadPort
    from isolation_monitor.telemetry.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

SETTLE_S: Final = 0.3
"""How long what is left after the last step may take to go by itself: threads that end, connections that close."""
LAST_SYNC_S: Final = 1.0
_PATIENCE_S: Final = 3.0
"""How long beyond the limits of all steps somebody waits for the clean-up."""

clock = time.monotonic


class Lifecycle:
    """Start-up, health and clean-up of one application. Unused it does nothing, and no path is answered."""

    def __init__(self, ledger: Ledger, housekeeper: Housekeeper, settings: Settings, is_on: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._housekeeper = housekeeper
        self._settings = settings
        self._is_on = is_on
        self._telling = Telling(ledger, is_on)
        self._phases = Phases(settings.startup_hang_s, self._phase_begins, self._phase_ended)
        self._course = Course(self._phases, self._starts)
        self._steps = Steps(settings.cleanup_timeout_s, settings.cleanup_limit_s)
        self._checks, self._pulse = Checks(), Pulse()
        self._hangs = Hangs(self._telling.hangs)
        self._signals = Signals(self._heard, self._end, is_on=settings.lifecycle_signals == "chain")
        self._temporary: set[str] = set()
        self._lock = threading.RLock()
        self._owner = 0
        self._cleaning: Future[CleanupReport | None] | None = None
        self._baseline: Baseline | None = None
        self._ahead = Ahead()
        self._is_starting = False
        self._port: ThreadPort | None = None
        self.is_declared = False
        """Whether the application has declared or begun anything: only then are the health paths answered."""
        self.health = Health(settings.service, self._course, self._checks, self._pulse, settings.live_lag_s)
        paths = {path: name for name in NAMES if (path := getattr(settings, f"{name}_path"))}
        self.endpoint = HealthEndpoint(self.health, paths, lambda: self.is_declared)
        """An ASGI application for the three paths, to be mounted anywhere; the monitor's middleware serves it by itself."""
        self.report: CleanupReport | None = None
        """What the latest clean-up did."""
        housekeeper.every_second(self._tick)

    # --- declarations -----------------------------------------------------------------------------------------------

    def phase(
        self,
        name: str,
        *,
        after: Iterable[str] = (),
        before: Iterable[str] = (),
        timeout_s: float | None = None,
        hangs_after_s: float | None = None,
        in_thread: bool = True,
    ) -> Phase:
        """Declare a phase of the start-up: decorate a function of no arguments, or run a `with` or `async with` block inside it.

        Functions run when the application starts, each as soon as what it comes after is done. A block runs where it stands, before
        `async with monitor.lifecycle` or beside it; readiness waits for it.

        Args:
            name: as metrics and answers show it.
            after: names of declared phases that must be done before.
            before: names of declared phases that must wait for this one.
            timeout_s: after so long a function fails with TimeoutError; None: it may take for ever, and is only told of.
            hangs_after_s: after so long it counts as hanging; None: the setting `startup_hang_s`.
            in_thread: a plain function runs in a thread of its own; False: where the start-up runs, which it holds up meanwhile.

        Raises:
            LifecycleError: the name is taken, a name is unknown, the order is a cycle, or the start-up is over.
        """
        self._course.rearm()
        if self._course.state not in ("idle", "starting"):
            raise LifecycleError(f"phase {name!r} comes too late: the application is {self._course.state}; declare it before the start-up")
        self.is_declared = True
        return self._phases.declare(name, after, before, timeout_s, hangs_after_s, in_thread)

    def barrier(self, name: str, *, after: Iterable[str], before: Iterable[str] = ()) -> None:
        """Declare a phase without work: done when all that it comes after are, so that one name stands for many.

        Raises:
            LifecycleError: see `phase`.
        """
        self.phase(name, after=after, before=before, in_thread=False)(_nothing)

    def cleanup(
        self, name: str, *, after: Iterable[str] | None = None, timeout_s: float | None = None, force: Callable[[], Any] | None = None
    ) -> Callable[[F], F]:
        """Declare a step of the clean-up; decorates a function of no arguments, plain or async, and returns it unchanged.

        A plain function runs in a thread, an async one on the application's event loop. A step of a phase's name is left out when that
        phase never began.

        Args:
            name: as logs and records show it.
            after: names of declared steps that must be over before; None: all that are declared later.
            timeout_s: after so long it is forced; None: the setting `cleanup_timeout_s`.
            force: called when the step did not end in time, or raised; what it raises is ignored. It has one second.

        Raises:
            LifecycleError: the name is taken, a name is unknown, or a time or function cannot be.
        """

        def declare(function: F) -> F:
            self._steps.declare(name, function, after, timeout_s, force)
            self.is_declared = True
            return function

        return declare

    def check(self, name: str, *, timeout_s: float = 1.0, cache_s: float = 1.0, required: bool = True) -> Callable[[F], F]:
        """Declare a check that `/readyz` asks; decorates a function of no arguments, plain or async, and returns it unchanged.

        It is well unless it raises or returns False; a dictionary of JSON values is shown as its detail. `NotReadyError("pool
        exhausted")` says why in words; of other errors only the class is shown. Asked once at a time, however many probes ask.

        Args:
            name: as the answer shows it.
            timeout_s: an answer that takes longer is a failure.
            cache_s: so long an answer is good for all who ask.
            required: not ready while it fails; False: only shown.

        Raises:
            LifecycleError: the name is taken, or a time or function cannot be.
        """

        def declare(function: F) -> F:
            self._checks.declare(name, function, timeout_s=timeout_s, cache_s=cache_s, is_required=required)
            self.is_declared = True
            return function

        return declare

    def temporary(self, path: str | os.PathLike[str]) -> str:
        """Say that a file or folder is temporary: the clean-up tells when it is still there. Returns the path as text."""
        text = os.fspath(path)
        self._temporary.add(text)
        return text

    # --- the start --------------------------------------------------------------------------------------------------

    async def astart(self) -> None:
        """Run the start-up on the running event loop; return when the application is ready.

        Raises:
            LifecycleError: it has started already, or the event loop is not asyncio's.
            Exception: what the first phase that failed raised.
        """
        loop = asyncio._get_running_loop()
        if loop is None:
            raise LifecycleError("the start-up runs on asyncio, and this is another event loop: use `with` before it, and plain functions")
        await self._start(loop)

    def start(self) -> None:
        """As `astart`, for scripts: phases are plain functions, and run in threads.

        Raises:
            LifecycleError: it has started already, an event loop runs here, or a phase is a coroutine function.
            Exception: what the first phase that failed raised.
        """
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("an event loop runs here: use `async with monitor.lifecycle`, or `await monitor.lifecycle.astart()`")
        if names := self._phases.needs_loop():
            raise LifecycleError(
                f"phases {', '.join(names)} are coroutine functions: use `async with monitor.lifecycle` on their event loop"
            )
        asyncio.run(self._start(None))

    async def _start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._is_starting:
            raise LifecycleError("the start-up is under way already: wait for it with `reached(name)`")
        self._begin()
        self._look_again(loop)
        self._is_starting = True
        self._course.loop, self._course.waits_since = loop, clock()
        self._pulse.watch(loop)
        try:
            await startup.run(self._phases)
        except BaseException:
            self._course.fail()
            raise
        else:
            self._course.ready()
        finally:
            self._is_starting, self._course.waits_since = False, 0.0
            self._telling.started(self._course)

    async def reached(self, name: str) -> None:
        """Wait until a phase is done.

        Raises:
            LifecycleError: there is none of that name, or it failed.
        """
        phase = self._phases[name]
        await asyncio.wrap_future(phase.over)
        if phase.state != "done":
            raise LifecycleError(f"phase {name!r} has {phase.state}: what waits for it cannot go on")

    # --- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> CleanupReport | None:
        """Run the clean-up, once; whoever calls later or meanwhile gets the same report.

        None: nothing was declared or started in this process (a forked child has nothing of its parent's to clean up).
        """
        cleaning = self._clean("application", asyncio.current_task() if asyncio._get_running_loop() is not None else None)
        if cleaning is None:
            return None
        if asyncio._get_running_loop() is None:
            return self._wait(cleaning)
        report = await asyncio.wrap_future(cleaning)
        self._signals.uninstall()
        return report

    def close(self) -> CleanupReport | None:
        """As `aclose`, from any thread. On the event loop's own thread it only begins, because async steps need the loop: None."""
        return self._close("application")

    def _close(self, reason: str) -> CleanupReport | None:
        cleaning = self._clean(reason, threading.current_thread())
        if cleaning is None or asyncio._get_running_loop() is not None:
            return None
        return self._wait(cleaning)

    def _wait(self, cleaning: Future[CleanupReport | None]) -> CleanupReport | None:
        try:
            report = cleaning.result(self._settings.cleanup_limit_s + 2 * FORCE_LIMIT_S + _PATIENCE_S)
        except TimeoutError:
            return None
        self._signals.uninstall()
        return report

    def _clean(self, reason: str, excused: object) -> Future[CleanupReport | None] | None:
        if self._owner not in (0, os.getpid()) or not self.is_declared:
            return None
        with self._lock:
            if self._cleaning is not None:
                return self._cleaning
            cleaning: Future[CleanupReport | None] = Future()
            self._cleaning = cleaning
            cleaning.set_running_or_notify_cancel()
            self._course.stop()
        # Where no start-up ran it is the caller's.
        loop = self._course.loop or asyncio._get_running_loop()
        arguments = (cleaning, reason, excused, loop)
        work = threading.Thread(target=self._run_cleanup, args=arguments, name="isolation-cleanup", daemon=True)
        try:
            work.start()
        except RuntimeError:
            # The interpreter ends and starts no thread any more.
            self._run_cleanup(*arguments)
        return cleaning

    def _run_cleanup(
        self, cleaning: Future[CleanupReport | None], reason: str, excused: object, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        began, report = clock(), None
        try:
            steps = Cleanup(self._steps, loop, lambda name: not self._phases.never_began(name)).run()
            left = self._look(loop, excused)
            self.report = report = CleanupReport(reason, clock() - began, steps, left)
            self._telling.cleaned(report)
        except BaseException as error:
            self._telling.failed(error)
        finally:
            self._course.stopped()
            self._pulse.watch(None)
            atexit.unregister(self._at_exit)
            cleaning.set_result(report)

    def _look(self, loop: asyncio.AbstractEventLoop | None, excused: object) -> Left | None:
        baseline = self._baseline
        if baseline is None:
            return None
        until = clock() + SETTLE_S
        while True:
            own = own_of(self._settings, self._ledger, self.port)
            left = left_since(baseline, loop, own, excused=(excused,), temporary=self._temporary)
            if not left.total or clock() >= until:
                return left
            time.sleep(0.05)

    # --- around the application -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Lifecycle:
        try:
            await self.astart()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __enter__(self) -> Lifecycle:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- what others ask --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Return where the application stands: `idle`, `starting`, `ready`, `failed`, `stopping` or `stopped`."""
        return self._course.state

    @property
    def is_ready(self) -> bool:
        """Return whether it has started and does not end; the checks are asked by `/readyz` alone."""
        return self._course.is_ready

    @property
    def patches(self) -> list[Patch]:
        """The signal handlers that stand before the host's."""
        return self._signals.patches()

    def declared(self) -> dict[str, list[str]]:
        """Return the names of phases, steps and checks."""
        return {
            kind: [one.name for one in each] for kind, each in (("phases", self._phases), ("steps", self._steps), ("checks", self._checks))
        }

    @property
    def port(self) -> int | None:
        """The bound port of `health_port`; None where there is none, or another worker has it."""
        return None if self._port is None else self._port.port

    def serving(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Called by the monitor on the event loop's thread, when the application begins to serve."""
        if self.is_declared or self._settings.health_port:
            self._pulse.watch(loop)
            self._open_port()

    def detach(self) -> None:
        """Called by the monitor when it closes: what is the monitor's ends; the application's clean-up is still its own."""
        self._pulse.watch(None)
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._cleaning is None or self._cleaning.done():
            self._signals.uninstall()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._course.state == "starting" and self._owner != os.getpid():
            # A block ran in the parent, as with gunicorn's --preload.
            self._course.begin_anew()
        else:
            self._course.begin()

    def _phase_begins(self, phase: Phase) -> None:
        self._begin()
        if not self._is_starting:
            self._ahead.begins(phase)
        self._telling.phase_begins(phase)

    def _phase_ended(self, phase: Phase) -> None:
        self._ahead.ended(phase)
        self._telling.phase_ended(phase)

    def _look_again(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """After blocks that ran ahead, perhaps before the server did."""
        try:
            if (baseline := self._ahead.baseline(loop)) is not None:
                self._baseline = baseline
                # A server that began to run after them has set handlers of its own.
                self._signals.install()
        except Exception as error:
            self._telling.failed(error)

    def _starts(self) -> None:
        """The first thing of a start-up: look at what the process holds, and hear of its end."""
        self.is_declared = True
        if self._owner != os.getpid():
            # In a forked child the parent's lock may be held by a thread that is not there.
            self._owner, self._lock = os.getpid(), threading.RLock()
        with self._lock:
            self._cleaning, self.report = None, None
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)
        try:
            if self._is_on():
                self._housekeeper.start()
                self._ledger.outbox.start()
            self._open_port()
            self._baseline = Baseline(asyncio._get_running_loop())
            self._ahead.clear()
            self._signals.install()
        except Exception as error:
            self._telling.failed(error)

    def _open_port(self) -> None:
        if self._settings.health_port and self._port is None:
            self._port = serve_health(self.health, self._ledger.registry, "0.0.0.0", self._settings.health_port)

    def _tick(self, now: float) -> None:
        """Called about once a second by the housekeeper."""
        if self._course.state == "starting":
            # Between a block and the start nobody waits: in the parent of forked workers that is for ever.
            if self._is_starting or any(phase.state == "running" for phase in self._phases):
                self._telling.elapsed(self._course)
            self._hangs.look(self._phases, now, self._course.waits_since)
        if self.is_declared:
            self._pulse.ask()

    def _heard(self, number: int) -> None:
        self._course.is_draining = True

    def _end(self, number: int) -> None:
        """A signal that nobody else handles: clean up, then let it end the process. Called on the main thread."""
        loop = asyncio._get_running_loop()
        if loop is None:
            self._close("signal")
            self._ledger.outbox.sync(LAST_SYNC_S)
            self._signals.give_up(number)
            return
        # The loop must go on, because async steps need it. If it does not, the process ends all the same.
        cleaning = self._clean("signal", None)
        limit_s = self._settings.cleanup_limit_s + 2 * FORCE_LIMIT_S + _PATIENCE_S
        last = threading.Timer(limit_s, os._exit, (128 + number,))
        last.name, last.daemon = "isolation-last-resort", True
        last.start()

        def give_up() -> None:
            if cleaning is not None:
                cleaning.result()
                # What the clean-up told would be lost with the process.
                self._ledger.outbox.sync(LAST_SYNC_S)
            # Where the loop is closed by now, whoever ran it goes on to the end by himself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._signals.give_up, number)

        threading.Thread(target=give_up, name="isolation-give-up", daemon=True).start()

    def _at_exit(self) -> None:
        if self._close("exit") is not None:
            self._ledger.outbox.sync(LAST_SYNC_S)


def _nothing() -> None:
    """The work of a barrier."""
