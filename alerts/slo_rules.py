"""Rules generated from the SLO file: multi-window, multi-burn-rate alerts as Google's SRE workbook has them (chapter 5).

Every half minute one pair of series an objective and source says how many events there were since the last time, and how
many of them were bad. All windows are sums over these few series, so that a window of 30 days never reads a histogram, a
busy hour weighs more than a quiet one, and the parts of an objective add up. Growth is taken from one evaluation to the
next, so nothing is counted twice or falls between; a series that is born bad counts from its birth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from isolation_monitor.alerts.expressions import matching, summed
from isolation_monitor.alerts.model import SERVICE, SLO, TIMES, Alert, Group, Recording
from isolation_monitor.alerts.slo import LATENCY_METRICS, BurnAlert, Objective, Slos
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics.exposition import float_text

TICK: Final = Duration("30s")
"""Between two counts of events; a page comes at most so much later."""
MEMORY: Final = Duration("5m")
"""How long a target may be away without losing what happened meanwhile."""
DAYS_INTERVAL: Final = Duration("1m")

EVENTS: Final = f"service_slo:events:increase{TICK}"
BAD: Final = f"service_slo:bad_events:increase{TICK}"
"""Both by `slo` and `source`; a source without events has neither."""
BUDGET: Final = "slo:error_budget:ratio"
"""By `slo`: the share of events that may be bad, 0-1."""

RUNS_OF_USERS: Final = "complete|failed|incomplete"
"""A run that its user cancelled or left says nothing about the service."""
BAD_RUNS: Final = "failed|incomplete"
HANDSHAKES_OF_USERS: Final = "accepted|no_principal|principal_disagrees|timed_out|error"
"""A refusal is the service at work: somebody may not enter. Who was let in for the wrong user has alerts of its own."""
BAD_HANDSHAKES: Final = "timed_out|error"
SERVER_ERRORS: Final = "5.."


def burn_rate(window: Duration) -> str:
    """Name the series of the burn rate over a window, by `service` and `slo`: 1 spends the budget in the SLO's window."""
    return f"service_slo:budget_burn:rate{window}"


def budget_left(slos: Slos) -> str:
    """Name the series of the share of the budget that is left, 1 for all of it, below 0 for an overspent one."""
    return f"service_slo:budget_left:ratio{slos.window}"


def bad_in_window(slos: Slos) -> str:
    """Name the series of the number of bad events in the whole window."""
    return f"service_slo:bad_events:sum{slos.window}"


def groups(slos: Slos) -> list[Group]:
    """Return the group that watches hours, the fast one, and the group that watches days."""
    pages, tickets = slos.burns("page"), slos.burns("ticket")
    hours = _windows(pages)
    days = [window for window in _windows(tickets) if window not in hours]
    events = [rule for objective in slos.objectives for rule in _events(objective)]
    budgets = [Recording(BUDGET, f"vector({objective.budget!r})", {"slo": objective.name}) for objective in slos.objectives]
    return [
        Group("isolation-slo", TICK, [*budgets, *events, *(_burn(window) for window in hours), _burns_fast(slos, pages)]),
        Group(
            "isolation-slo-days",
            DAYS_INTERVAL,
            [*(_burn(window) for window in days), *_left(slos), _burns_slowly(slos, tickets), _spent(slos)],
        ),
    ]


def _windows(alerts: Sequence[BurnAlert]) -> list[Duration]:
    return sorted({window for alert in alerts for window in (alert.short, alert.long)}, key=lambda window: window.seconds)


# --- events -----------------------------------------------------------------------------------------------------------


def grown(counter: str) -> str:
    """Return by how much each series of a counter grew since the last evaluation, whoever was restarted or away meanwhile.

    Growth across an absence of up to `MEMORY` is found when the target is back. A value without one before it was born
    or born again, and counts in full, when its target was read then: else we do not know since when it stands.
    """
    before = f"last_over_time({counter}[{MEMORY}] offset {TICK})"
    was_read = f"max_over_time(up[{MEMORY}] offset {TICK}) == 1"
    return f"{counter} - {before} >= 0 or {counter} and on (job, instance) {was_read}"


def _events(objective: Objective) -> list[Recording]:
    if objective.indicator in LATENCY_METRICS:
        return _latency(objective, LATENCY_METRICS[objective.indicator])
    every = {
        "requests": [_requests(objective, "_count", *bad) for bad in ((), (("http_response_status_code", f"=~{SERVER_ERRORS}"),))],
        "runs": [_chosen(objective, names.RUNS, outcome) for outcome in (RUNS_OF_USERS, BAD_RUNS)],
        "handshakes": [_chosen(objective, names.WEBSOCKET_CONNECTIONS, outcome) for outcome in (HANDSHAKES_OF_USERS, BAD_HANDSHAKES)],
    }
    found = []
    for source in objective.of:
        total, bad = every[source]
        labels = {"slo": objective.name, "source": source}
        found += [
            Recording(EVENTS, summed(grown(total)), labels),
            # Status codes that never came have no series: then none was bad.
            Recording(BAD, f"{summed(grown(bad))}\nor on (service)\n0 * {matching(EVENTS, labels.items())}", labels),
        ]
    return found


def _latency(objective: Objective, metric: names.Metric) -> list[Recording]:
    if metric is names.HTTP_DURATION:
        # Errors are quick or slow by chance; availability counts them.
        source, answered = "requests", ("http_response_status_code", f"!~{SERVER_ERRORS}")
        total = _requests(objective, "_count", answered)
        in_time = _requests(objective, "_bucket", answered, ("le", float_text(objective.within_s)))
    else:
        source = "runs"
        total = matching(f"{metric.name}_count", _services(objective))
        in_time = matching(f"{metric.name}_bucket", [*_services(objective), ("le", float_text(objective.within_s))])
    labels = {"slo": objective.name, "source": source}
    return [
        Recording(EVENTS, summed(grown(total)), labels),
        Recording(BAD, f"{matching(EVENTS, labels.items())} - on (service)\n{summed(grown(in_time))}", labels),
    ]


def _requests(objective: Objective, suffix: str, *matchers: tuple[str, str]) -> str:
    routes = [
        ("http_route", f"{operator}{routes}") for operator, routes in (("=~", objective.routes), ("!~", objective.routes_except)) if routes
    ]
    return matching(f"{names.HTTP_DURATION.name}{suffix}", [*_services(objective), *routes, *matchers])


def _chosen(objective: Objective, metric: names.Metric, outcome: str) -> str:
    return matching(metric.name, [*_services(objective), ("outcome", f"=~{outcome}")])


def _services(objective: Objective) -> list[tuple[str, str]]:
    # A drill of a service is judged as the service itself.
    return [] if objective.services is None else [("service", f"=~(drill:)?({objective.services})(:.*)?")]


# --- windows ----------------------------------------------------------------------------------------------------------


def _sum(name: str, window: Duration) -> str:
    return f"sum by (service, slo) (sum_over_time({name}[{window}]))"


def _burnt(bad: str, window: Duration) -> str:
    return f"{bad} / ({_sum(EVENTS, window)} > 0)\n/ on (slo) group_left () {BUDGET}"


def _burn(window: Duration) -> Recording:
    return Recording(burn_rate(window), _burnt(_sum(BAD, window), window))


def _left(slos: Slos) -> list[Recording]:
    # Summing a month is what these rules cost most: once for the budget and its alert.
    bad = bad_in_window(slos)
    return [Recording(bad, _sum(BAD, slos.window)), Recording(budget_left(slos), f"1 - {_burnt(bad, slos.window)}")]


# --- alerts -----------------------------------------------------------------------------------------------------------


def _burning(slos: Slos, alerts: Sequence[BurnAlert]) -> str:
    parts = []
    for alert in alerts:
        rate = f"{alert.burn_rate(slos.window):g}"
        enough = f"{_sum(BAD, alert.long)} >= {slos.min_bad_events}"
        parts.append(f"(\n{burn_rate(alert.long)} > {rate}\nand\n{burn_rate(alert.short)} > {rate}\nand\n{enough}\n)")
    return "\nor\n".join(parts)


def _burns_fast(slos: Slos, alerts: Sequence[BurnAlert]) -> Alert:
    return Alert(
        "SloBurnsFast",
        _burning(slos, alerts),
        "error",
        "page",
        summary=f"{SERVICE}: users feel it, {SLO} is being broken fast",
        description=(
            f"{SERVICE} spends what {SLO} allows to fail in {slos.window} {TIMES} times too fast: {_in_words(alerts)} of it is gone. "
            "The share of bad events, by source and by endpoint, is on the dashboard."
        ),
        dashboard="experience",
    )


def _burns_slowly(slos: Slos, alerts: Sequence[BurnAlert]) -> Alert:
    return Alert(
        "SloBurnsSlowly",
        _burning(slos, alerts),
        "warning",
        "ticket",
        summary=f"{SERVICE}: {SLO} will not be kept if this goes on",
        description=(
            f"{SERVICE} spends what {SLO} allows to fail in {slos.window} {TIMES} times too fast: {_in_words(alerts)} of it is gone. "
            "No hurry for tonight; at this pace the promise is broken before its window ends."
        ),
        dashboard="experience",
    )


def _in_words(alerts: Sequence[BurnAlert]) -> str:
    return " or ".join(f"{alert.budget_share * 100:g} % in {alert.long}" for alert in alerts)


def _spent(slos: Slos) -> Alert:
    return Alert(
        "SloBudgetSpent",
        f"{budget_left(slos)} <= 0\nand\n{bad_in_window(slos)} >= {slos.min_bad_events}",
        "error",
        "ticket",
        summary=f"{SERVICE}: {SLO} was not kept",
        description=(
            f"More events of {SERVICE} failed in the last {slos.window} than {SLO} allows. "
            "Changes that are not repairs wait until the budget is back; failures leave the window as they grow old."
        ),
        dashboard="experience",
    )
