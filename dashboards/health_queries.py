"""PromQL of the dashboard `monitor-health`: what the monitor, its collector and Prometheus say of themselves.

Series of the collector are of no service; those of a drill's invented collector are left out.
"""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.prometheus_config import COLLECTOR_JOB, ISOLATION_JOB, MAIN_JOB
from isolation_monitor.alerts.recording import ACTIVITY, DETECTORS_GREY
from isolation_monitor.dashboards.queries import STEP, grown, recorded, scraped
from isolation_monitor.telemetry import names

NOTIFICATIONS_WINDOW: Final = "5m"
_JOBS: Final = f"{ISOLATION_JOB}|{MAIN_JOB}|{COLLECTOR_JOB}"


def detectors_grey() -> str:
    """How many detectors miss their planted faults, by service."""
    return recorded(DETECTORS_GREY)


def workers_grey() -> str:
    """In how many workers each detector misses its planted faults; none where it does not."""
    return f"sum by (detector) ({scraped(names.DETECTOR_STATE, state='grey')}) > 0"


def planted_faults_missed() -> str:
    """Planted faults that went unseen, by detector; none where all are seen."""
    return f"{grown(names.PLANTED_FAULTS, STEP, 'detector', result='missed')} > 0"


def detector_power() -> str:
    """Lower bound of the recall on planted faults, of the worst instance; none of detectors that are off or untested."""
    return f"min by (detector) ({scraped(names.DETECTOR_POWER)} >= 0)"


def suppressed_violations() -> str:
    """Violations that suppressions accept for now."""
    return grown(names.VIOLATIONS_SUPPRESSED, STEP, "kind")


def targets_up() -> str:
    """1 when every target of a job answers, else 0. Has no service: a target that never answered has none."""
    return f'min by (job) (up{{job=~"{_JOBS}"}})'


def since_last_check() -> str:
    """Seconds since a service last judged a request."""
    return f"time() - max by (service) ({scraped(names.MONITOR_LAST_CHECK)})"


def activity() -> str:
    """What each detector should have looked at in the last minutes, as its alert counts it."""
    return f"sum by (detector) ({recorded(ACTIVITY)})"


def monitors() -> str:
    return f"max by (service, instance, version, mode) ({scraped(names.MONITOR_INFO)})"


GATE_CODES: Final = {"pass": 0, "inconclusive": 1, "fail": 2, "error": 3}


def gate_verdicts() -> str:
    """Last verdict of each rollout's gate, as its number in `GATE_CODES`."""
    one_hot = (f'{code} * max by (rollout) (isolation_gate_verdict{{verdict="{verdict}"}})' for verdict, code in GATE_CODES.items() if code)
    return " + ".join(one_hot)


def of_collector(metric: str, *, window: str = "", **matchers: str) -> str:
    """Return the selector of a series of the collector, which serves all services and so has no service label; no drill's."""
    chosen = "".join(f',{label}="{value}"' for label, value in matchers.items())
    return f'{metric}{{job="{COLLECTOR_JOB}",synthetic=""{chosen}}}' + (f"[{window}]" if window else "")


def collector_rate(metric: str, *by: str, window: str = STEP) -> str:
    """Rate per second of a counter of the collector."""
    return f"sum{_by(by)} (rate({of_collector(metric, window=window)}))"


def collector_grown(metric: str, *by: str, **matchers: str) -> str:
    """By how much a counter of the collector grew since the last point of a graph."""
    return f"sum{_by(by)} (increase({of_collector(metric, window=STEP, **matchers)}))"


def notifications() -> str:
    """Alerts that arrived at the collector in the last minutes, by name. The dead man's switch repeats each 45 s."""
    # Longer than a graph's step: with few arrivals a short window would see one value and no growth.
    return f"sum by (alertname) (increase(isolation_collector_alerts_received_total[{NOTIFICATIONS_WINDOW}]))"


def collector_ingest_p95() -> str:
    buckets = collector_rate("isolation_collector_ingest_duration_seconds_bucket", "le")
    return f"histogram_quantile(0.95, {buckets}) >= 0"


def gate_time_p95() -> str:
    buckets = collector_rate("isolation_gate_evaluation_duration_seconds_bucket", "le")
    return f"histogram_quantile(0.95, {buckets}) >= 0"


def reading_time() -> str:
    """Seconds that Prometheus took to read the slowest target of each job."""
    return f'max by (job) (scrape_duration_seconds{{job=~"{_JOBS}",synthetic=""}})'


def scrape_lag() -> str:
    """Seconds since the oldest target of each job was read, or tried."""
    return f'max by (job) (time() - timestamp(up{{job=~"{_JOBS}",synthetic=""}}))'


def rule_lag() -> str:
    """Seconds since the rules of the score were last evaluated, by service."""
    return f"max by (service) (time() - timestamp({recorded(names.ISOLATION_SCORE_STATE)}))"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
