"""Incidents in plain values: what lies close together in one service is one incident.

An incident begins with an alert, a violation that lowers the score, or a rollback, and ends when none of them was there for
`PAUSE`; the violations of one hour of the clock are one sign, from its first to its last. It is put together when somebody asks,
from what is stored: records that come late find their place. Its id holds the service and the moment of its beginning as it was
known then; whatever incident holds that moment now is the one that is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from isolation_monitor.telemetry.names import DRILL_PREFIX

PAUSE: Final = timedelta(minutes=10)
SILENT_AFTER: Final = timedelta(hours=26)
"""Alertmanager tells of a firing alert again, once a day at least: one that it was silent about for longer has ended unheard."""


@dataclass(frozen=True, slots=True)
class AlertSpan:
    """One alert from its start to its end; `ended_at` None while it fires. `is_end_known` False: nobody told of its end."""

    service: str
    alertname: str
    severity: str
    fingerprint: str
    summary: str
    started_at: datetime
    ended_at: datetime | None
    is_end_known: bool = True


@dataclass(frozen=True, slots=True)
class Burst:
    """Violations of one service within an hour of the clock that lower the score, however far apart in it."""

    service: str
    first: datetime
    last: datetime
    violations: int


@dataclass(frozen=True, slots=True)
class Defect:
    """The violations of one fingerprint within an incident."""

    kind: str
    grade: str
    fingerprint: str
    first: datetime
    last: datetime
    violations: int
    records: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a rollout, as its history has it."""

    rollout: str
    service: str
    at: datetime
    action: str
    to_status: str
    from_stage: str
    to_stage: str
    actor: str
    reason: str
    decision_id: str | None

    @property
    def is_rollback(self) -> bool:
        return self.to_status == "rolled_back"


@dataclass(slots=True)
class Incident:
    """What belongs together. `ended_at` None: an alert still fires, or the last sign is younger than the pause."""

    service: str
    started_at: datetime
    last_sign_at: datetime
    ended_at: datetime | None = None
    alerts: list[AlertSpan] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def id(self) -> str:
        start = self.started_at.astimezone(UTC)
        # Go's zero time is of the year 1: %Y would write it with one digit.
        return f"{start.year:04d}{start:%m%dT%H%M%S}.{start.microsecond // 1000:03d}Z~{self.service}"

    @property
    def violations(self) -> int:
        """Return how many violations lowered the score."""
        return sum(burst.violations for burst in self.bursts)

    def holds(self, moment: datetime) -> bool:
        """Say whether `moment`, to the millisecond, lies within."""
        # Differences, here and below: the first and the last moment of the calendar have none before or after them.
        return moment - self.started_at >= -timedelta(milliseconds=1) and moment - self.last_sign_at <= PAUSE


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the story."""

    at: datetime
    what: str
    text: str
    about: dict[str, Any] = field(default_factory=dict)


def parse_id(text: str) -> tuple[str, datetime] | None:
    """Return service and moment of an incident's id; None when it is none."""
    moment, separator, service = text.partition("~")
    try:
        return (service, datetime.strptime(moment, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)) if separator and service else None
    except ValueError:
        return None


def incidents(alerts: Iterable[AlertSpan], bursts: Iterable[Burst], changes: Sequence[Change], now: datetime) -> list[Incident]:
    """Return the incidents of all services, the one that began last first."""
    signs: list[tuple[datetime, datetime, AlertSpan | Burst | Change]] = []
    signs += [(alert.started_at, max(alert.started_at, alert.ended_at or now), alert) for alert in alerts]
    signs += [(burst.first, burst.last, burst) for burst in bursts]
    signs += [(change.at, change.at, change) for change in changes if change.is_rollback]
    by_service: dict[str, list[tuple[datetime, datetime, AlertSpan | Burst | Change]]] = {}
    for sign in signs:
        if not sign[2].service.startswith(DRILL_PREFIX):
            by_service.setdefault(sign[2].service, []).append(sign)
    found = [incident for service, of_service in by_service.items() for incident in _of_service(service, of_service, now)]
    for incident in found:
        incident.changes = sorted(
            (one for one in changes if one.service == incident.service and incident.holds(one.at)), key=lambda one: one.at
        )
    return sorted(found, key=lambda incident: (incident.started_at, incident.service), reverse=True)


def _of_service(service: str, signs: list[tuple[datetime, datetime, Any]], now: datetime) -> Iterator[Incident]:
    current: Incident | None = None
    for start, end, sign in sorted(signs, key=lambda one: one[:2]):
        if current is None or start - current.last_sign_at > PAUSE:
            if current is not None:
                yield _ended(current, now)
            current = Incident(service, start, end)
        current.last_sign_at = max(current.last_sign_at, end)
        if isinstance(sign, AlertSpan):
            current.alerts.append(sign)
        elif isinstance(sign, Burst):
            current.bursts.append(sign)
    if current is not None:
        yield _ended(current, now)


def _ended(incident: Incident, now: datetime) -> Incident:
    fires = any(alert.ended_at is None for alert in incident.alerts)
    if not fires and now - incident.last_sign_at >= PAUSE:
        incident.ended_at = incident.last_sign_at
    return incident


def story(incident: Incident, defects: Iterable[Defect]) -> list[Step]:
    """Return what happened, in the order of time."""
    steps = []
    about: dict[str, Any]
    for alert in incident.alerts:
        about = {"alertname": alert.alertname, "severity": alert.severity, "fingerprint": alert.fingerprint}
        steps.append(Step(alert.started_at, "alert_fired", f"{alert.alertname} fired: {alert.summary}".rstrip(": "), about))
        if alert.ended_at is not None:
            how = "resolved" if alert.is_end_known else "was not heard of again; its end was not delivered"
            steps.append(Step(alert.ended_at, "alert_resolved", f"{alert.alertname} {how}", about))
    for defect in defects:
        about = {"kind": defect.kind, "grade": defect.grade, "fingerprint": defect.fingerprint, "violations": defect.violations}
        steps.append(Step(defect.first, "first_violation", f"first {defect.kind} ({defect.grade}) of {defect.fingerprint}", about))
        if defect.last > defect.first:
            text = f"last {defect.kind} ({defect.grade}) of {defect.fingerprint}, {defect.violations} in all"
            steps.append(Step(defect.last, "last_violation", text, about))
    for change in incident.changes:
        text = f"{change.rollout}: {change.action} by {change.actor}" + (f" ({change.reason})" if change.reason else "")
        about = {"rollout": change.rollout, "action": change.action, "stage": change.to_stage, "decision_id": change.decision_id}
        steps.append(Step(change.at, "rollback" if change.is_rollback else "rollout", text, about))
    return sorted(steps, key=lambda one: (one.at, one.what))
