"""What the story and the live status read from Prometheus, in one place: totals, coverage, score, when a counter grew; and delays."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from isolation_monitor.demo.promql import Prometheus, Sample
from isolation_monitor.demo.stack import SERVICE
from isolation_monitor.telemetry import names

_OF_SERVICE = f'service="{SERVICE}"'
VIOLATIONS = f'{names.VIOLATIONS.name}{{{_OF_SERVICE},synthetic="false"}}'
SCORE = f"{names.ISOLATION_SCORE}{{{_OF_SERVICE}}}"


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of the service since its start, by the newest scrape. `verdicts` counts requests."""

    verdicts: dict[str, int]
    exposed: int
    violations: int
    evaluated: dict[str, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(self.verdicts.values())


async def totals(metrics: Prometheus) -> Totals:
    """Read the counters as they are now."""
    requests = await metrics.query(f"sum by (verdict, exposed) ({names.REQUESTS.name}{{{_OF_SERVICE}}})")
    checks = await metrics.query(f'sum by (detector) ({names.CHECKS.name}{{{_OF_SERVICE},result=~"pass|violation"}})')
    verdicts = dict.fromkeys(names.VERDICTS, 0)
    for sample in requests:
        verdicts[sample.labels["verdict"]] += round(sample.value)
    return Totals(
        verdicts=verdicts,
        exposed=round(sum(sample.value for sample in requests if sample.labels["exposed"] == "true")),
        violations=round(await metrics.value(f"sum({VIOLATIONS})") or 0.0),
        evaluated=dict.fromkeys(names.DETECTORS, 0) | {sample.labels["detector"]: round(sample.value) for sample in checks},
    )


def coverage(before: Totals, after: Totals) -> float | None:
    """Return the share (0-1) of the requests between two readings that were judged; None without requests."""
    requests = after.requests - before.requests
    unverified = after.verdicts["unverified"] - before.verdicts["unverified"]
    return None if requests <= 0 else 1.0 - unverified / requests


async def recent_coverage(metrics: Prometheus) -> float | None:
    """Return the share (0-1) of the last minute's requests that were judged; None without requests."""
    requests = f"{names.REQUESTS.name}{{{_OF_SERVICE}"
    share = await metrics.value(f'1 - sum(increase({requests},verdict="unverified"}}[1m])) / (sum(increase({requests}}}[1m])) > 0)')
    return None if share is None else max(0.0, share)


async def score(metrics: Prometheus) -> float | None:
    """Return the isolation score, 0-100; None while it is not measurable."""
    return await metrics.value(SCORE)


async def score_state(metrics: Prometheus) -> str:
    """Return measured, not_measurable or blind; `unknown` before the first evaluation."""
    states = await metrics.query(f"{names.ISOLATION_SCORE_STATE}{{{_OF_SERVICE}}} == 1")
    return states[0].labels["state"] if states else "unknown"


async def lowest_score(metrics: Prometheus, seconds: float) -> float | None:
    """Return the lowest score of the last seconds; None when there was none."""
    return await metrics.value(f"min_over_time({SCORE}[{round(seconds)}s])")


async def all_seen(metrics: Prometheus) -> bool | None:
    """Return True when the score is 100 and every detector has checked something; None before."""
    if await score(metrics) != 100.0:
        return None
    evaluated = (await totals(metrics)).evaluated
    return True if all(evaluated[detector] for detector in names.ALWAYS_AT_WORK) else None


async def violations_of(metrics: Prometheus, kind: str) -> float | None:
    """Return how many violations of a kind were counted since the start, all grades together."""
    return await metrics.value(f"sum({_violations_of(kind)})")


async def grew_at(metrics: Prometheus, kind: str, baseline: float, since: float) -> float | None:
    """Return when (Unix seconds) a scrape after `since` first saw more violations of a kind than `baseline`; None if none did yet."""
    series = await metrics.raw(_violations_of(kind), time.time() - since + 2)
    return next((at for at, value in summed(series) if value > baseline), None)


async def still_for(metrics: Prometheus, seconds: float) -> bool:
    """Return whether no violation was counted within the last seconds."""
    series = await metrics.raw(VIOLATIONS, seconds + 2)
    sums = [value for _, value in summed(series)]
    return len(sums) >= seconds and sums[0] == sums[-1]


async def score_back_at(metrics: Prometheus, since: float) -> float | None:
    """Return when (Unix seconds) the score was 100 for good after `since`; None while it is below, or not measured."""
    series = await metrics.raw(SCORE, time.time() - since + 1)
    samples = [sample for sample in (series[0] if series else []) if sample.time >= since]
    if not samples or samples[-1].value != 100.0:
        return None
    below = [index for index, sample in enumerate(samples) if sample.value != 100.0]
    return samples[below[-1] + 1 if below else 0].time


def summed(series: list[list[Sample]]) -> list[tuple[float, float]]:
    """Return the sum over series at each scrape, oldest first; series of one target share their scrapes' times."""
    sums: dict[float, float] = {}
    for samples in series:
        for sample in samples:
            sums[sample.time] = sums.get(sample.time, 0.0) + sample.value
    return sorted(sums.items())


def delay(at: float, since: float) -> float:
    """Return the seconds from one moment to another, to the millisecond."""
    # Two clocks of one machine with different resolutions: a negative millisecond is zero.
    return round(max(0.0, at - since), 3)


def _violations_of(kind: str) -> str:
    return f'{names.VIOLATIONS.name}{{{_OF_SERVICE},kind="{kind}",synthetic="false"}}'
