"""`pytest --isolation-resources`: what each test uses and leaves behind, in the JUnit file and in a table of the worst.

Loaded by `isolation_monitor.pytest_plugin` when it is asked for. Under pytest-xdist the workers measure, their values travel with their
reports, and the controller writes and sums. docs/testing.md tells what each value means.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from isolation_monitor.resource_use import NOTHING, Held, MemoryPeak, cpu_s, held, left

PREFIX: Final = "isolation."
WALL, CPU, PEAK, GROWTH = "wall_s", "cpu_s", "memory_peak_bytes", "memory_growth_bytes"
LEAKED: Final = ("leaked_handles", "leaked_threads", "leaked_processes")
LEFT: Final = "left_behind"
MARK: Final = "ISOLATION_TEST_PROCESS"
"""Environment variable that children inherit: those whose parent ended before them are found by it."""
_WORST: Final = 5
_LEAKING_SHOWN: Final = 20
_NAMES_SHOWN: Final = 5
_OUTPUT: Final = "isolation_resources"
Report = Generator[None, pytest.TestReport, pytest.TestReport]


@dataclass(slots=True)
class _Begun:
    at: float
    cpu_s: float
    held: Held


def _now(holds: Held) -> _Begun:
    """Return the present; looking for what is held comes before and is no part of it."""
    return _Begun(time.perf_counter(), cpu_s(), holds)


class Resources:
    """The plugin of one pytest process: a whole session, or a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, *, fails_on_leak: bool) -> None:
        self._config = config
        self._fails_on_leak = fails_on_leak
        self._worker_output: dict[str, Any] | None = getattr(config, "workeroutput", None)  # Any: what execnet can send
        self._memory = MemoryPeak()
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        self._mark_before = os.environ.get(MARK)
        os.environ[MARK] = self._mark.partition("=")[2]
        self._start = _now(NOTHING)
        self._remains = NOTHING
        self._test: _Begun | None = None
        self._owned: dict[Any, Held] = {}
        """What was made while a fixture of a wider scope than one test was set up; it may stay until that fixture ends."""
        self._ended: list[Held] = []
        """The same of fixtures that ended with the present test: what is still there of it was left behind."""
        self._tests: dict[str, dict[str, float | str]] = {}
        self._workers: list[dict[str, Any]] = []  # Any: as above
        self._session: dict[str, float | str] = {}

    # --- each test ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._memory.begin()
        self._ended.clear()
        self._test = _now(held(self._mark))
        try:
            return (yield)
        finally:
            self._test = None

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:  # Any: pytest's own, not exported
        if fixturedef.scope == "function":
            return (yield)
        before = held(self._mark)
        try:
            return (yield)
        finally:
            inner = [one for other, one in self._owned.items() if other is not fixturedef]
            self._owned[fixturedef] = _without(held(self._mark).beyond(before), inner)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:  # Any: as above
        made = self._owned.pop(fixturedef, None)
        if made is not None:
            self._ended.append(made)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Report:
        if call.when != "teardown" or self._test is None:
            return (yield)
        begun = self._test
        # The peak first: looking for what is left would be part of it.
        peak = self._memory.end()
        used = {WALL: time.perf_counter() - begun.at, CPU: cpu_s() - begun.cpu_s}
        remains = left(begun.held.beyond(_sum(self._ended)), self._mark, but=_sum(self._owned.values()))
        for name, value in (*used.items(), *self._memory_of(peak), *_leaks(remains)):
            item.user_properties.append((PREFIX + name, round(value, 6)))
        names = remains.named()
        if names:
            item.user_properties.append((PREFIX + LEFT, "; ".join(_some(names))))
        report = yield
        if names and self._fails_on_leak and report.outcome == "passed":
            report.outcome = "failed"
            report.longrepr = f"left behind by {item.nodeid} and its fixtures:\n" + "\n".join(f"  {name}" for name in names)
        return report

    def _memory_of(self, value: int | None) -> list[tuple[str, float]]:
        if value is None:
            return []
        return [(PEAK if self._memory.method == "peak" else GROWTH, value)]

    # --- the session --------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" and self._worker_output is None:
            found = {name.removeprefix(PREFIX): value for name, value in report.user_properties if name.startswith(PREFIX)}
            if WALL in found:
                self._tests[report.nodeid] = found  # type: ignore[assignment]  # what `pytest_runtest_makereport` put there

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # Any: pytest-xdist's
        # A worker that crashed says nothing.
        told = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if told:
            self._workers.append(told)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        # Around the tests alone: what pytest itself opens for a session is not theirs.
        before = held(self._mark)
        try:
            return (yield)
        finally:
            self._memory.look()
            self._remains = left(before, self._mark)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Say what the whole run used; before the JUnit file is written."""
        remains = self._remains
        own: dict[str, Any] = {CPU: cpu_s() - self._start.cpu_s, **dict(_leaks(remains)), LEFT: remains.named()}  # Any: execnet's
        if self._memory.method != "none":
            own[PEAK] = self._memory.highest_bytes
        if self._worker_output is not None:
            self._worker_output[_OUTPUT] = own
            return
        # The controller's own CPU holds that of workers which were waited for, and only of those: it is theirs to say.
        parts = [own | {CPU: time.process_time()}, *self._workers] if self._workers else [own]
        self._session = {WALL: time.perf_counter() - self._start.at}
        for name in (CPU, PEAK, *LEAKED):
            known = [part[name] for part in parts if name in part]
            if known:
                self._session[name] = round(sum(known), 6)
        self._session["memory_method"] = self._memory.method
        names = [name for part in (self._workers or parts) for name in part[LEFT]]
        if self._workers:
            # What the controller holds of its workers is theirs, and goes with them.
            for name in LEAKED:
                self._session[name] = sum(part.get(name, 0) for part in self._workers)
        if names:
            self._session[LEFT] = "; ".join(_some(names))
        xml = junit_of(self._config)
        if xml is not None:
            for name, value in self._session.items():
                xml.add_global_property(PREFIX + name, str(round(value, 6) if isinstance(value, float) else value))

    def pytest_unconfigure(self) -> None:
        if self._mark_before is None:
            os.environ.pop(MARK, None)
        else:
            os.environ[MARK] = self._mark_before

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # Any: pytest's own, not exported
        if not self._tests:
            return
        terminalreporter.write_sep("-", "isolation: resources")
        for line in summary(self._tests, self._session):
            terminalreporter.write_line(line)


def summary(tests: dict[str, dict[str, float | str]], session: dict[str, float | str]) -> list[str]:
    """Return the lines of the table: what the run used, who left something behind, who used most."""
    peak = PEAK if any(PEAK in one for one in tests.values()) else GROWTH
    how = {PEAK: "peak", GROWTH: "growth"}[peak]
    whole = f"{len(tests)} tests, {_number(session.get(WALL), 's')} wall, {_number(session.get(CPU), 's')} CPU"
    lines = [f"{whole}, {_number(session.get(PEAK), 'MB')} peak; at its end {_left_words(session)} left"]
    leaking = {name: one for name, one in tests.items() if any(one.get(leak) for leak in LEAKED)}
    for name, one in list(leaking.items())[:_LEAKING_SHOWN]:
        lines.append(f"left behind  {_left_words(one):<40}  {name}: {one.get(LEFT, '')}")
    if len(leaking) > _LEAKING_SHOWN:
        lines.append(f"left behind  by {len(leaking) - _LEAKING_SHOWN} more tests")
    for words, key in ((f"memory ({how})", peak), ("CPU", CPU), ("wall", WALL)):
        most = sorted((one for one in tests.items() if key in one[1]), key=lambda one: -float(one[1][key]))[:_WORST]
        lines += [f"most {words:<16} {_number(one.get(key), 'MB' if key == peak else 's'):>12}  {name}" for name, one in most]
    return lines


def junit_of(config: pytest.Config) -> Any:  # Any: LogXML, not exported
    """Return what writes the JUnit file, or None where none is written."""
    try:
        from _pytest.junitxml import xml_key
    except ImportError:
        return None
    return config.stash.get(xml_key, None)


def _leaks(remains: Held) -> Iterator[tuple[str, float]]:
    if remains.handles is not None:
        yield LEAKED[0], remains.handles.total()
    yield LEAKED[1], len(remains.threads)
    if remains.processes is not None:
        yield LEAKED[2], len(remains.processes)


def _sum(parts: Any) -> Held:  # Any: an iterable of Held
    whole = NOTHING
    for part in parts:
        handles = None if whole.handles is None or part.handles is None else whole.handles + part.handles
        processes = None if whole.processes is None or part.processes is None else whole.processes | part.processes
        whole = Held(handles, whole.threads | part.threads, processes)
    return whole


def _without(found: Held, others: list[Held]) -> Held:
    """Return what one fixture made itself: what those that it asked for made is theirs."""
    return found.beyond(_sum(others))


def _some(names: list[str]) -> list[str]:
    more = [f"and {len(names) - _NAMES_SHOWN} more"] if len(names) > _NAMES_SHOWN else []
    return names[:_NAMES_SHOWN] + more


def _left_words(one: dict[str, float | str]) -> str:
    words = [f"{one[name]:.0f} {name.removeprefix('leaked_')}" for name in LEAKED if one.get(name)]
    return ", ".join(words) or "nothing"


def _number(value: float | str | None, unit: str) -> str:
    if not isinstance(value, (int, float)):
        return "unknown"
    return f"{value / 1e6:.1f} MB" if unit == "MB" else f"{value:.2f} s"
