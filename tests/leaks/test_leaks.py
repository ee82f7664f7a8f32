"""The collection as tests: every bug harms, every bug is seen, no fixed twin and no clean service is blamed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from tests.leaks import catalogue, harness
from tests.leaks.case import Case, Variant
from tests.leaks.harness import Run, Watch

F = TypeVar("F", bound=Callable[..., Any])

CASES = catalogue.all_cases()
BUGS = [case for case in CASES if not case.is_clean]
QUICK = {case.name for case in {case.family: case for case in reversed(CASES)}.values()}
"""The first case of each family runs in `make test`; the whole matrix takes minutes and runs in `make test-slow`."""
AT_ONCE = 3
"""Runs at a time: most of a run is waiting."""

FIRST_RUN: dict[str, tuple[Variant, Watch]] = {}
_pool = ThreadPoolExecutor(AT_ONCE)


def each(cases: list[Case], variant: Variant, watch: Watch, all_slow: bool = False) -> Callable[[F], F]:
    """Parametrize a test by cases. It also says which run the test asks for first, so that it can be made ahead."""
    marks = {case.name: () if case.name in QUICK and not all_slow else (pytest.mark.slow,) for case in cases}

    def decorate(test: F) -> F:
        FIRST_RUN[test.__name__] = (variant, watch)
        return pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=marks[case.name]) for case in cases])(test)

    return decorate


@pytest.fixture(scope="session", autouse=True)
def runs_ahead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start the runs of all selected tests in their order, some at a time; under xdist each worker runs its own tests only."""
    if not hasattr(request.config, "workerinput"):
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.function.__module__ == __name__ and item.originalname in FIRST_RUN:
                case = item.callspec.params["case"]
                if not harness.missing(case):
                    _run_once(case.name, *FIRST_RUN[item.originalname])
    yield
    _pool.shutdown(cancel_futures=True)


@functools.cache
def _run_once(name: str, variant: Variant, watch: Watch) -> Future[Run]:
    return _pool.submit(harness.run, next(case for case in CASES if case.name == name), variant, watch)


def run(case: Case, variant: Variant, watch: Watch) -> Run:
    """One run of each combination serves all tests of this process."""
    if module := harness.missing(case):
        pytest.skip(f"{module} is not installed")
    return _run_once(case.name, variant, watch).result()


def shown(violations: list[dict[str, object]]) -> str:
    return "\n".join(f"{v['kind']} {v['grade']}: {v['summary']}" for v in violations)


@each(BUGS, "buggy", "off", all_slow=True)
def test_the_bug_harms_without_the_monitor(case: Case) -> None:
    """A case that proves no harm judges nothing."""
    assert run(case, "buggy", "off").harm


@each(CASES, "fixed", "off", all_slow=True)
def test_the_fixed_twin_harms_nobody_without_the_monitor(case: Case) -> None:
    assert run(case, "fixed", "off").harm == []


@each(CASES, "fixed", "two-lines")
def test_the_fixed_twin_is_not_blamed(case: Case) -> None:
    """A false alarm is as bad as a miss."""
    watched = run(case, "fixed", "two-lines")

    assert watched.harm == []
    assert watched.alarms == [], shown(watched.alarms)


@each([case for case in CASES if case.annotate], "fixed", "annotated", all_slow=True)
def test_the_annotated_fixed_twin_is_not_blamed(case: Case) -> None:
    watched = run(case, "fixed", "annotated")

    assert watched.harm == []
    assert watched.alarms == [], shown(watched.alarms)


@each(BUGS, "buggy", "two-lines")
def test_the_bug_is_reported(case: Case) -> None:
    """With two lines, else with the case's few declarations; and monitor mode changes no answer: the harm stays."""
    watched = run(case, "buggy", "two-lines")
    if not watched.detected(case.expects) and case.declarations:
        watched = run(case, "buggy", "annotated")

    assert watched.harm
    if case.limit:
        assert len(case.limit.split()) >= 6, "a limit is stated as a sentence that a user of the product understands"
    else:
        assert watched.detected(case.expects), f"{case.summary}\nreported instead: {shown(watched.violations) or 'nothing'}"
