"""The mathematics of gates against statsmodels, and against what gbstats and confseq said (`scripts/oracle_tables.py`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.stats.proportion import binom_test, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW
from statsmodels.tsa.stattools import acf

from isolation_monitor.collector.gates import statistics as own

ORACLES = Path(__file__).parent / "oracles"


def table(library: str, name: str) -> list[dict[str, Any]]:
    rows = json.loads((ORACLES / f"{library}.json").read_text())[name]
    assert len(rows) >= 20
    return list(rows)


# --- statsmodels --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.just(0.0) | st.floats(0.001, 300), st.floats(1, 5000), st.sampled_from([0.0005, 0.01, 0.05, 0.2]))
def test_both_bounds_of_a_share_are_the_ends_of_the_clopper_pearson_interval(hits: float, more: float, alpha: float) -> None:
    low, high = proportion_confint(hits, hits + more, alpha=2 * alpha, method="beta")

    assert own.share_upper_bound(hits, hits + more, alpha) == pytest.approx(high, rel=1e-6)
    assert own.share_lower_bound(hits, hits + more, alpha) == pytest.approx(low, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("clean", [1, 59, 299, 2995, 29956])
@pytest.mark.parametrize("certainty", [0.9, 0.95, 0.99])
def test_what_clean_requests_exclude_is_the_upper_end_of_none(clean: int, certainty: float) -> None:
    _, high = proportion_confint(0, clean, alpha=2 * (1 - certainty), method="beta")

    assert own.rate_excluded(clean, certainty) == pytest.approx(high, rel=1e-9)


@pytest.mark.parametrize("share", [0.001, 0.005, 0.02, 0.05])
def test_the_first_number_of_requests_that_proves_a_limit_is_found(share: float) -> None:
    need = own.requests_needed_at(share, share + 0.01)

    assert need is not None
    enough, too_few = (proportion_confint(share * n, n, alpha=0.1, method="beta")[1] for n in (need, need - 1))
    assert enough < share + 0.01 <= too_few


@settings(deadline=None)
@given(st.integers(0, 800), st.integers(1, 800), st.floats(0.01, 0.99))
def test_the_two_sided_test_doubles_the_smaller_tail(hits: int, misses: int, share: float) -> None:
    tails = [float(binom_test(hits, hits + misses, share, alternative=side)) for side in ("smaller", "larger")]

    assert own.two_sided_binomial(hits, hits + misses, share) == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(41, 3000)), min_size=10, max_size=60))
def test_the_design_effect_is_pearsons_dispersion(blocks: list[tuple[int, int]]) -> None:
    """Of a binomial model of one share for all blocks; what is below 1 counts as 1."""
    hits, trials = [float(hit) for hit, _ in blocks], [float(of) for _, of in blocks]
    if sum(hits) < 10:
        assert own.design_effect(hits, trials) == 1.0
        return
    counts = np.array([hits, [of - hit for hit, of in blocks]]).T
    fitted = GLM(counts, np.ones((len(blocks), 1)), family=Binomial()).fit(tol=1e-12)

    assert own.design_effect(hits, trials) == pytest.approx(max(1.0, fitted.pearson_chi2 / fitted.df_resid), rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=100).filter(lambda values: len(set(values)) > 1))
def test_mean_spread_and_resemblance_of_neighbours(values: list[int]) -> None:
    described = DescrStatsW(np.array(values, dtype=float), ddof=1)
    mean, sd = own.mean_and_sd(values)

    assert mean == pytest.approx(described.mean, rel=1e-9, abs=1e-9)
    assert sd == pytest.approx(described.std, rel=1e-9)
    assert own.lag1_autocorrelation(values) == pytest.approx(acf(values, nlags=1, fft=False)[1], rel=1e-9, abs=1e-9)


# --- gbstats and confseq ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table("gbstats", "two_sided"), ids=lambda row: f"{row['alpha']}-{row['blocks']}")
def test_the_half_width_is_the_two_sided_one_of_gbstats_and_one_more_under_the_logarithm(row: dict[str, Any]) -> None:
    """Squared and divided by the same factor, theirs is ln x and ours ln(1 + x), at half of the two-sided alpha."""
    alpha, blocks = row["alpha"] / 2, row["blocks"]
    a = -2 * math.log(row["alpha"])
    rho2 = (a + math.log(a + 1)) / own.TUNING
    factor = 2 * (blocks * rho2 + 1) / (blocks**2 * rho2)
    theirs, ours = row["half_width"] ** 2 / factor, own.half_width(1.0, blocks, alpha) ** 2 / factor

    assert math.expm1(ours) == pytest.approx(math.exp(theirs), rel=1e-9)


@pytest.mark.parametrize("row", table("confseq", "one_sided"), ids=lambda row: f"{row['alpha']}-{row['blocks']}")
def test_the_half_width_covers_the_exact_boundary_of_confseq_and_wastes_little(row: dict[str, Any]) -> None:
    """Theirs bounds the sum and is found by a root; ours is written down. Below it alpha would be overspent."""
    ratio = own.half_width(1.0, row["blocks"], row["alpha"]) / (row["bound"] / row["blocks"])

    assert 1.0 <= ratio < (1.013 if row["alpha"] <= 0.05 else 1.10)


@pytest.mark.parametrize("row", table("confseq", "splits"), ids=lambda row: f"{row['share']}-{row['canary']}-{row['control']}")
def test_the_split_evidence_is_the_beta_binomial_mixture_of_confseq(row: dict[str, Any]) -> None:
    assert own.split_log_e_value(row["canary"], row["control"], row["share"]) == pytest.approx(row["log_evidence"], rel=1e-9, abs=1e-9)
