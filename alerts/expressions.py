"""Building blocks of PromQL, inside what Prometheus 2.42 accepts.

Counters are read in two parts. `increase()` never sees the first value of a series that is born non-zero, so a worker
whose first act is a violation would stay silent: the other part compares a counter with its last known value.
"""

from __future__ import annotations

from collections.abc import Iterable

from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry.names import Metric


def selector(metric: Metric, suffix: str = "", **matchers: str) -> str:
    """Return `name{label="value"}`; a value that starts with `=~`, `!~` or `!=` keeps that operator.

    >>> from isolation_monitor.telemetry import names
    >>> selector(names.VIOLATIONS, kind="wrong_socket", grade="=~crossed|reachable")
    'isolation_violations_total{kind="wrong_socket",grade=~"crossed|reachable"}'
    """
    return matching(metric.name + suffix, matchers.items())


def matching(name: str, matchers: Iterable[tuple[str, str]]) -> str:
    """Return a selector by pairs of label and value, as `selector` takes them; one label may have several."""
    parts = []
    for label, value in matchers:
        operator = value[:2] if value[:2] in ("=~", "!~", "!=") else "="
        parts.append(f'{label}{operator}"{value.removeprefix(operator) if operator != "=" else value}"')
    return f"{name}{{{','.join(parts)}}}" if parts else name


def grew(counter: str, window: Duration, memory: Duration) -> str:
    """Return the series of a counter that grew within the window, with about how much.

    Three parts: growth between scrapes; growth while nobody scraped; a series born, or restarted, non-zero. A target
    that merely comes back with the value it had is none of them: the last value is looked for through stale markers,
    up to `memory` back. A series seen for the first time counts as just born, with all of its value.
    """
    last = f"last_over_time({counter}[{memory}] offset {window})"
    return f"increase({counter}[{window}]) > 0 or {counter} - {last} > 0 or ({counter} > 0 unless {counter} >= {last})"


def growth(counter: str, window: Duration, memory: Duration) -> str:
    """Return by how much each series of a counter grew within the window, all of its value when it was born within it."""
    return f"({counter} unless last_over_time({counter}[{memory}] offset {window})) or increase({counter}[{window}])"


def summed(inner: str, *by: str) -> str:
    """Return the sum by `service` and the given labels."""
    return f"sum by ({', '.join(('service', *by))}) ({inner})"


def p95(histogram: Metric, window: Duration, *by: str) -> str:
    """Return the 95th percentile of a histogram in its own unit (seconds)."""
    return f"histogram_quantile(0.95, {summed(f'rate({histogram.name}_bucket[{window}])', *by, 'le')})"
