"""CI in plain values: a run with its results, what is known of a test and of a suite, and how one more run changes it."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from isolation_monitor.collector.ci.failures import Diagnosis
from isolation_monitor.collector.ci.flakiness import HISTORY, REMEMBERED
from isolation_monitor.collector.ci.resources import Usage, Use

Result = Literal["pass", "fail", "error", "skip"]
LETTERS: Final[Mapping[Result, str]] = {"pass": "P", "fail": "F", "error": "E", "skip": "S"}
FAILED: Final = frozenset({"fail", "error"})

SUITE_CHARS: Final = 100
RECENT_RUNS: Final = 30
"""Runs of a suite that its row knows by itself: what the pages draw, and what a duration is compared with."""
REFERENCE_GONE_AFTER: Final = timedelta(days=14)
"""After so long without a run on the default branch the suite's runs on any branch speak for it."""
TREND_NEW: Final = 3
TREND_OLD: Final = 20
TREND_MIN_OLD: Final = 5
"""The median of the newest three runs is held against that of the twenty before, once there are five: one slow machine is no trend."""
_WEIGHT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Failing:
    """Why a test failed."""

    kind: str
    message: str
    detail: str
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test in one run."""

    group: str
    name: str
    file: str
    result: Result
    duration_s: float | None
    passes: int
    failures: int
    failing: Failing | None
    used: Use | None = None
    """None where nothing was measured."""

    @property
    def key(self) -> str:
        return key_of(self.group, self.name)

    @property
    def is_flaky(self) -> bool:
        """Say whether it had both results in this run."""
        return self.passes > 0 and self.failures > 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run ran. `attempt` counts from 1."""

    provider: str = ""
    run_id: str = ""
    attempt: int = 1
    job: str = ""
    url: str = ""
    pull_request: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one suite."""

    id: str
    suite: str
    started_at: datetime
    duration_s: float
    is_reference: bool
    branch: str
    commit: str
    repository: str
    origin: Origin
    resources: Mapping[str, float]
    is_cut_off: bool
    tests: Sequence[TestResult] = ()

    def count(self, result: Result) -> int:
        return sum(test.result == result for test in self.tests)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it is listed: its numbers without its results."""

    id: str
    suite: str
    started_at: datetime
    received_at: datetime
    duration_s: float
    is_reference: bool
    branch: str
    commit: str
    repository: str
    origin: Origin
    resources: Mapping[str, float]
    is_cut_off: bool
    passed: int
    failed: int
    errors: int
    skipped: int
    flaky: int

    @property
    def tests(self) -> int:
        return self.passed + self.failed + self.errors + self.skipped

    @property
    def pass_ratio(self) -> float | None:
        """Return the share of tests that passed among those that ran, 0-1; None when none ran."""
        return pass_ratio(self.passed, self.failed + self.errors)

    @property
    def is_green(self) -> bool:
        return not self.failed and not self.errors and not self.is_cut_off


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a test is taken for flaky; `says` is a sentence, `at` when it was seen."""

    kind: Literal["same_run", "same_commit", "statistical"]
    at: datetime
    says: str


@dataclass(slots=True)
class KnownTest:
    """A test over all of its runs."""

    key: str
    group: str
    name: str
    file: str
    first_seen_at: datetime
    last_seen_at: datetime
    last_result: str = "S"
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    duration_s: float = 0.0
    longest_s: float = 0.0
    history: str = ""
    failing_since: datetime | None = None
    flaky_at: datetime | None = None
    flaky: dict[str, Evidence] = field(default_factory=dict)
    usage: Usage | None = None
    suite: str = ""

    @property
    def pass_ratio(self) -> float | None:
        return pass_ratio(self.passed, self.failed)

    def is_flaky(self, now: datetime) -> bool:
        return self.flaky_at is not None and self.flaky_at > now - REMEMBERED

    def ran(self, result: TestResult, run: Run, *, speaks: bool, enters_history: bool) -> None:
        """Take in one more result of a run that `speaks` for the suite, or does not.

        A run that began before the last known one changes sums, and not what is newest.
        """
        is_newest = run.started_at >= self.last_seen_at
        if result.result == "skip":
            self.skipped += 1
        elif result.result == "pass":
            self.passed += 1
        else:
            self.failed += 1
        if result.duration_s is not None and result.result != "skip":
            known = self.passed + self.failed > 1
            self.duration_s = self.duration_s + _WEIGHT * (result.duration_s - self.duration_s) if known else result.duration_s
            self.longest_s = max(self.longest_s, result.duration_s)
        if result.used is not None and result.result != "skip":
            self.usage = (self.usage or Usage()).after(result.used, run.started_at)
        self.first_seen_at = min(self.first_seen_at, run.started_at)
        if not is_newest:
            return
        self.last_seen_at, self.last_result, self.file = run.started_at, LETTERS[result.result], result.file or self.file
        if speaks and result.result != "skip":
            has_failed = result.result in FAILED
            if enters_history:
                self.history = (self.history + ("F" if has_failed else "P"))[-HISTORY:]
            self.failing_since = (self.failing_since or run.started_at) if has_failed else None

    def contradicted(self, told: str, *, has_failed: bool) -> None:
        """Take back the outcome `told` by another environment of the same attempt if this one's differs: neither is the test's own."""
        if (told == "F") != has_failed and self.history.endswith(told):
            self.history = self.history[:-1]

    def suspect(self, evidence: Evidence) -> None:
        """Take in evidence of flakiness; the newest of each kind is kept."""
        known = self.flaky.get(evidence.kind)
        if known is None or known.at <= evidence.at:
            self.flaky[evidence.kind] = evidence
        self.flaky_at = max(filter(None, (self.flaky_at, evidence.at)))


@dataclass(frozen=True, slots=True)
class RecentRun:
    """A run as the pages draw it."""

    id: str
    at: datetime
    commit: str
    duration_s: float
    passed: int
    failed: int
    """Failures and errors."""
    memory_peak_bytes: float | None

    @property
    def pass_ratio(self) -> float | None:
        return pass_ratio(self.passed, self.failed)


@dataclass(frozen=True, slots=True)
class Numbers:
    """How a suite is now, by the runs that speak for it. None where nothing is known."""

    pass_ratio: float | None = None
    flaky_ratio: float = 0.0
    flaky: int = 0
    duration_s: float = 0.0
    trend_ratio: float | None = None
    """How long runs take now by how long they took before; 1.25 is a quarter longer."""
    memory_peak_bytes: float | None = None
    tests: int = 0
    failing: int = 0
    is_default_branch: bool = True


def is_same_repository(first: str, second: str) -> bool:
    """Say whether two names are of one repository: forges do not tell capitals apart, and neither do those who type them."""
    return first.casefold() == second.casefold()


def name_apart(suite: str, repository: str) -> str:
    """Return the name under which a repository's suite is kept where another repository has one of that name.

    >>> name_apart("unit", "example/shop")
    'unit (example/shop)'
    """
    name = f"{suite} ({repository})"
    if len(name) <= SUITE_CHARS:
        return name
    mark = hashlib.sha256(repository.encode()).hexdigest()[:8]
    return f"{suite[: SUITE_CHARS - len(mark) - 3]} ({mark})"


@dataclass(slots=True)
class Suite:
    """One suite as its last run left it."""

    name: str
    created_at: datetime
    received_at: datetime
    runs: int = 0
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    reference_at: datetime | None = None
    numbers: Numbers = field(default_factory=Numbers)
    recent: list[RecentRun] = field(default_factory=list)
    repository: str = ""
    """Whose suite it is: of the first run that said so; empty while none has."""

    def is_of(self, repository: str) -> bool:
        """Say whether a run of this repository is one of the suite's."""
        return not repository or not self.repository or is_same_repository(repository, self.repository)

    def counts(self, run: Run) -> bool:
        """Say whether a run speaks for the suite: it is of the default branch, or there has been none of that for two weeks."""
        if run.is_reference or self.reference_at is None or not self.numbers.is_default_branch:
            return True
        return run.started_at - self.reference_at > REFERENCE_GONE_AFTER

    def ran(self, run: Run) -> bool:
        """Add a run to the sums; say whether it is now the newest that speaks for the suite."""
        self.runs += 1
        self.passed += run.count("pass")
        self.failed += run.count("fail")
        self.errors += run.count("error")
        self.skipped += run.count("skip")
        if not self.counts(run):
            return False
        if run.is_reference and not self.numbers.is_default_branch:
            # The first run of the default branch: what others said until now is no measure for it.
            self.recent, self.reference_at = [], None
        failed = run.count("fail") + run.count("error")
        peak = run.resources.get("memory_peak_bytes")
        self.recent.append(RecentRun(run.id, run.started_at, run.commit, run.duration_s, run.count("pass"), failed, peak))
        self.recent.sort(key=lambda one: (one.at, one.id))
        del self.recent[:-RECENT_RUNS]
        if self.reference_at is not None and run.started_at < self.reference_at:
            return False
        self.reference_at = run.started_at
        return True

    def judge(self, run: Run, flaky: int) -> None:
        """Take the numbers of the newest run that speaks for the suite; `flaky` is how many of its tests are."""
        tests = len(run.tests)
        self.numbers = Numbers(
            pass_ratio(run.count("pass"), run.count("fail") + run.count("error")),
            flaky / tests if tests else 0.0,
            flaky,
            run.duration_s,
            trend([one.duration_s for one in self.recent]),
            run.resources.get("memory_peak_bytes"),
            tests,
            run.count("fail") + run.count("error"),
            run.is_reference,
        )


@dataclass(frozen=True, slots=True)
class FailureKind:
    """All failures of a suite with one fingerprint."""

    suite: str
    fingerprint: str
    category: str
    cause: str
    message: str
    example: str
    first_at: datetime
    first_commit: str
    first_run_id: str
    last_at: datetime
    last_commit: str
    last_run_id: str
    runs: int
    failures: int
    example_key: str | None = None
    """Which test `example` names; None where an earlier version stored it."""


@dataclass(frozen=True, slots=True)
class FailedTest:
    """A test that failed in a run, as it is kept."""

    run_id: str
    key: str
    group: str
    name: str
    at: datetime
    commit: str
    branch: str
    is_flaky: bool
    category: str
    fingerprint: str
    cause: str
    kind: str
    message: str
    detail: str


@dataclass(frozen=True, slots=True)
class Day:
    """What the runs of a suite on the branches that speak for it came to on one day."""

    day: Any  # Any: datetime.date; the name is taken
    runs: int
    green: int
    passed: int
    failed: int
    duration_s: float
    longest_s: float


def key_of(group: str, name: str) -> str:
    """Return what a test is known by within its suite."""
    return hashlib.sha256(f"{group}\0{name}".encode()).hexdigest()[:16]


def pass_ratio(passed: int, failed: int) -> float | None:
    """Return the share that passed of what ran, 0-1; None when nothing ran."""
    return passed / (passed + failed) if passed + failed else None


def trend(durations: Sequence[float]) -> float | None:
    """Return how long the newest runs take by how long those before took; None while there are too few. Oldest first.

    >>> trend([60, 60, 60, 60, 60, 90, 90, 90])
    1.5
    """
    new, old = durations[-TREND_NEW:], durations[-TREND_NEW - TREND_OLD : -TREND_NEW]
    if len(old) < TREND_MIN_OLD:
        return None
    before = statistics.median(old)
    return statistics.median(new) / before if before > 0 else None


def both_results(mine: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Return the keys that passed in one of two runs and failed in the other, by their letters."""
    return [key for key, letter in mine.items() if _opposite(letter, others.get(key, "S"))]


def _opposite(one: str, other: str) -> bool:
    return (one == "P" and other in "FE") or (one in "FE" and other == "P")


def numbers_as_json(numbers: Numbers) -> dict[str, Any]:
    return asdict(numbers)


def with_diagnosis(result: TestResult, diagnosis: Diagnosis) -> TestResult:
    """Return a failed result with what its text says."""
    failing = result.failing
    return result if failing is None else replace(result, failing=replace(failing, diagnosis=diagnosis))
