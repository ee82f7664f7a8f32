"""The mathematics of gates: bounds that hold at every look, exact bounds of shares, and how many requests a claim needs.

Pure functions of numbers; nothing but `math` is used. Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (arXiv
2103.06476) for the confidence sequence; Clopper and Pearson (1934) for exact bounds; Numerical Recipes 6.4 for the
continued fraction. `docs/gate-statistics.md` says why these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

HalfWidth = Callable[[float, int, float], float]
"""From the standard deviation between blocks, their number and alpha."""

TUNING: Final = 20
"""The confidence sequence is narrowest around so many blocks."""

FIRST_LOOK: Final = 12
"""The delayed sequence begins with so many blocks: of fewer the spread is not known well enough for it."""

_TINY: Final = 1e-300


def half_width(sd: float, blocks: int, alpha: float) -> float:
    """Return how far the true mean can lie below (or above) the mean of so many blocks, whenever one looks.

    The one-sided asymptotic confidence sequence: over all looks together it errs with a chance of about `alpha`
    (0 < alpha < 0.5). `sd` is the standard deviation between blocks.
    """
    a = -2 * math.log(2 * alpha)
    rho2 = (a + math.log(a + 1)) / TUNING
    grown = blocks * rho2 + 1
    return sd * math.sqrt(2 * grown / (blocks * blocks * rho2) * math.log(1 + math.sqrt(grown) / (2 * alpha)))


def delayed_half_width(sd: float, blocks: int, alpha: float) -> float:
    """Return the same for somebody who does not look before `FIRST_LOOK` blocks: narrower, for no chance is spent earlier.

    Robbins' sequence of a flat mixture (1970), one-sided, exact for a Brownian motion that is looked at all the time from then
    on: P(some t >= m: W_t >= sqrt(t (a^2 + ln(t/m)))) <= 1 - F(a) + f(a) (a + f(a) / F(a)), F and f the normal distribution.
    """
    return sd * math.sqrt((_delayed_start(alpha) ** 2 + math.log(blocks / FIRST_LOOK)) / blocks)


@lru_cache(maxsize=256)
def _delayed_start(alpha: float) -> float:
    """Return in standard errors how wide the delayed sequence begins: the a of which the chance above is alpha."""
    low, high = 0.0, 40.0
    while high - low > 1e-12:
        a = (low + high) / 2
        density, below = math.exp(-a * a / 2) / math.sqrt(2 * math.pi), math.erfc(-a / math.sqrt(2)) / 2
        chance = math.erfc(a / math.sqrt(2)) / 2 + density * (a + density / below)
        low, high = (a, high) if chance > alpha else (low, a)
    return high


def mean_bounds(values: Sequence[float], alpha: float, half: HalfWidth) -> tuple[float, float]:
    """Return between what the true mean of blocks lies: each bound errs, over all looks together, with a chance of about `alpha`."""
    mean, sd = mean_and_sd(values)
    width = half(sd, len(values), alpha)
    return mean - width, mean + width


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation; 0 for fewer than two values."""
    if not values:
        return 0.0, 0.0
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def lag1_autocorrelation(values: Sequence[float]) -> float:
    """Return how much each value resembles the one before it, -1 to 1; 0 where nothing varies."""
    mean, _ = mean_and_sd(values)
    spread = math.fsum((value - mean) ** 2 for value in values)
    if spread <= 0:
        return 0.0
    return math.fsum((one - mean) * (other - mean) for one, other in pairwise(values)) / spread


def split_log_e_value(canary: float, control: float, canary_share: float) -> float:
    """Return the logarithm of the evidence that errors fall on the canary more often than its share of traffic (0 to 1).

    An e-value: under equal error rates and independent requests it exceeds K at any look with a chance of at most 1/K.
    The mixture is a Beta of mean `canary_share` and weight 4. Counts may be fractions.
    """
    a, b = 4 * canary_share, 4 * (1 - canary_share)
    mixed = _log_beta(a + canary, b + control) - _log_beta(a, b)
    return mixed - canary * math.log(canary_share) - control * math.log1p(-canary_share)


def share_upper_bound(hits: float, trials: float, alpha: float) -> float:
    """Return the exact one-sided upper bound of a share (Clopper-Pearson). Counts may be fractions: effective sample sizes."""
    if trials <= 0 or hits >= trials:
        return 1.0
    # P(X <= hits) = I_{1-p}(trials - hits, hits + 1) falls as p grows; its slope is a density of Beta.
    a, b = trials - hits, hits + 1
    low, high, p = hits / trials, 1.0, _normal_guess(hits, trials)
    for _ in range(60):
        too_likely = regularised_beta(a, b, 1 - p) - alpha
        low, high = (p, high) if too_likely > 0 else (low, p)
        density = math.exp((a - 1) * math.log1p(-p) + (b - 1) * math.log(p) - _log_beta(a, b))
        step = p + too_likely / density if density > 0 else math.nan
        # Newton's method, kept between what is known to be too low and too high.
        step = step if low < step < high else (low + high) / 2
        if abs(step - p) <= 1e-12:
            break
        p = step
    return p


def share_lower_bound(hits: float, trials: float, alpha: float) -> float:
    """Return the exact one-sided lower bound of a share."""
    return 0.0 if trials <= 0 else 1 - share_upper_bound(trials - hits, trials, alpha)


def two_sided_binomial(hits: float, trials: float, share: float) -> float:
    """Return the chance, twice its smaller tail, of a count as far from `share` (0 < share < 1) as this one."""
    if trials <= 0:
        return 1.0
    at_most = 1.0 if hits >= trials else regularised_beta(trials - hits, hits + 1, 1 - share)
    at_least = 1.0 if hits <= 0 else regularised_beta(hits, trials - hits + 1, share)
    return min(1.0, 2 * min(at_most, at_least))


def rate_excluded(clean: int, certainty: float = 0.95) -> float:
    """Return the rate that so many clean trials exclude: 1 - (1 - c)^(1/n). 299 trials exclude 1 % at 95 %."""
    return 1.0 if clean < 1 else -math.expm1(math.log1p(-certainty) / clean)


def clean_needed(rate: float, certainty: float = 0.95) -> int:
    """Return how many clean trials say, with this certainty, that the rate is below `rate`. 0.001 at 95 %: 2,995."""
    return math.ceil(math.log1p(-certainty) / math.log1p(-rate) - 1e-9)


@lru_cache(maxsize=4096)
def requests_needed(base: float, margin: float, certainty: float = 0.95) -> int:
    """Return how many requests prove, if they fail as often as `base`, that they fail less often than base + margin."""
    alpha, limit = 1 - certainty, base + margin
    if limit >= 1:
        return 1
    # Begins well below the answer, at seven tenths of the normal approximation.
    n = max(clean_needed(limit, certainty), int(0.7 * math.log(1 / alpha) * 0.9 * limit * (1 - limit) / margin**2))
    while not _proves(n, base, limit, alpha):
        n += 1
    return n


def requests_needed_at(share: float, limit: float, certainty: float = 0.95) -> int | None:
    """Return how many requests in all prove that a share lies below `limit` if it stays as it is; None if it never will."""
    if share >= limit:
        return None
    alpha, high = 1 - certainty, 1
    while share_upper_bound(share * high, high, alpha) >= limit:
        high *= 2
        if high > 10**9:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share_upper_bound(share * middle, middle, alpha) >= limit else (low, middle)
    return high


def design_effect(hits: Sequence[float], trials: Sequence[float]) -> float:
    """Return by how much counts of blocks vary more than independent requests would; 1 where that cannot be told."""
    total, all_hits = math.fsum(trials), math.fsum(hits)
    if len(trials) < 10 or all_hits < 10 or all_hits >= total:
        return 1.0
    share = all_hits / total
    variation = math.fsum((hit - trial * share) ** 2 / (trial * share * (1 - share)) for hit, trial in zip(hits, trials, strict=True))
    return max(1.0, variation / (len(trials) - 1))


def regularised_beta(a: float, b: float, x: float) -> float:
    """Return I_x(a, b), the distribution function of Beta(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1 - front * _continued_fraction(b, a, 1 - x) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Lentz's method for the incomplete beta function."""
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or _TINY)
    value = d
    for m in range(1, 10_000):
        twice = a + 2 * m
        for factor in (m * (b - m) * x / ((twice - 1) * twice), -(a + m) * (a + b + m) * x / (twice * (twice + 1))):
            d = 1 / ((1 + factor * d) or _TINY)
            c = (1 + factor / c) or _TINY
            change = c * d
            value *= change
        if -1e-14 < change - 1 < 1e-14:
            break
    return value


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _normal_guess(hits: float, trials: float) -> float:
    share = (hits + 2) / (trials + 4)
    return min(0.999, share + 1.645 * math.sqrt(share * (1 - share) / trials))


def _proves(n: int, base: float, limit: float, alpha: float) -> bool:
    expected = math.floor(base * n + 0.5)
    # The bound lies below the limit exactly when so few errors would be too rare at the limit: cheaper than the bound.
    return expected < limit * n and regularised_beta(n - expected, expected + 1, 1 - limit) < alpha
