"""CI, told in domain words: a run comes in and changes what is known; somebody asks how a suite fares and why a run failed."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from isolation_monitor.collector.ci.domain import (
    FAILED,
    LETTERS,
    Day,
    Evidence,
    FailedTest,
    FailureKind,
    KnownTest,
    Origin,
    Run,
    StoredRun,
    Suite,
    TestResult,
    both_results,
    is_same_repository,
    name_apart,
)
from isolation_monitor.collector.ci.flakiness import HISTORY, REMEMBERED, is_broken, suspects
from isolation_monitor.collector.ci.packing import PackedResult, packed, result_in, unpacked, uses_in
from isolation_monitor.collector.ci.repository import CiRepository
from isolation_monitor.collector.ci.resources import Heaviest, Use, heaviest
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import Database

SHOWN_FAILURES: Final = 200
SHOWN_TESTS: Final = 50
DAYS: Final = 30
FAILURES_SINCE: Final = timedelta(days=14)
TEST_FAILURES: Final = 10
_SUITES_OF_TEST: Final = 50
_UNPACKED_AT_ONCE: Final = 25


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """The tests of a run that failed for one reason, and when that was seen before."""

    kind: FailureKind
    tests: list[FailedTest]
    before: FailedTest | None
    """The nearest earlier failure of this kind."""
    number: int
    """How many tests there are in all; the text of the first few hundred failures of a run is told."""

    @property
    def is_new(self) -> bool:
        return self.before is None

    @property
    def cause(self) -> str:
        """Return the likely cause here: of the same kind, another run's may have been another port or limit."""
        return self.tests[0].cause if self.tests else self.kind.cause


@dataclass(frozen=True, slots=True)
class RunStory:
    """One run with everything that helps to understand it."""

    run: StoredRun
    before: StoredRun | None
    """The run before it that speaks for the suite."""
    groups: list[FailureGroup]
    flaky: list[KnownTest]
    """Tests that failed here and are known to be flaky."""
    slowest: list[tuple[KnownTest, float]]
    resources: RunResources | None
    """None where the run measured none of its tests."""


@dataclass(frozen=True, slots=True)
class RunResources:
    """Which tests of a run used most, and which left something behind; the worst first. `leaked` is how many did in all."""

    memory: list[tuple[KnownTest, Use]]
    cpu: list[tuple[KnownTest, Use]]
    leaking: list[tuple[KnownTest, Use]]
    leaked: int


@dataclass(frozen=True, slots=True)
class SuiteStory:
    """One suite with everything that helps to judge it."""

    suite: Suite
    flaky: list[KnownTest]
    failures: list[FailureKind]
    slowest: list[KnownTest]
    days: list[Day]
    runs: list[StoredRun]


@dataclass(frozen=True, slots=True)
class TestStory:
    """One test over some of its runs, the newest first."""

    test: KnownTest
    is_flaky: bool
    """It is so now: there is evidence of the last two weeks."""
    others: list[KnownTest]
    """The same test as other suites know it."""
    results: list[tuple[StoredRun, PackedResult]]
    older: tuple[datetime, str] | None
    """Start and id of the last run that was looked at, where more came before; a run without the test is not among the results."""
    failures: list[tuple[FailedTest, FailedTest | None]]
    """Its newest failures, each with the nearest earlier one for the same reason, of whatever test."""


class CiService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def store(self, run: Run) -> bool:
        """Keep a run and what follows from it; say whether it is new. It is on disk when this returns.

        Raises:
            StoreUnavailable: nothing was kept; sending it again may succeed.
        """
        async with self._database.writing() as connection:
            return await self._store(CiRepository(connection), run)

    async def store_all(self, runs: Iterable[Run]) -> int:
        """Keep many runs at once, in the order in which they began; return how many were new. Raises what `store` does."""
        async with self._database.writing() as connection:
            repository = CiRepository(connection)
            return sum([await self._store(repository, run) for run in sorted(runs, key=lambda one: one.started_at)])

    async def _store(self, repository: CiRepository, run: Run) -> bool:
        if await repository.run(run.id) is not None:
            return False
        now = self._clock()
        results = await asyncio.to_thread(packed, run.tests)
        keeper = await repository.repository_of(run.suite)
        if run.repository and keeper and not is_same_repository(keeper, run.repository):
            # Two repositories that call a suite `unit` have nothing in common but the word.
            run = replace(run, suite=name_apart(run.suite, run.repository))
        # The lock first: two replicas that store runs of one suite must not both start from what was known before either.
        suite = await repository.lock_suite(run.suite, run.repository, now)
        if not suite.is_of(run.repository):
            # Another replica was first.
            run = replace(run, suite=name_apart(run.suite, run.repository))
            suite = await repository.lock_suite(run.suite, run.repository, now)
        if not await repository.add_run(run, results, now):
            return False
        known = await repository.tests(run.suite, {test.key for test in run.tests})
        others = await repository.results_of_commit(run)
        is_newest = suite.ran(run)
        # Judging thousands of tests takes a while, and others are served meanwhile.
        changed = await asyncio.to_thread(_learn, run, known, others, suite.numbers.is_default_branch, is_newest)
        if is_newest:
            keys = {test.key for test in run.tests}
            suite.judge(run, sum(known[key].is_flaky(run.started_at) for key in keys))
        failing = [test for test in run.tests if test.failing is not None]
        failing.sort(key=lambda test: test.is_flaky)
        await repository.save_tests(run.suite, (known[key] for key in changed))
        await repository.add_failures(run, failing)
        await repository.add_failure_kinds(run, failing)
        await repository.add_day(run, run.started_at.astimezone(UTC).date())
        await repository.save_suite(suite)
        return True

    async def run(self, run_id: str) -> RunStory:
        """Return one run, explained.

        Raises:
            NotFound: there is none with this id, or it has expired.
            StoreUnavailable: the store cannot answer now.
        """
        async with self._database.reading() as connection:
            repository = CiRepository(connection)
            run = await repository.run(run_id)
            if run is None:
                raise NotFound(f"there is no run {run_id[:64]!r}: it was never sent, or is older than runs are kept")
            failed = await repository.failed_tests(run, SHOWN_FAILURES)
            numbers = await repository.failed_by_fingerprint(run_id)
            fingerprints = list(dict.fromkeys(one.fingerprint for one in failed))
            before = await repository.nearest_before(run.suite, fingerprints, run)
            kinds = {one.fingerprint: one for one in await repository.failure_kinds(run.suite, fingerprints)}
            flaky = {one.key: one for one in await repository.flaky_tests(run.suite, run.started_at - REMEMBERED, 10_000)} if failed else {}
            slow, heavy = await asyncio.to_thread(_standing_out, await repository.results(run_id))
            known = await repository.tests(run.suite, {key for key, _ in slow} | heavy.keys)
            slowest = [(known[key], took) for key, took in slow if key in known]
            groups = [
                FailureGroup(
                    kinds[fingerprint],
                    [one for one in failed if one.fingerprint == fingerprint],
                    before.get(fingerprint),
                    numbers[fingerprint],
                )
                for fingerprint in fingerprints
                if fingerprint in kinds
            ]
            # What nobody has seen before comes first, then what hits most tests.
            groups.sort(key=lambda group: (all(one.is_flaky for one in group.tests), not group.is_new, -group.number))
            known_flaky = [flaky[one.key] for one in failed if one.key in flaky]
            return RunStory(run, await repository.run_before(run), groups, known_flaky, slowest, _run_resources(heavy, known))

    async def runs(
        self,
        suite: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[StoredRun]:
        """Return runs, the one that began last first. Raises StoreUnavailable when the store cannot answer."""
        async with self._database.reading() as connection:
            return await CiRepository(connection).runs(suite=suite, branch=branch, commit=commit, after=after, limit=limit)

    async def suites(self, *, with_recent: bool = True) -> list[Suite]:
        """Return every suite, with its recent runs or without. Raises StoreUnavailable when the store cannot answer."""
        async with self._database.reading() as connection:
            return await CiRepository(connection).suites(with_recent=with_recent)

    async def suite(self, name: str) -> SuiteStory:
        """Return one suite, explained.

        Raises:
            NotFound: there is none of this name.
            StoreUnavailable: the store cannot answer now.
        """
        now = self._clock()
        async with self._database.reading() as connection:
            repository = CiRepository(connection)
            suite = await repository.suite(name)
            if suite is None:
                raise NotFound(f"there is no suite {name[:100]!r}: 'isomon ci report --suite NAME' makes one")
            since = now.astimezone(UTC).date() - timedelta(days=DAYS - 1)
            return SuiteStory(
                suite,
                await repository.flaky_tests(name, now - REMEMBERED, SHOWN_TESTS),
                await repository.newest_failure_kinds(name, now - FAILURES_SINCE, None, SHOWN_TESTS),
                await repository.slowest_tests(name, 15),
                await repository.days(name, since, is_reference=suite.numbers.is_default_branch),
                await repository.runs(suite=name, branch=None, commit=None, after=None, limit=20),
            )

    async def test(
        self,
        suite: str | None,
        key: str,
        branch: str | None = None,
        commit: str | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> TestStory:
        """Return one test over `limit` runs of its suite, the newest that had it first. Without `suite` it is the one that ran it last.

        Raises:
            NotFound: no suite has such a test, or that one has not.
            StoreUnavailable: the store cannot answer now.
        """
        async with self._database.reading() as connection:
            repository = CiRepository(connection)
            found = await repository.suites_of_test(key, _SUITES_OF_TEST)
            test = await repository.test(suite, key) if suite is not None else next(iter(found), None)
            if test is None:
                raise NotFound(_no_test(suite, key, [one.suite for one in found]))
            # From the newest run that had it on: it may be gone from the suite, or be skipped by most of its runs.
            results: list[tuple[StoredRun, PackedResult]] = []
            last, older, left = after, None, limit
            while left > 0:
                # Some at a time: all results of one large run are a megabyte.
                number = min(left, _UNPACKED_AT_ONCE)
                runs = await repository.newest_results(test.suite, test.last_seen_at, branch, commit, last, number + 1)
                # To unpack them takes a while, and others are served meanwhile.
                results += await asyncio.to_thread(_of_test, runs[:number], key)
                left -= number
                if len(runs) <= number:
                    break
                last = (runs[number - 1][0].started_at, runs[number - 1][0].id)
                older = None if left else last
            failed = await repository.failures_of_test(test.suite, key, TEST_FAILURES)
            failures = [(one, await repository.nearest_like(test.suite, one)) for one in failed]
            others = [one for one in found if one.suite != test.suite]
            return TestStory(test, test.is_flaky(self._clock()), others, results, older, failures)

    async def flaky(self, suite: str | None = None, limit: int = SHOWN_TESTS) -> list[KnownTest]:
        """Return the tests that are flaky now, the last one seen first. Raises StoreUnavailable when the store cannot answer."""
        async with self._database.reading() as connection:
            return await CiRepository(connection).flaky_tests(suite, self._clock() - REMEMBERED, limit)

    async def failures(
        self, suite: str | None = None, category: str | None = None, since: datetime | None = None, limit: int = SHOWN_TESTS
    ) -> list[FailureKind]:
        """Return the kinds of failures since then (two weeks). Raises StoreUnavailable when the store cannot answer."""
        async with self._database.reading() as connection:
            since = since or self._clock() - FAILURES_SINCE
            return await CiRepository(connection).newest_failure_kinds(suite, since, category, limit)


def _learn(
    run: Run, known: dict[str, KnownTest], packed_others: list[tuple[StoredRun, bytes]], has_default: bool, is_newest: bool
) -> list[str]:
    """Change what is known of the tests of a run; return the keys of those that changed."""
    others = [(other, {key: letter for key, (letter, _) in unpacked(results).items()}) for other, results in packed_others]
    speaks = run.is_reference or not has_default
    enters = speaks and not is_broken(sum(test.result in FAILED for test in run.tests), len(run.tests))
    # One attempt of a job that reports twice runs in two environments (GitHub names all entries of a matrix alike): a test that passes
    # in one of them only is broken in the other, not flaky.
    beside = [theirs for other, theirs in others if _attempt(other.origin) == _attempt(run.origin) is not None]
    attempts = [attempt for other, _ in others if (attempt := _attempt(other.origin)) is not None]
    is_comparable = not beside and len(attempts) == len(set(attempts))
    letters: dict[str, str] = {}
    changed: dict[str, None] = {}
    for test in run.tests:
        key = test.key
        letters[key], changed[key] = LETTERS[test.result], None
        if key not in known:
            known[key] = KnownTest(key, test.group, test.name, test.file, run.started_at, run.started_at, suite=run.suite)
        told = {"P" if theirs[key] == "P" else "F" for theirs in beside if theirs.get(key, "S") != "S"}
        known[key].ran(test, run, speaks=speaks, enters_history=enters and not told)
        if enters and len(told) == 1 and test.result != "skip":
            known[key].contradicted(told.pop(), has_failed=test.result in FAILED)
        if test.is_flaky:
            known[key].suspect(Evidence("same_run", run.started_at, _within(test)))
    for other, theirs in others if is_comparable else ():
        for key in both_results(letters, theirs):
            failed_here = letters[key] in "FE"
            when = max(run.started_at, other.started_at)
            known[key].suspect(Evidence("same_commit", when, _at_commit(run, other, failed_here=failed_here)))
    if enters and is_newest:
        for key, found in suspects({key: test.history for key, test in known.items() if test.last_seen_at == run.started_at}).items():
            says = (
                f"began to fail {found.episodes} times in its last {found.outcomes} runs, more often than changes explain "
                f"(p = {found.p_value:.1g})"
            )
            # Seen when it last failed: a list that is judged anew with each run would never let a mended test go.
            if letters.get(key) in ("F", "E") or "statistical" not in known[key].flaky:
                known[key].suspect(Evidence("statistical", run.started_at, says))
                changed[key] = None
    return list(changed)


def _standing_out(results: bytes | None) -> tuple[list[tuple[str, float]], Heaviest]:
    """Return the tests that took longest in a run, by key, with their seconds, and those that used most."""
    if results is None:
        return [], heaviest({})
    took = {key: duration_s or 0.0 for key, (_, duration_s) in unpacked(results).items()}
    return heapq.nlargest(10, took.items(), key=lambda one: one[1]), heaviest(uses_in(results))


def _run_resources(found: Heaviest, known: dict[str, KnownTest]) -> RunResources | None:
    memory, cpu, leaking = ([(known[key], used) for key, used in some if key in known] for some in (found.memory, found.cpu, found.leaking))
    return RunResources(memory, cpu, leaking, found.leaked) if memory or cpu or leaking else None


def _of_test(runs: list[tuple[StoredRun, bytes]], key: str) -> list[tuple[StoredRun, PackedResult]]:
    """Return what a test did in the runs that had it."""
    return [(run, result) for run, results in runs if (result := result_in(results, key)) is not None]


def _no_test(suite: str | None, key: str, suites: list[str]) -> str:
    shown = repr(key[:40])
    if suites:
        return f"the suite {(suite or '')[:100]!r} has no test {shown}: it is in {', '.join(map(repr, suites[:5]))}"
    return (
        f"there is no test {shown}: its last run is older than runs are kept, or it was renamed (a test with another name is another "
        "test), or the address was cut short; tests are linked from the pages of their runs"
    )


def _attempt(origin: Origin) -> tuple[str, str, int] | None:
    """Return which attempt of which of the CI's runs it was; None where nobody said."""
    return (origin.provider, origin.run_id, origin.attempt) if origin.run_id else None


def _within(test: TestResult) -> str:
    return f"failed {test.failures} and passed {test.passes} times in one run"


def _at_commit(run: Run, other: StoredRun, *, failed_here: bool) -> str:
    failed, passed = (run.id, other.id) if failed_here else (other.id, run.id)
    return f"failed in run {failed} and passed in run {passed}, both of commit {run.commit[:12]}"


__all__ = ["DAYS", "HISTORY", "CiService", "FailureGroup", "RunResources", "RunStory", "SuiteStory", "TestStory"]
