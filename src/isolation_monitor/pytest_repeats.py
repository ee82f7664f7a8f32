"""`pytest --isolation-repeat N`: each selected test N times in one run, to find those that fail now and then, and races.

In rounds by default (every test once, then every test again), so that what one test leaves meets all others; or N copies of an async
test at once on one event loop (`--isolation-repeat-together`). Each repeat is a test case of the same name in the JUnit file: a report
that knows flaky tests sees one. docs/testing.md tells when copies may run together.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from isolation_monitor.pytest_resources import PREFIX, Report, junit_of

ORDERS: Final = ("rounds", "adjacent", "shuffled")
SHARED_INI: Final = "isolation_repeat_shared"
PARAM: Final = "_isolation_repeat"
REPEAT: Final = PREFIX + "repeat"
_ID: Final = re.compile(r"(?:-|(?P<only>\[))repeat-(?P<number>\d+)-of-(?P<of>\d+)\]\Z")
_SEED_INPUT: Final = "isolation_repeat_seed"
_FAILING_SHOWN: Final = 50


@dataclass(slots=True)
class _Copies:
    """What N copies of one test came to; `errors` None where one passed, and no entry for one that never ended."""

    errors: dict[int, BaseException | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Counted:
    repeats: int = 0
    failed: int = 0
    skipped: int = 0
    together: bool = False


class Repeats:
    """The plugin of one pytest process: a whole session, or a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, times: int, *, order: str, seed: int | None, together: bool) -> None:
        self._config = config
        self._times = times
        self._order = order
        told = getattr(config, "workerinput", {}).get(_SEED_INPUT)
        # Workers of pytest-xdist must agree on the order.
        self.seed: int = told if told is not None else seed if seed is not None else random.SystemRandom().randrange(1_000_000)
        self._together = together
        self._shared = frozenset(config.getini(SHARED_INI))
        self._apart: dict[str, str] = {}
        """Tests whose copies cannot run together, and why."""
        self._once = 0
        self._copies: pytest.StashKey[_Copies] = pytest.StashKey()
        self._counted: dict[str, _Counted] = {}
        self._failing: set[tuple[str, str]] = set()

    # --- which tests, how often, in which order -----------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if self._together and (why := self._why_apart(metafunc)) is None:
            return
        if self._together:
            self._apart[metafunc.definition.nodeid] = why or ""
        metafunc.fixturenames.append(PARAM)
        numbers = range(1, self._times + 1)
        metafunc.parametrize(PARAM, numbers, indirect=True, ids=[f"repeat-{number}-of-{self._times}" for number in numbers])

    # Last: what other plugins deselect, or put in an order of their own, is decided by then.
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if PARAM not in getattr(getattr(item, "callspec", None), "params", {}):
                if self._together and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
                    item.stash[self._copies] = _Copies()
                else:
                    self._once += 1
        if self._order == "rounds":
            items.sort(key=_number_of)
        elif self._order == "shuffled":
            random.Random(self.seed).shuffle(items)

    def _why_apart(self, metafunc: pytest.Metafunc) -> str | None:
        """Return why copies of a test must not share one set-up; None where they may."""
        if not inspect.iscoroutinefunction(metafunc.function):
            return "it is not async"
        if metafunc.cls is not None:
            return "it is a method: its copies would share one instance"
        definitions = metafunc.definition._fixtureinfo.name2fixturedefs
        direct = {
            name.strip()
            for mark in metafunc.definition.iter_markers("parametrize")
            for names in mark.args[:1]
            for name in (names.split(",") if isinstance(names, str) else names)
        }
        for name, found in definitions.items():
            # What plugins put around every test has a name of its own kind and belongs to no folder.
            is_plugins_own = name.startswith("_") and not found[-1].baseid
            if found[-1].scope == "function" and name not in direct | self._shared and not is_plugins_own:
                return f"fixture {name} is made for one test alone"
        return None

    # --- N copies at once ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        copies = item.stash.get(self._copies, None)
        if copies is None or not isinstance(item, pytest.Function):
            return None
        from _pytest.runner import runtestprotocol

        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item.obj, before = _at_once(item.obj, self._times, copies), item.obj
        try:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        finally:
            item.obj = before
        for number in range(1, self._times + 1):
            for report in self._reports_of(item, number, reports, copies):
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_of(self, item: pytest.Item, number: int, reports: list[pytest.TestReport], copies: _Copies) -> Iterator[pytest.TestReport]:
        whole_failed = any(report.when == "call" and not report.passed for report in reports)
        for report in reports:
            told = copy.copy(report)
            if report.when == "call":
                error = copies.errors.get(number)
                if error is not None:
                    told = self._report_of(item, error, report)
                elif number in copies.errors and not (whole_failed and number == 1):
                    told.outcome, told.longrepr = "passed", None
            elif number > 1 and report.when == "teardown" and report.failed:
                # One teardown for all: it failed once.
                told.outcome, told.longrepr = "passed", None
            measured = [] if number > 1 else report.user_properties
            told.user_properties = [*measured, (REPEAT, f"{number}/{self._times}"), (f"{REPEAT}_mode", "together")]
            yield told

    @staticmethod
    def _report_of(item: pytest.Item, error: BaseException, whole: pytest.TestReport) -> pytest.TestReport:
        found: pytest.ExceptionInfo[BaseException] = pytest.ExceptionInfo.from_exception(error)
        call: pytest.CallInfo[None] = pytest.CallInfo(
            None, found, start=whole.start, stop=whole.stop, duration=whole.duration, when="call", _ispytest=True
        )
        report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        report.sections = whole.sections
        return report

    # --- what came of it ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Report:
        number = _number_of(item)
        if call.when == "setup" and number:
            item.user_properties.append((REPEAT, f"{number}/{self._times}"))
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        repeat = dict(report.user_properties).get(REPEAT)
        if repeat is None or hasattr(self._config, "workerinput"):
            return
        name = plain(report.nodeid)
        counted = self._counted.setdefault(name, _Counted())
        counted.together = counted.together or report.nodeid == name
        counted.repeats += report.when == "setup"
        # What fails as expected is called skipped, too.
        counted.skipped += report.skipped and not hasattr(report, "wasxfail")
        if report.failed and (name, str(repeat)) not in self._failing:
            self._failing.add((name, str(repeat)))
            counted.failed += 1
        xml = junit_of(self._config)
        if xml is not None and report.nodeid != name:
            # One name for all repeats: by it, reports see that the same test passed and failed.
            xml.node_reporter(report).add_attribute("name", name.rpartition("::")[2])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # Any: pytest-xdist's
        node.workerinput[_SEED_INPUT] = self.seed

    def pytest_report_header(self) -> str:
        order = f"shuffled by --isolation-repeat-seed={self.seed}" if self._order == "shuffled" else self._order
        return f"isolation: each test {self._times} times, {order}{', async ones together where they may' if self._together else ''}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # Any: pytest's own, not exported
        if not self._counted and not self._once:
            return
        terminalreporter.write_sep("-", "isolation: repeats")
        for line in self._lines():
            terminalreporter.write_line(line)

    def _lines(self) -> Iterator[str]:
        failing = sorted(((name, one) for name, one in self._counted.items() if one.failed), key=lambda one: -one[1].failed)
        for name, one in failing[:_FAILING_SHOWN]:
            words = "always" if one.failed == one.repeats else "FLAKY"
            yield f"{one.failed} of {one.repeats} failed  {words:<6}  {name}{' (together)' if one.together else ''}"
        if len(failing) > _FAILING_SHOWN:
            yield f"and {len(failing) - _FAILING_SHOWN} more tests failed at times"
        skipped = sum(not one.failed and one.skipped >= one.repeats for one in self._counted.values())
        held = len(self._counted) - len(failing) - skipped
        if held:
            yield f"{held} of {len(self._counted)} tests held {self._times} times"
        if skipped:
            yield f"{skipped} of {len(self._counted)} tests were skipped each time"
        if self._once:
            yield f"{self._once} ran once: tests of unittest and others that take no parameters cannot be repeated"
        for why, number in Counter(self._apart.values()).most_common():
            yield f"{number} tests were repeated one after the other: {why}"


@pytest.fixture
def _isolation_repeat(request: pytest.FixtureRequest) -> object:
    """The number of this repeat, from 1."""
    return getattr(request, "param", None)


def plain(nodeid: str) -> str:
    """Return a test's node id without the repeat.

    >>> plain("test_a.py::test_one[x-repeat-3-of-20]")
    'test_a.py::test_one[x]'
    >>> plain("test_a.py::test_two[repeat-3-of-20]")
    'test_a.py::test_two'
    """
    found = _ID.search(nodeid)
    return nodeid if found is None else nodeid[: found.start()] + ("" if found["only"] else "]")


def _number_of(item: pytest.Item) -> int:
    number = getattr(getattr(item, "callspec", None), "params", {}).get(PARAM, 0)
    return number if isinstance(number, int) else 0


def _at_once(test: Callable[..., Any], times: int, copies: _Copies) -> Callable[..., Any]:  # Any: whatever the test takes
    """Return a coroutine function that runs `times` of `test` at once and keeps what each came to."""

    async def one(number: int, arguments: dict[str, Any], start: asyncio.Event) -> None:  # Any: as above
        # All stand ready before the first begins.
        await start.wait()
        try:
            await test(**arguments)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError, pytest.exit.Exception):
            raise
        except BaseException as error:  # pytest's own outcomes are no Exceptions
            copies.errors[number] = error
        else:
            copies.errors[number] = None

    @functools.wraps(test)
    async def together(**arguments: Any) -> None:  # Any: as above
        copies.errors.clear()
        start = asyncio.Event()
        tasks = [asyncio.ensure_future(one(number, arguments, start)) for number in range(1, times + 1)]
        start.set()
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return together
