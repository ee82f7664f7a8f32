"""What causes each alert: the recipes of `isomon drill`, one for every alert of `drilled()`.

A recipe is the page of an invented service, from healthy to broken, in the very series that real services expose. The
service exists only for the drill: its name begins with `drill:`, so that its alerts become synthetic (see
`prometheus_config.DRILL_SERVICES`), pass the same rules and routes and end at the receiver `drill`. Rates are per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from isolation_monitor.alerts import build, container_alerts
from isolation_monitor.alerts.alertmanager_config import DEAD_MAN, DEAD_MAN_REPEAT, DRILL, GROUP_INTERVAL
from isolation_monitor.alerts.blindness_alerts import BATCHES_REFUSED
from isolation_monitor.alerts.ci_alerts import DURATION, FLAKY_RATIO, LAST_RUN, MEMORY, PASS_RATIO, TREND
from isolation_monitor.alerts.collector_alerts import KEYS_STALE, LAST_ROUND, ROLLUPS, ROUND_INTERVAL
from isolation_monitor.alerts.model import Alert
from isolation_monitor.alerts.probe_alerts import DURATION_SECONDS, EXPIRY, SLOW_AFTER, SUCCESS
from isolation_monitor.alerts.rollout_alerts import VERDICT_CODE, WAITING
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.names import Metric

Job = Literal["services", "collector"]
Endpoint = Literal["isolation", "main"]

COMPONENT: Final = "drill"
"""Value of the labels whose values a service chooses itself: components, pools, routes."""
QUICK: Final = Duration("15s")
"""Rules evaluated at least so often fire within the time that a drill allows anyway."""
_NO_LABELS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a drill's page: `before` while all is well; then `jump` more at once and `rate` more each second."""

    name: str
    labels: Mapping[str, str]
    endpoint: Endpoint
    before: float = 0.0
    jump: float = 0.0
    rate: float = 0.0

    def value(self, broken_for_s: float | None) -> float:
        """Return the value so many seconds after the fault began; None: it has not begun."""
        return self.before if broken_for_s is None else self.before + self.jump + self.rate * broken_for_s


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one alert is caused, and by which labels its notification is known.

    `dies`: the page answers no more instead of changing. `job`: as whom Prometheus reads the page. `expected` are labels
    of the notification beside the service's. `is_always_firing`: nothing is to be caused, the next notification is awaited.
    """

    samples: tuple[Sample, ...] = ()
    dies: bool = False
    job: Job = "services"
    names_service: bool = True
    expected: Mapping[str, str] = field(default_factory=lambda: {"synthetic": "true"})
    receiver: str = DRILL
    is_always_firing: bool = False
    rolls_back: bool = False
    """Nothing is shown to Prometheus: a rollout of the invented service is taken back, and the collector tells of it."""

    @property
    def has_page(self) -> bool:
        """Say whether Prometheus reads a page for it."""
        return not (self.is_always_firing or self.rolls_back)


ROLLED_BACK: Final = Alert(
    build.PUSHED[0],
    "",
    "warning",
    "ticket",
    summary="A rollout was rolled back",
    description="The collector hands it to Alertmanager. A drill takes its rollout back by hand: a ticket. The collector's own is a page.",
    dashboard="rollout",
)


def drilled() -> list[Alert]:
    """Return every alert that can be drilled: those of rules, and what the collector tells by itself."""
    return [*build.alerts(), ROLLED_BACK]


def own_wait_s(alert: Alert) -> float:
    """Return how long the alert waits on purpose: its `for`, seen at two evaluations; the pause of the dead man's switch.

    Rules that are evaluated seldom wait without a `for`, too: one evaluation counts what happened, another one judges it.
    """
    if RECIPES[alert.name].rolls_back:
        return 0.0
    if RECIPES[alert.name].is_always_firing:
        return Duration(DEAD_MAN_REPEAT).seconds + Duration(GROUP_INTERVAL).seconds
    interval = next(group.interval for groups in build.rule_groups().values() for group in groups if alert in group.rules)
    evaluations_s = 2 * Duration(interval).seconds
    if alert.for_ is None:
        return evaluations_s if Duration(interval).seconds > QUICK.seconds else 0.0
    return Duration(alert.for_).seconds + evaluations_s


# --- pieces -----------------------------------------------------------------------------------------------------------


def _sample(
    metric: Metric, suffix: str = "", labels: Mapping[str, str] = _NO_LABELS, *, before: float = 0.0, jump: float = 0.0, rate: float = 0.0
) -> Sample:
    """Return one sample of a metric with all of its labels: synthetic where it can be, no arm, the first value otherwise."""
    every: dict[str, str] = {}
    for label, values in metric.labels.items():
        first = values[0] if isinstance(values, tuple) else COMPONENT
        every[label] = {"synthetic": "true", "arm": "none"}.get(label, first)
    return Sample(metric.name + suffix, every | dict(labels), metric.endpoint, before, jump, rate)


def _violation(kind: str) -> Recipe:
    return Recipe((_sample(names.VIOLATIONS, labels={"kind": kind, "grade": names.KIND_GRADES[kind][-1]}, jump=1),))


def _once(metric: Metric, **labels: str) -> Recipe:
    return Recipe((_sample(metric, labels=labels, jump=1),))


def _containers(name: str, *, jump: float = 1.0, named: bool = True, **labels: str) -> Recipe:
    """A series of the collector that follows the containers goes up, and stays there."""
    of = {"container_name": COMPONENT} if named else {}
    return Recipe((Sample(name, of | labels, "main", jump=jump),), job="collector", names_service=False)


def _engine(name: str, *, before: float = 0.0, jump: float = 1.0) -> Recipe:
    return Recipe((Sample(name, {"isolation_engine": COMPONENT}, "main", before, jump),), job="collector", names_service=False)


def _slow(metric: Metric) -> Recipe:
    """Every duration of the histogram falls beyond its last bucket: slower than any budget."""
    rate = 10.0
    buckets = tuple(_sample(metric, "_bucket", {"le": f"{bound:g}"}) for bound in metric.buckets[:-1])
    slow = tuple(_sample(metric, "_bucket", {"le": bound}, rate=rate) for bound in (f"{metric.buckets[-1]:g}", "+Inf"))
    return Recipe((*buckets, *slow, _sample(metric, "_sum", rate=rate * metric.buckets[-1]), _sample(metric, "_count", rate=rate)))


def _delivered(percent: float) -> Recipe:
    """Of a hundred events a second, so many arrive."""
    return Recipe(
        (
            _sample(names.EVENT_DELIVERIES, labels={"result": "delivered"}, rate=percent),
            _sample(names.EVENT_DELIVERIES, labels={"result": "lost"}, rate=100 - percent),
        )
    )


def _runs(*, failed: float) -> Recipe:
    """Of ten thousand runs a second, so many fail: as a multiple of 1 the burn rate of an objective of 99.99 %."""
    return Recipe(
        (
            _sample(names.RUNS, labels={"outcome": "complete"}, rate=10_000 - failed),
            _sample(names.RUNS, labels={"outcome": "failed"}, rate=failed),
        )
    )


def _requests(*, checked: bool = True, **labels: str) -> Recipe:
    """Requests of one verdict, checked or, which is a fault of its own, not."""
    checks = _sample(names.CHECKS, labels={"detector": names.INHERITED_CONTEXT, "result": "pass"}, rate=20.0 if checked else 0.0)
    return Recipe((_sample(names.REQUESTS, labels=labels, rate=20.0), checks))


def _arms(*, failing: float) -> Recipe:
    """Both arms serve the same; so many of a hundred requests of the one that has the rollout fail."""
    return Recipe(
        (
            _sample(names.GATE_REQUESTS, labels={"arm": "on", "outcome": "ok"}, rate=100 - failing),
            _sample(names.GATE_REQUESTS, labels={"arm": "on", "outcome": "error"}, rate=failing),
            _sample(names.GATE_REQUESTS, labels={"arm": "off", "outcome": "ok"}, rate=100.0),
            _sample(names.GATE_REQUESTS, labels={"arm": "off", "outcome": "error"}),
        )
    )


def _slow_arm() -> Recipe:
    """One arm answers within the first bucket, the one that has the rollout within the last."""
    samples: list[Sample] = []
    for arm, answers_in in (("on", names.GATE_BUCKETS[-1]), ("off", names.GATE_BUCKETS[0])):
        for bound in (*(f"{bound:g}" for bound in names.GATE_BUCKETS), "+Inf"):
            within = float(bound) >= answers_in
            samples.append(_sample(names.GATE_DURATION, "_bucket", {"arm": arm, "le": bound}, rate=50.0 if within else 0.0))
        samples.append(_sample(names.GATE_DURATION, "_count", {"arm": arm}, rate=50.0))
    return Recipe(tuple(samples))


def _gate(series: str, *, jump: float) -> Recipe:
    """A collector shows this of a rollout of the invented service."""
    return Recipe((Sample(series, {"rollout": COMPONENT}, "main", jump=jump),), job="collector")


def _suite(series: str, *, before: float, jump: float) -> Recipe:
    """A collector shows this of an invented suite."""
    return Recipe((Sample(series, {"test_suite_name": COMPONENT}, "main", before=before, jump=jump),), job="collector", names_service=False)


def _probe(*, fails: bool = False, slow: bool = False, expired: bool = False) -> Recipe:
    """A collector shows this of an endpoint of the invented service: well and far from its end, until it is not."""
    far = 4e9
    samples = (
        (SUCCESS, 1.0, -1.0 if fails else 0.0),
        (DURATION_SECONDS, 0.1, 10.0 if slow else 0.0),
        (SLOW_AFTER, 1.0, 0.0),
        (EXPIRY, far, -far if expired else 0.0),
    )
    labels = {"isolation_probe": COMPONENT}
    return Recipe(tuple(Sample(name, labels, "main", before=before, jump=jump) for name, before, jump in samples), job="collector")


RECIPES: Final[Mapping[str, Recipe]] = {
    "IsolationViolation": _violation(names.INSTANCE_REUSE),
    "WebSocketIsolationViolation": _violation(names.WRONG_SOCKET),
    "IsolationScoreBelow100": _requests(verdict="violated", exposed="true"),
    "RunIncomplete": _violation(names.INCOMPLETE_RUN),
    "RunStuck": _once(names.RUN_STUCK),
    "RunsOutOfOrder": _once(names.RUN_VERDICTS_TOTAL, verdict="disorder"),
    "WebSocketUserContextBad": _violation(names.BAD_HANDSHAKE),
    "WebSocketHandshakesFailing": Recipe((_sample(names.WEBSOCKET_CONNECTIONS, labels={"outcome": "refused"}, rate=5.0),)),
    "EventsUnrouted": _once(names.EVENTS_UNROUTED, reason="no_connection"),
    "SessionLeak": _violation(names.SESSION_LEAK),
    "ContainmentBelow100": _once(names.FAILURES, outcome="escaped"),
    "Cascade": _once(names.CASCADES),
    "LoopStall": _violation(names.LOOP_STALL),
    "ResourceTrend": _violation(names.RESOURCE_TREND),
    "SingletonReuse": _once(names.INSTANCE_SHARED),
    "InstanceCreationSlow": _slow(names.INSTANCE_CREATE),
    "InstanceResetSlow": _slow(names.INSTANCE_RESET),
    "SessionAcquisitionSlow": _slow(names.DB_CONNECTION_WAIT),
    "EventDeliveryBelow99": _delivered(97.0),
    "EventDeliveryBelow95": _delivered(50.0),
    "ResolutionBelow99": Recipe(
        (
            _sample(names.ID_RESOLUTIONS, labels={"source": "registry"}, rate=50.0),
            _sample(names.ID_RESOLUTIONS, labels={"source": "error"}, rate=50.0),
        )
    ),
    "ResolutionConflict": _violation(names.ID_RESOLUTION),
    "SloBurnsFast": _runs(failed=1_000.0),
    # Above 3 times the budget and below 6 times: nobody is woken.
    "SloBurnsSlowly": _runs(failed=4.0),
    "SloBudgetSpent": _runs(failed=2.0),
    "EventDeliveryUnknown": Recipe(
        (
            _sample(names.EVENT_DELIVERIES, labels={"result": "delivered"}, rate=50.0),
            _sample(names.EVENT_DELIVERIES, labels={"result": "unknown"}, rate=50.0),
        )
    ),
    # Only who was seen once can be missed.
    "IsolationTargetDown": Recipe((_sample(names.MONITOR_INFO, labels={"version": "drill", "mode": "monitor"}, before=1),), dies=True),
    "IsolationChecksSilent": _requests(checked=False, verdict="isolated"),
    "IsolationDetectorSilent": _once(names.CHECKS, detector=names.WRONG_SOCKET, result="error"),
    "IsolationDetectorGrey": _once(names.DETECTOR_STATE, detector=names.WRONG_SOCKET, state="grey"),
    "IsolationCoverageLow": _requests(verdict="unverified"),
    "IsolationTelemetryDropping": _once(names.MONITOR_DROPPED, reason="queue_full"),
    "IsolationMonitorErrors": _once(names.MONITOR_ERRORS, hook="middleware"),
    "RolloutErrors": _arms(failing=80.0),
    "RolloutLatency": _slow_arm(),
    "GateError": _gate(VERDICT_CODE, jump=-2),
    "RolloutStuck": _gate(WAITING, jump=100_000),
    "FlagsStale": _once(names.FLAG_STALE),
    "StartupPhaseHanging": _once(names.STARTUP_PHASE_HANGING),
    "StartupFailed": Recipe((_sample(names.STARTUP_PHASE_DURATION, "_count", {"isolation_result": "failed"}, jump=1),)),
    "StartupSlow": Recipe((_sample(names.STARTUP_DURATION, jump=60), _sample(names.STARTUP_READY))),
    "CleanupLeftovers": _once(names.CLEANUP_LEFT),
    "CleanupSlow": _slow(names.CLEANUP_DURATION),
    "ProbeFailing": _probe(fails=True),
    "ProbeSlow": _probe(slow=True),
    "CertificateExpiresSoon": _probe(expired=True),
    ROLLED_BACK.name: Recipe(rolls_back=True),
    "IsolationEvidenceRefused": Recipe(
        (Sample(BATCHES_REFUSED, {"reason": "disk_full"}, "main", rate=1.0),), job="collector", names_service=False
    ),
    "CiPassRateLow": _suite(PASS_RATIO, before=1, jump=-0.5),
    "CiFlakyTests": _suite(FLAKY_RATIO, before=0, jump=0.5),
    "CiRunSlow": _suite(DURATION, before=60, jump=3_600),
    "CiRunSlower": _suite(TREND, before=1, jump=1),
    "CiMemoryHigh": _suite(MEMORY, before=1e9, jump=9e9),
    # A recipe knows no clock: from the year 2096 back to before 1970, which is long ago by the clock of rule tests as well.
    "CiRunsMissing": _suite(LAST_RUN, before=4e9, jump=-5e9),
    "ContainerOutOfMemory": _containers(container_alerts.EXITS, isolation_reason="oom_killed"),
    "ContainerCrashed": _containers(container_alerts.EXITS, isolation_reason="error"),
    "ContainerRestarting": _containers(container_alerts.RESTARTS, jump=9),
    "ContainerForcedRemoval": _containers(container_alerts.REMOVALS, named=False, isolation_mode="forced"),
    "ContainerStopNeededKill": _containers(container_alerts.STOP_SIGKILLS, named=False),
    "ContainerCommandStorm": _containers(container_alerts.STORMS, named=False),
    "ContainerUnhealthy": _containers(container_alerts.HEALTH, isolation_state="unhealthy"),
    "ContainerMemoryNearLimit": Recipe(
        tuple(
            Sample(name, {"container_name": COMPONENT}, "main", before, jump)
            for name, before, jump in ((container_alerts.MEMORY, 1.0, 98.0), (container_alerts.MEMORY_LIMIT, 100.0, 0.0))
        ),
        job="collector",
        names_service=False,
    ),
    "ContainerEngineDown": _engine(container_alerts.ENGINE_UP, before=1.0, jump=-1.0),
    "ContainerKilled": _containers(container_alerts.KILLS),
    "ContainerProcessOutOfMemory": _containers(container_alerts.OOM_SURVIVED),
    "ContainerOrphaned": _engine(container_alerts.ORPHANS),
    "ContainerExpired": _engine(container_alerts.EXPIRED),
    "ContainerVolumesUnused": _engine(container_alerts.ORPHAN_VOLUMES),
    # Its last round was long ago; what changes is how often there should be one. The series itself is remembered for days.
    "IsolationRetentionStale": Recipe(
        (Sample(LAST_ROUND, {}, "main"), Sample(ROUND_INTERVAL, {}, "main", before=1e10, jump=10 - 1e10)),
        job="collector",
        names_service=False,
    ),
    "IsolationKeysStale": Recipe((Sample(KEYS_STALE, {}, "main", jump=1),), job="collector", names_service=False),
    "IsolationRollupsFailing": Recipe((Sample(ROLLUPS, {"result": "failed"}, "main", jump=100),), job="collector", names_service=False),
    # One alert speaks for all collectors: it keeps their name, and the label of the drill's own target tells it apart.
    "IsolationCollectorDown": Recipe(dies=True, job="collector", names_service=False),
    "DeadMansSwitch": Recipe(names_service=False, expected={}, receiver=DEAD_MAN, is_always_firing=True),
}
"""By alert; a contract test holds that every alert has one."""
