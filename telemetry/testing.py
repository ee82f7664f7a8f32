"""The watch over a test suite: one monitor around an application under test, asked after each test what it found.

Used by the pytest plugin (`isolation_monitor.pytest_plugin`, docs/testing.md); knows no pytest itself.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import shutil
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, two_sided
from isolation_monitor.telemetry.instrument import starlette as starlette_instrument
from isolation_monitor.telemetry.monitor import IsolationMonitor
from isolation_monitor.telemetry.violations import GRADE_ORDER

if TYPE_CHECKING:
    from isolation_monitor.telemetry.instrument.bodies import ASGIApp, Receive, Scope, Send
    from isolation_monitor.telemetry.violations import Violation

LEAKS: Final = (names.SESSION_LEAK, names.TASK_LEAK)
SHOWN_LIMIT: Final = 5
"""Defects shown in full in one test's report."""
KEPT_LIMIT: Final = 1_000
GRACE_S: Final = 0.1
"""Grace times in tests: nobody waits for a slow client there, and each test waits for what is due."""
SETTLE_S: Final = 4 * GRACE_S


class Watch:
    """Watches the application under test. `monitor` is its own, or the one that the application has already."""

    def __init__(self) -> None:
        self.app: Any = None
        """What to serve: the application itself, or its wrapper where it cannot be instrumented in place."""
        self._monitor: IsolationMonitor | None = None
        self._own: IsolationMonitor | None = None
        self._folder = ""
        self._taken: list[tuple[Callable[[], Any], Any, IsolationMonitor]] = []
        self._heard: list[IsolationMonitor] = []
        self._found: deque[Violation] = deque(maxlen=KEPT_LIMIT)
        self._tests = self._failed = self._milder = 0
        self.is_on = True

    @property
    def monitor(self) -> IsolationMonitor:
        """The monitor of the application taken last.

        Raises:
            RuntimeError: none was taken.
        """
        if self._monitor is None:
            raise RuntimeError("no application is watched yet: use the fixture `isolation`, or call take(app)")
        return self._monitor

    def take(self, app: Any, principal: Callable[[Any], str | None] | None = None) -> Any:
        """Watch an application from now on, once however often it is given; return what to serve."""
        for reference, wrapped, monitor in self._taken:
            if reference() is app:
                self.app, self._monitor = app if wrapped is None else wrapped, monitor
                return self.app
        self._taken = [entry for entry in self._taken if entry[0]() is not None]
        monitor = _monitor_of(app) or self._own_monitor()
        if principal is not None:
            monitor.principal(principal)
        if monitor not in self._heard:
            self._heard.append(monitor)
            monitor.ledger.on_violation.append(self._hear)
        served = monitor.instrument(app)
        # Outermost: in a test, client and application share a task, so that the context of one request would reach the next.
        if starlette_instrument.instrument(app, lambda inner: OwnTask(inner, self, monitor)) is None:
            served = OwnTask(served, self, monitor)
        self._taken.append((_reference(app), None if served is app else served, monitor))
        self.app, self._monitor = served, monitor
        return served

    def begin(self) -> None:
        """Forget what was found before: a test answers for itself."""
        self._tests += 1
        self._found.clear()

    def report(self, grade: str, with_leaks: bool) -> str:
        """Return what was found since `begin` at or above `grade`, as text; empty when there is nothing.

        Waits for findings that are due in less than half a second; mostly there are none.
        """
        for monitor in self._heard:
            if with_leaks or grade == "hygiene":
                self._look_for_tasks(monitor)
            monitor.housekeeper.settle(SETTLE_S)
            monitor.detection.settle()
        found = [one for one in self._found if one.retracted is None]
        counted = [one for one in found if GRADE_ORDER[one.grade] >= GRADE_ORDER[grade] or (with_leaks and one.kind in LEAKS)]
        self._milder += len(found) - len(counted)
        if not counted:
            return ""
        self._failed += 1
        number = Counter(one.fingerprint for one in counted)
        first = {one.fingerprint: one for one in reversed(counted)}
        shown = sorted(first.values(), key=lambda one: (-GRADE_ORDER[one.grade], one.time))
        head = f"{len(counted)} violations of isolation, {len(shown)} different:" if len(counted) > 1 else "isolation was violated:"
        texts = [f"{self._text(one)}\n  found      {number[one.fingerprint]} times in this test" for one in shown[:SHOWN_LIMIT]]
        more = [f"and {len(shown) - SHOWN_LIMIT} more"] if len(shown) > SHOWN_LIMIT else []
        return "\n\n".join([head, *texts, *more])

    def summary(self) -> str:
        """Return what the whole session found, in a line."""
        milder = f"; {self._milder} milder findings not counted" if self._milder else ""
        return f"{self._tests} tests watched, {self._failed} with violations{milder}"

    def close(self) -> None:
        """Take everything off again and remove the temporary folder. A monitor that is the application's own is left to it."""
        self.is_on = False
        for monitor in self._heard:
            if self._hear in monitor.ledger.on_violation:
                monitor.ledger.on_violation.remove(self._hear)
        if self._own is not None:
            self._own.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _hear(self, violation: Violation) -> None:
        if not violation.synthetic:
            self._found.append(violation)

    def _own_monitor(self) -> IsolationMonitor:
        if self._own is None:
            self._folder = tempfile.mkdtemp(prefix="isolation-monitor-tests-")
            self._own = IsolationMonitor.from_env(
                service="tests",
                mode="monitor",
                # Empty, not absent: a test must not send what it planted to the collector of its environment.
                collector_url="",
                hash_key=secrets.token_hex(16),
                metrics_dir=self._folder,
                metrics_port=0,
                looks_per_second=1_000_000,
                leak_grace_s=GRACE_S,
                task_grace_s=GRACE_S,
                settle_s=GRACE_S,
                self_test_interval_s=0.0,
            )
        return self._own

    @staticmethod
    def _look_for_tasks(monitor: IsolationMonitor) -> None:
        """Look twice, a grace time apart: what is alive at the end of the test and does not end by itself was left behind."""
        leaks = monitor.detection.task_leak
        leaks.sweep(time.monotonic())
        time.sleep(monitor.settings.task_grace_s if monitor.settings.task_grace_s <= SETTLE_S else 0.0)
        leaks.sweep(time.monotonic())

    @staticmethod
    def _text(violation: Violation) -> str:
        return two_sided.as_text(violation.as_record())


class OwnTask:
    """Runs each request in a task of its own, as servers do, with a copy of the caller's context."""

    def __init__(self, app: ASGIApp, watch: Watch, monitor: IsolationMonitor) -> None:
        self._app = app
        self._watch = watch
        self._monitor = monitor
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Another event loop library: nothing of asyncio to watch.
            await self._app(scope, receive, send)
            return
        if not self._watch.is_on or scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._loop() is not loop:
            # Each test, and some clients each request, has an event loop of its own: the next request serves on this one.
            self._loop = weakref.ref(loop)
            self._monitor.served = False

        async def serve() -> None:
            await self._app(scope, receive, send)

        await loop.create_task(serve())


def _monitor_of(app: Any) -> IsolationMonitor | None:
    """Return the monitor that watches `app` already; nobody says where a service keeps it."""
    monitors = [thing for thing in gc.get_objects() if type(thing) is IsolationMonitor]
    # One whose making failed, by settings that cannot be used, has no application; an error that is kept may keep it alive.
    return next((one for one in monitors if vars(one).get("app") is app and one.is_on), None)


def _reference(app: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(app)
    except TypeError:
        return lambda: app
