"""All PromQL of the dashboards. Prefers recorded series; counts of violations always come from the counters themselves.

Every selector carries the chosen service, and every scraped series the chosen instance too; recorded series have no
instance. Tiles count over the chosen time range, graphs over `$__rate_interval`. Inside what Prometheus 2.42 accepts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from isolation_monitor.alerts import slo_rules
from isolation_monitor.alerts.prometheus_config import DRILL_SERVICES
from isolation_monitor.alerts.recording import IDS_RESOLVED, RUNS_IN_ORDER
from isolation_monitor.alerts.slo import Slos
from isolation_monitor.alerts.slo_rules import BAD, burn_rate
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.names import Metric

STEP: Final = "$__rate_interval"
RANGE: Final = "$__range"

GROWTH_WINDOW: Final = "30m"
"""Shorter windows see the saw tooth of the garbage collector."""

SCORED_GRADES: Final = ("crossed", "reachable")
"""Grades that lower the score."""
ONE_OF_SCORED: Final = "=~" + "|".join(SCORED_GRADES)
SCORED_KINDS: Final = tuple(kind for kind, grades in names.KIND_GRADES.items() if set(grades) & set(SCORED_GRADES))
HYGIENE_KINDS: Final = tuple(kind for kind, grades in names.KIND_GRADES.items() if "hygiene" in grades)

_RECORDED: Final = 'service=~"$service"'
_SCRAPED: Final = 'service=~"$service",instance=~"$instance"'

SERVICES: Final = f'label_values({names.ISOLATION_SCORE_STATE}{{service!~"{DRILL_SERVICES}"}}, service)'
"""Values of the variable `service`: a service is listed as soon as it was scraped once, measurable or not."""
EVERY_SERVICE: Final = "[^:]+"
"""What `All` chooses: the invented services of alert drills have a colon in their names, and users' numbers ignore them."""
INSTANCES: Final = f'label_values({names.MONITOR_INFO.name}{{service=~"$service"}}, instance)'


# --- building blocks --------------------------------------------------------------------------------------------------


def recorded(name: str, **matchers: str) -> str:
    """Return the selector of a recorded series of the chosen services."""
    return f"{name}{{{_join(_RECORDED, matchers)}}}"


def scraped(metric: Metric, suffix: str = "", **matchers: str) -> str:
    """Return the selector of an exposed series of the chosen services and instances."""
    return f"{metric.name}{suffix}{{{_join(_SCRAPED, matchers)}}}"


def grown(metric: Metric, window: str, *by: str, suffix: str = "", **matchers: str) -> str:
    """Return by how much a counter grew within the window, summed by the labels."""
    return f"sum{_by(by)} (increase({scraped(metric, suffix, **matchers)}[{window}]))"


def rate(metric: Metric, *by: str, suffix: str = "", **matchers: str) -> str:
    """Return a counter's rate per second, summed by the labels."""
    return f"sum{_by(by)} (rate({scraped(metric, suffix, **matchers)}[{STEP}]))"


def quantile(q: float, metric: Metric, *by: str, **matchers: str) -> str:
    """Return a quantile of a histogram in its own unit, by the labels; no sample while nothing was observed."""
    # `>= 0` drops NaN, which an idle histogram gives.
    return f"histogram_quantile({q:g}, {rate(metric, *by, 'le', suffix='_bucket', **matchers)}) >= 0"


def _join(first: str, matchers: dict[str, str]) -> str:
    parts = [first]
    for label, value in matchers.items():
        operator = value[:2] if value[:2] in ("=~", "!~", "!=") else "="
        parts.append(f'{label}{operator}"{value if operator == "=" else value[2:]}"')
    return ",".join(parts)


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _one_of(values: tuple[str, ...]) -> str:
    return "=~" + "|".join(values)


# --- the answers of the first row -------------------------------------------------------------------------------------


def violations_of_grade(grade: str) -> str:
    """Violations of one grade in the chosen time. A violation whose grade rises counts in each: grades are not summed."""
    return grown(names.VIOLATIONS, RANGE, grade=grade, synthetic="false")


def lowest_score() -> str:
    """The lowest score of the chosen services, rounded down to hundredths: 99.999 must not read 100."""
    return f"floor(100 * min({recorded(names.ISOLATION_SCORE)})) / 100"


def blindness() -> str:
    """0 measured, 1 nothing could leak, 2 blind: the worst of the chosen services."""
    # Each state is 0 or 1 for every service; blind and not measurable exclude each other.
    idle, blind = (recorded(names.ISOLATION_SCORE_STATE, state=state) for state in ("not_measurable", "blind"))
    return f"max(sum by (service) ({idle}) + 2 * sum by (service) ({blind}))"


def coverage(window: str) -> str:
    """Share of requests that could be judged, 0-1, of the least covered service."""
    return f"min({_share_of_requests(window, 'service', verdict='!=unverified')})"


def exposure(window: str) -> str:
    """Share of requests that had a real chance to be violated, 0-1, over all chosen services."""
    return _share_of_requests(window, exposed="true")


def _share_of_requests(window: str, *by: str, **matchers: str) -> str:
    return f"{grown(names.REQUESTS, window, *by, **matchers)} / ({grown(names.REQUESTS, window, *by)} > 0)"


def pages_firing() -> str:
    """Pages firing now. No sample when the dead man's switch is not firing either: then nobody evaluates the rules."""
    # The switch is added and taken off again, so that quiet reads 0 and dead rules read as nothing.
    pages = f'ALERTS{{alertstate="firing",action="page",{_ALERTED}}}'
    return f'count({pages} or ALERTS{{alertstate="firing",alertname="DeadMansSwitch"}}) - 1'


def alerts_firing() -> str:
    """One sample for each firing alert. The dead man's switch is always one of them."""
    return f'ALERTS{{alertstate="firing",{_ALERTED}}}'


# Alerts on the collector and on alerting itself carry these names as their service: they concern everybody.
# Planted faults raise the same alerts, up to the receiver for drills: they are nobody's pages.
_ALERTED: Final = 'service=~"$service|isolation-collector|isolation-containers|isolation-monitor|unknown",synthetic!="true"'


def public_numbers() -> dict[str, str]:
    """The recorded series that this product's users query by name, each by service; percentages rounded down."""
    # The maximum of one: a table joins series whose labels are the same, and a name would tell them apart.
    by_service = {name: f"max by (service) ({recorded(name)})" for name in names.PUBLIC_SERIES}
    for percentage in (names.ISOLATION_SCORE, names.FAILURE_CONTAINMENT_RATE, names.EVENT_DELIVERY_RATE):
        by_service[percentage] = f"floor(100 * {by_service[percentage]}) / 100"
    return by_service


# --- violations and verdicts ------------------------------------------------------------------------------------------


def scored_violations() -> str:
    return grown(names.VIOLATIONS, STEP, "kind", kind=_one_of(SCORED_KINDS), grade=ONE_OF_SCORED, synthetic="false")


def hygiene_violations() -> str:
    return grown(names.VIOLATIONS, STEP, "kind", kind=_one_of(HYGIENE_KINDS), grade="hygiene", synthetic="false")


def requests_by_verdict() -> str:
    return rate(names.REQUESTS, "verdict")


def verdict_share(verdict: str) -> str:
    """Share of all requests with this verdict, 0-1."""
    return f"{rate(names.REQUESTS, verdict=verdict)} / ({rate(names.REQUESTS)} > 0)"


def score_states() -> str:
    """0 measured, 1 nothing could leak, 2 blind, by service."""
    idle, blind = (recorded(names.ISOLATION_SCORE_STATE, state=state) for state in ("not_measurable", "blind"))
    return f"sum by (service) ({idle}) + 2 * sum by (service) ({blind})"


def violation_marks() -> str:
    """Above zero wherever violations of a kind were found: for annotations."""
    return f"{grown(names.VIOLATIONS, STEP, 'service', 'kind', grade=ONE_OF_SCORED, synthetic='false')} > 0"


def alert_marks() -> str:
    """Firing alerts, without the one that always fires: for annotations."""
    return f'ALERTS{{alertstate="firing",alertname!="DeadMansSwitch",{_ALERTED}}}'


# --- containment, instances, sessions, context ------------------------------------------------------------------------


def p95_ms(metric: Metric, label: str) -> str:
    """95th percentile in milliseconds by service and a label."""
    return f"1000 * {quantile(0.95, metric, 'service', label)}"


def half_ms(metric: Metric, label: str) -> str:
    """Median in milliseconds by service and a label."""
    return f"1000 * {quantile(0.5, metric, 'service', label)}"


def share_of_pool_used() -> str:
    """Connections in use as a share of all that the pool may open, 0-1, by service and pool."""
    by = "service, db_client_connection_pool_name"
    used = scraped(names.DB_CONNECTION_COUNT, db_client_connection_state="used")
    return f"sum by ({by}) ({used}) / (sum by ({by}) ({scraped(names.DB_CONNECTION_MAX)}) > 0)"


def found(kind: str, window: str, *by: str, **matchers: str) -> str:
    """Violations of one kind that were found within the window, planted ones left out."""
    return grown(names.VIOLATIONS, window, *by, kind=kind, synthetic="false", **matchers)


def slowest_ms(metric: Metric) -> str:
    """95th percentile in milliseconds over all that the histogram tells apart."""
    return f"1000 * {quantile(0.95, metric)}"


def lowest_containment() -> str:
    """The lowest containment rate of the chosen services, 0-100, rounded down to hundredths."""
    return f"floor(100 * min({recorded(names.FAILURE_CONTAINMENT_RATE)})) / 100"


def fullest_pool() -> str:
    """Use of the fullest pool of the chosen services, 0-1."""
    return f"max({share_of_pool_used()})"


def pool_connections() -> str:
    """Connections of all pools, by state."""
    return f"sum by (db_client_connection_state) ({scraped(names.DB_CONNECTION_COUNT)})"


# --- run ids ----------------------------------------------------------------------------------------------------------


def lowest_resolved() -> str:
    """The lowest share of run ids resolved of the chosen services, 0-100, rounded down to hundredths."""
    return f"floor(100 * min({recorded(IDS_RESOLVED)})) / 100"


def resolved() -> str:
    """Share of run ids resolved, 0-100, by service."""
    return f"min by (service) ({recorded(IDS_RESOLVED)})"


def circuits_open() -> str:
    """Workers that leave a source alone for now, by source."""
    return f"sum by (source) ({scraped(names.ID_CIRCUIT_OPEN)})"


# --- flags ------------------------------------------------------------------------------------------------------------

_ARMS: Final = "=~" + "|".join(names.VARIANTS)


def share_with_variant(*by: str, **matchers: str) -> str:
    """Share of the requests with an arm that were given `on`, 0-1: the stage as users meet it."""
    given_on, every = (rate(names.GATE_REQUESTS, *by, arm=arm, **matchers) for arm in ("on", _ARMS))
    return f"{given_on} / ({every} > 0)"


def error_share_of_arms(**matchers: str) -> str:
    """Share of the requests of each arm that failed, 0-1, by rollout and arm."""
    failed = rate(names.GATE_REQUESTS, "rollout", "arm", arm=_ARMS, outcome="error", **matchers)
    return f"{failed} / ({rate(names.GATE_REQUESTS, 'rollout', 'arm', arm=_ARMS, **matchers)} > 0)"


def out_of_touch(*by: str) -> str:
    """Workers that have heard nothing of the flags' rules for a minute."""
    return f"sum{_by(by)} ({scraped(names.FLAG_STALE)})"


# --- the process ------------------------------------------------------------------------------------------------------


def holds(resource: str, *by: str) -> str:
    """What the processes hold of a resource now: bytes, or a number."""
    return f"sum{_by(by)} ({scraped(names.PROCESS_RESOURCES, resource=resource)})"


def growth_per_hour(resource: str) -> str:
    """By how much what an instance holds grows in an hour, judged by the last half hour."""
    return f"3600 * deriv({scraped(names.PROCESS_RESOURCES, resource=resource)}[{GROWTH_WINDOW}])"


def standing_still() -> str:
    """Share of the time during which an event loop stood still, 0-1; of all workers of a service together."""
    return rate(names.LOOP_STALL_DURATION, "service", suffix="_sum")


def now(metric: Metric) -> str:
    """What a gauge says now, summed over workers; 0 where no worker shows it, as long as the service is there."""
    return f"sum({scraped(metric)}) or 0 * max({scraped(names.MONITOR_INFO)})"


def highest(metric: Metric) -> str:
    """The highest value of a gauge, without workers that have not set it."""
    return f"max({scraped(metric)} > 0)"


def age_of(metric: Metric) -> str:
    """Seconds since the latest moment that a gauge of Unix times names; none while there is none."""
    return f"time() - max({scraped(metric)} > 0)"


# --- requests by route ------------------------------------------------------------------------------------------------


def error_share_by_route() -> str:
    """Share of a route's answers that are server errors, 0-1; no sample for a route without traffic."""
    every = rate(names.HTTP_DURATION, "http_route", suffix="_count")
    failed = rate(names.HTTP_DURATION, "http_route", suffix="_count", http_response_status_code="=~5..")
    # A route without any error has no 5xx series at all; its share is 0, not unknown.
    return f"({failed} or 0 * {every}) / ({every} > 0)"


def error_share(window: str) -> str:
    """Share of all requests that were answered with a server error within the window, 0-1."""
    every = grown(names.HTTP_DURATION, window, suffix="_count")
    failed = grown(names.HTTP_DURATION, window, suffix="_count", http_response_status_code="=~5..")
    return f"({failed} or 0 * {every}) / ({every} > 0)"


# --- promises ---------------------------------------------------------------------------------------------------------


def burn(window: Duration) -> str:
    """How many times too fast budgets go, over the window, by service and promise."""
    return f"max by (service, slo) ({recorded(burn_rate(window))})"


def fastest_burn(window: Duration) -> str:
    """The burn rate of the worst promise."""
    return f"max({recorded(burn_rate(window))})"


def budget_left(slos: Slos) -> str:
    """Share of each budget that is left, 0-1, by service and promise; an overspent one is 0."""
    return f"clamp_min(max by (service, slo) ({recorded(slo_rules.budget_left(slos))}), 0)"


def least_budget_left(slos: Slos) -> str:
    return f"clamp_min(min({recorded(slo_rules.budget_left(slos))}), 0)"


def bad_events() -> str:
    """Bad events since the tick before, by service, promise and source."""
    return f"sum by (service, slo, source) ({recorded(BAD)})"


# --- runs -------------------------------------------------------------------------------------------------------------


def runs_stuck(*by: str) -> str:
    """Runs that stand still now."""
    return f"sum{_by(by)} ({scraped(names.RUN_STUCK)})"


def lowest_in_order() -> str:
    """The lowest share of runs whose user saw everything once and in order, 0-1, rounded down to hundredths of a percent."""
    return f"floor(10000 * min({recorded(RUNS_IN_ORDER)})) / 10000"


def verdicts_not_in_order(window: str, *by: str) -> str:
    """Runs that ended otherwise than complete and in order, those whose user had gone left out."""
    return grown(names.RUN_VERDICTS_TOTAL, window, *by, verdict="!~complete_in_order|undeliverable")


def handshakes_failed(window: str, *by: str) -> str:
    """Share of handshakes that were refused, not answered in time, or failed, 0-1; no sample without handshakes."""
    failed = grown(names.WEBSOCKET_CONNECTIONS, window, *by, outcome="=~refused|timed_out|error")
    return f"{failed} / ({grown(names.WEBSOCKET_CONNECTIONS, window, *by)} > 0)"


# --- event delivery ---------------------------------------------------------------------------------------------------


def lowest_delivery_rate() -> str:
    """The lowest delivery rate of the chosen services, 0-100, rounded down to hundredths."""
    return f"floor(100 * min({recorded(names.EVENT_DELIVERY_RATE)})) / 100"


def share_of_rung(rung: str, highest: Iterable[str]) -> str:
    """Share of the events that reached a rung, 0-1, of those whose connection has one of these highest rungs."""
    able = f"=~{'|'.join(highest)}"
    emitted = rate(names.EVENT_RUNGS, rung="emitted", highest=able)
    return f"{rate(names.EVENT_RUNGS, rung=rung, highest=able)} / ({emitted} > 0)"


def gap_by_event() -> str:
    """Events emitted and not sent, per second. Around zero: an event just on its way appears for a moment."""
    emitted, sent = (rate(names.EVENTS, "event", stage=stage) for stage in ("emitted", "sent"))
    return f"{emitted} - {sent}"
