"""The mathematics of gates against the reference's tables and against scipy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from isolation_monitor.collector.gates import statistics as own
from isolation_monitor.collector.gates.comparison import ComparisonPlan


@pytest.mark.parametrize(
    ("rate", "certainty", "need"),
    [(0.01, 0.9, 230), (0.01, 0.95, 299), (0.01, 0.99, 459), (0.001, 0.95, 2995), (0.0001, 0.95, 29956), (0.00001, 0.99, 460515)],
)
def test_clean_checks_needed_are_those_of_the_reference(rate: float, certainty: float, need: int) -> None:
    assert own.clean_needed(rate, certainty) == need
    assert own.rate_excluded(need, certainty) < rate <= own.rate_excluded(need - 1, certainty)


@pytest.mark.parametrize(("base", "need"), [(0, 300), (0.001, 280), (0.005, 420), (0.01, 530), (0.02, 770), (0.05, 1490)])
def test_requests_needed_to_promote_are_those_of_the_reference(base: float, need: int) -> None:
    """The reference rounds up to tens."""
    assert need - 10 < own.requests_needed(base, 0.01) <= need


def test_the_half_width_is_worked_by_hand() -> None:
    # alpha 0.05: a = -2 ln 0.1 = 4.60517, rho2 = (a + ln 5.60517) / 20 = 0.316444; 10 blocks: grown = 4.16444;
    # sqrt(2 * 4.16444 / 31.6444 * ln(1 + 2.04070 / 0.1)) = sqrt(0.263202 * 3.063731) = 0.89798
    assert own.half_width(1.0, 10, 0.05) == pytest.approx(0.89798, abs=2e-5)
    assert own.half_width(0.02, 10, 0.05) == pytest.approx(0.02 * own.half_width(1.0, 10, 0.05))


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.0375, 0.005])
def test_the_delayed_sequence_begins_where_its_chance_is_alpha_and_widens_with_the_logarithm(alpha: float) -> None:
    start = own.delayed_half_width(1.0, own.FIRST_LOOK, alpha) * math.sqrt(own.FIRST_LOOK)
    density, below = stats.norm.pdf(start), stats.norm.cdf(start)

    assert stats.norm.sf(start) + density * (start + density / below) == pytest.approx(alpha, rel=1e-9)
    later = own.delayed_half_width(3.0, 7 * own.FIRST_LOOK, alpha) * math.sqrt(7 * own.FIRST_LOOK) / 3.0
    assert later**2 - start**2 == pytest.approx(math.log(7))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_who_looks_later_needs_less_for_the_same_chance(alpha: float) -> None:
    """Where a stage of an hour is judged: from twelve blocks to sixty."""
    for blocks in (12, 15, 20, 30, 40):
        assert own.delayed_half_width(1.0, blocks, alpha) < own.half_width(1.0, blocks, alpha)


def test_the_delayed_sequence_errs_no_more_often_than_it_says() -> None:
    """20,000 normal walks of known spread, looked at from the 12th block to the 1,000th."""
    alpha, looks = 0.05, 1_000
    bounds = np.array([own.delayed_half_width(1.0, n, alpha) * n for n in range(own.FIRST_LOOK, looks + 1)])
    chance, crossed = np.random.default_rng(8), 0
    for _ in range(20):
        walks = chance.standard_normal((1_000, looks)).cumsum(axis=1)[:, own.FIRST_LOOK - 1 :]
        crossed += int((walks > bounds).any(axis=1).sum())

    # Not wasteful either: time goes in steps and ends, so some of alpha is left.
    assert 0.5 * alpha < crossed / 20_000 < alpha


def test_the_sequence_errs_rarely_although_one_looks_at_every_block() -> None:
    """500 sequences of 60 looks: 5 % may err, and a bound of 9 % is beyond four standard deviations."""
    chance = random.Random(5)
    wrong = 0
    for _ in range(500):
        values: list[float] = []
        for _ in range(60):
            values.append(chance.gauss(0, 1))
            if len(values) >= 10:
                mean, sd = own.mean_and_sd(values)
                if mean - own.half_width(sd, len(values), 0.05) > 0:
                    wrong += 1
                    break

    assert wrong <= 45


@settings(deadline=None)
@given(st.floats(0, 200), st.floats(1, 5000), st.sampled_from([0.001, 0.05, 0.2]))
def test_exact_bounds_are_those_of_scipy(hits: float, more: float, alpha: float) -> None:
    trials = hits + more

    assert own.share_upper_bound(hits, trials, alpha) == pytest.approx(stats.beta.ppf(1 - alpha, hits + 1, trials - hits), rel=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(0, 2000), st.floats(0.01, 0.99))
def test_the_two_sided_test_is_that_of_scipy(hits: int, misses: int, share: float) -> None:
    trials = hits + misses
    expected = min(1.0, 2 * min(stats.binom.cdf(hits, trials, share), stats.binom.sf(hits - 1, trials, share)))

    assert own.two_sided_binomial(hits, trials, share) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0, 500), st.floats(0, 500), st.floats(0.02, 0.98))
def test_the_split_evidence_is_a_beta_mixture(canary: float, control: float, share: float) -> None:
    a, b = 4 * share, 4 * (1 - share)
    expected = special.betaln(a + canary, b + control) - special.betaln(a, b) - canary * math.log(share) - control * math.log(1 - share)

    assert own.split_log_e_value(canary, control, share) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_split_evidence_has_a_mean_of_one_without_harm() -> None:
    """That is what makes it evidence: sum over all outcomes of 30 errors, each with its chance."""
    share = 0.1
    chances = [math.comb(30, k) * share**k * (1 - share) ** (30 - k) for k in range(31)]

    assert sum(p * math.exp(own.split_log_e_value(k, 30 - k, share)) for k, p in enumerate(chances)) == pytest.approx(1.0)


def test_requests_needed_at_a_rate_end_where_the_bound_ends() -> None:
    need = own.requests_needed_at(0.005, 0.015)

    assert need is not None
    assert own.share_upper_bound(0.005 * need, need, 0.05) < 0.015 <= own.share_upper_bound(0.005 * (need - 1), need - 1, 0.05)
    assert own.requests_needed_at(0.02, 0.015) is None


def test_the_design_effect_of_doubled_requests_is_two() -> None:
    """If every request were counted twice, counts would vary twice as much as independent ones."""
    chance = random.Random(7)
    trials = [200.0] * 400
    single = [float(sum(chance.random() < 0.05 for _ in range(200))) for _ in trials]

    assert own.design_effect(single, trials) == pytest.approx(1.0, abs=0.25)
    assert own.design_effect([2 * hits for hits in single], [400.0] * 400) == pytest.approx(2.0, abs=0.5)
    assert own.design_effect([0.0] * 400, trials) == 1.0


def test_resemblance_of_neighbours() -> None:
    assert own.lag1_autocorrelation([1, -1] * 20) < -0.9
    assert own.lag1_autocorrelation([math.sin(n / 10) for n in range(100)]) > 0.9
    assert own.lag1_autocorrelation([3.0] * 10) == 0.0


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("triggers", [("error_rate", "latency", "delivery"), ("error_rate",), ("latency",), ("latency", "delivery")])
def test_alpha_is_spent_once_per_rollout(stages: int, triggers: tuple[str, ...]) -> None:
    spent = 0.0
    for position in range(stages):
        plan = ComparisonPlan(10, position=position, stages=stages, triggers=triggers)
        spent += sum(plan.alpha_of(trigger) for trigger in triggers)
        if "error_rate" in triggers:
            spent += plan.alpha_of("disaster")

    assert spent == pytest.approx(0.05)
