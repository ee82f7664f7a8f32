"""The PromQL of a gate: how much counters grew since the rollout began, exactly.

`increase()` alone misses three things: growth between the last sample before the window and the first one in it, a
series that was born with a value above zero, and whole numbers (it extrapolates). So growth is the largest value in
the window less the last one before it, and `increase()` where the counter was reset. Growth between the last scrape
before the start and the start itself (at most one scrape interval) counts as grown: it cannot be told apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from isolation_monitor.telemetry import names

_BEFORE: Final = "1h"
"""How far back the last sample before the start is searched: bridges outages of Prometheus and restarts."""


@dataclass(frozen=True, slots=True)
class Window:
    """From a rollout's start to now. `length_ms` is at least 1."""

    service: str
    arm: str | None
    length_ms: int


def queries(window: Window) -> dict[str, str]:
    """Return one expression for each number of `MetricReading`; each gives one sample, or none without a series."""
    checks = _selector(names.CHECKS, window, by_arm=False)
    down_or_up = (
        f"(up and on (job, instance) group by (job, instance) (last_over_time({checks}[{_BEFORE}])))"
        f" or (up{{service={_quoted(window.service)}}}"
        f" unless on () group by (job, instance) (last_over_time({checks}[{_BEFORE}])))"
    )
    exposed = _counted(_selector(names.REQUESTS, window, 'verdict="isolated"', 'exposed="true"'), window)
    reclassified = _counted(_selector(names.RECLASSIFIED, window, 'exposed="true"'), window)
    return {
        "targets_up": f"count(({down_or_up}) == 1)",
        "targets_down": f"count(({down_or_up}) == 0)",
        "data_age_s": f"time() - max(timestamp({checks}))",
        "checks": _counted(checks, window),
        "requests": _counted(_selector(names.REQUESTS, window), window),
        "exposed_isolated": f"{exposed} - ({reclassified} or {exposed} * 0)",
        "violations": _noticed(_selector(names.VIOLATIONS, window, 'grade=~"crossed|reachable"', 'synthetic!="true"'), window),
        # Set against what came back: neither side may be larger only because increase() extrapolated it.
        "session_leaks": _noticed_exactly(_selector(names.SESSION_LEAKS, window), window),
        "session_leaks_retracted": _counted(_selector(names.SESSION_LEAKS_RETRACTED, window), window),
        "delivered": _counted(_selector(names.EVENT_DELIVERIES, window, 'result="delivered"'), window),
        "cascades": _noticed(_selector(names.CASCADES, window, by_arm=False), window),
        "escaped": _noticed(_selector(names.FAILURES, window, 'outcome="escaped"'), window),
        "escaped_elsewhere": _noticed(
            _selector(names.FAILURES, window, 'outcome="escaped"', f"arm!={_quoted(window.arm or '')}", by_arm=False), window
        ),
        "singleton_reuses": _noticed(
            _selector(names.VIOLATIONS, window, f'kind="{names.INSTANCE_REUSE}"', 'grade=~"crossed|reachable"', 'synthetic!="true"'), window
        ),
        "lost": _counted(_selector(names.EVENT_DELIVERIES, window, 'result="lost"'), window),
    }


def _counted(selector: str, window: Window) -> str:
    """Growth as evidence: exact, and cautious where a series has no past (only what the window itself shows)."""
    span = f"[{window.length_ms}ms]"
    return _exact(selector, window, f"increase({selector}{span})", f"max_over_time({selector}{span}) * 0")


def _noticed(selector: str, window: Window) -> str:
    """Growth as alarm: every way in which a counter can have grown; a series born above zero counts whole."""
    span = f"[{window.length_ms}ms]"
    largest = f"max_over_time({selector}{span})"
    grown = f"((({largest} - {_past(selector, window)}) >= 0) or {largest})"
    return f"sum((increase({selector}{span}) > {grown}) or {grown})"


def _noticed_exactly(selector: str, window: Window) -> str:
    """As `_noticed`, but exact where the series has a past; whole where it has none."""
    return _exact(selector, window, f"max_over_time({selector}[{window.length_ms}ms])")


def _exact(selector: str, window: Window, *without_past: str) -> str:
    """Growth since the window's start, extrapolated only after a reset; `without_past` say what counts for a series born in the window."""
    span = f"[{window.length_ms}ms]"
    after_reset = f"(increase({selector}{span}) and resets({selector}{span}) > 0)"
    grown = f"(max_over_time({selector}{span}) - {_past(selector, window)} >= 0)"
    return f"sum({' or '.join([after_reset, grown, *without_past])})"


def _past(selector: str, window: Window) -> str:
    return f"last_over_time({selector}[{_BEFORE}] offset {window.length_ms}ms)"


def _selector(metric: names.Metric, window: Window, *matchers: str, by_arm: bool = True) -> str:
    everything = [f"service={_quoted(window.service)}", *matchers]
    if by_arm and window.arm is not None:
        everything.append(f"arm={_quoted(window.arm)}")
    return f"{metric.name}{{{','.join(everything)}}}"


def _quoted(text: str) -> str:
    # PromQL's strings are Go's, of which JSON's are a part.
    return json.dumps(text, ensure_ascii=False)
