"""Which tests are flaky: fail and pass without a change that explains it.

Three kinds of evidence, put together into one list:

- `same_run`: a test that ran several times in one run had both results (a repeat, or a rerun after a failure).
- `same_commit`: two runs of one commit had both results.
- `statistical`: on the default branch a test begins to fail more often than real defects explain.

The last is an exact one-sided binomial test for each test of a suite. What is counted are episodes of failures (a pass followed by a
failure): a real defect makes one episode however many runs it takes to mend it, a flaky test makes many. Under the null hypothesis
an episode begins in a run with the suite's own rate, taken over all of its tests, and at least once in 200 runs. Many tests are
judged at once, so the false discovery rate is held at 5 % (Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995). Changes of the
outcome over time as the measure of flakiness: Kowalczyk et al., "Modeling and Ranking Flaky Tests at Apple", ICSE-SEIP 2020.

Runs in which a large part of the suite failed say something of the machine, not of its tests, and do not enter a history.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

HISTORY: Final = 100
"""So many outcomes of a test on the default branch are judged, the newest."""
FALSE_DISCOVERIES: Final = 0.05
LEAST_RATE: Final = 0.005
"""A test breaks by a real change at least this often a run: quiet suites must not make two defects of a year look flaky."""
LEAST_TESTS: Final = 20
"""A smaller suite is held to what one of so many is: alone, three defects in 100 runs would do to call its only test flaky."""
MIN_OUTCOMES: Final = 10
MIN_EPISODES: Final = 3
REMEMBERED: Final = timedelta(days=14)
"""A test without new evidence for so long is taken for mended."""

_BROKEN_SHARE: Final = 0.2
_BROKEN_TESTS: Final = 10


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A test that fails in more episodes than defects explain. `p_value` is that of the binomial test."""

    episodes: int
    outcomes: int
    p_value: float


def is_broken(failed: int, tests: int) -> bool:
    """Say whether so many failures are of the run rather than of its tests."""
    return failed >= _BROKEN_TESTS and failed > _BROKEN_SHARE * tests


def episodes(history: str) -> int:
    """Return how often a test began to fail, in a history of `P` and `F`, oldest first.

    >>> episodes("PPFPPFFFP")
    2
    """
    return history.count("PF")


def suspects(histories: Mapping[str, str]) -> dict[str, Suspicion]:
    """Return the tests of one suite, by key, that are flaky by their histories."""
    counted = {key: (episodes(history), len(history)) for key, history in histories.items() if len(history) >= MIN_OUTCOMES}
    pairs = sum(outcomes - 1 for _, outcomes in counted.values())
    if not pairs:
        return {}
    rate = max(LEAST_RATE, sum(found for found, _ in counted.values()) / pairs)
    # With few tests a flaky one would raise the very rate that it is held to: each is held to that of the others.
    total = sum(found for found, _ in counted.values())
    judged: list[tuple[float, str]] = []
    for key, (found, outcomes) in counted.items():
        if found < MIN_EPISODES:
            continue
        others = pairs - (outcomes - 1)
        own_rate = max(LEAST_RATE, (total - found) / others) if others else LEAST_RATE
        judged.append((_at_least(found, outcomes - 1, min(own_rate, rate)), key))
    return {key: Suspicion(*counted[key], p_value=p) for p, key in _discovered(judged, max(LEAST_TESTS, len(counted)))}


def _discovered(judged: list[tuple[float, str]], tests: int) -> Iterable[tuple[float, str]]:
    """Return what the procedure of Benjamini and Hochberg takes for discovered; tests that were not judged have p = 1."""
    judged.sort()
    last = max((rank for rank, (p, _) in enumerate(judged, 1) if p <= FALSE_DISCOVERIES * rank / tests), default=0)
    return judged[:last]


def _at_least(found: int, trials: int, rate: float) -> float:
    """Return the chance of `found` or more successes in so many trials."""
    if rate >= 1:
        return 1.0
    return min(1.0, math.fsum(math.comb(trials, n) * rate**n * (1 - rate) ** (trials - n) for n in range(found, trials + 1)))
