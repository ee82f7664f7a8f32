"""What is said of a change of a rollout, and of a burst of violations. Pure: values in, texts and labels out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.telemetry.names import DRILL_PREFIX

Json = dict[str, Any]  # Any: JSON

ALERT: Final = "RolloutRolledBack"
PAGE_LASTS: Final = timedelta(hours=24)
"""A page ends when the rollout is re-armed, and by itself after a day that nobody touched it."""
BY_ITSELF: Final = "isolation-monitor"
"""The actor of what the collector does without being asked."""
_TEXT_LIMIT: Final = 2000


class Change(Protocol):
    """A change of a rollout, as its history keeps it."""

    @property
    def id(self) -> str: ...
    @property
    def rollout(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def from_status(self) -> str: ...
    @property
    def to_status(self) -> str: ...
    @property
    def from_stage(self) -> str: ...
    @property
    def to_stage(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def decision_id(self) -> str | None: ...
    @property
    def at(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Links:
    """Base addresses without a trailing slash. Without Grafana no dashboard is linked."""

    collector: str
    grafana: str | None

    def decision(self, change: Change) -> str | None:
        if change.decision_id is None:
            return None
        return f"{self.collector}/v1/gates/{quote(change.rollout, safe='')}/decisions/{quote(change.decision_id, safe='')}"

    def rollout(self, change: Change) -> str:
        return f"{self.collector}/v1/rollouts/{quote(change.rollout, safe='')}"

    def dashboard(self, change: Change) -> str | None:
        if self.grafana is None:
            return None
        about = {"var-service": change.service, "var-rollout": change.rollout, "from": "now-1h", "to": "now"}
        return f"{self.grafana}/d/rollout?{urlencode(about)}"


@dataclass(frozen=True, slots=True)
class Mark:
    """An annotation. `key` is its identity: a mark of the same key is made once. Times are Unix milliseconds."""

    key: str
    text: str
    tags: tuple[str, ...]
    time_ms: int
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Burst:
    """Violations of one service, none of them a minute after the one before. `first_id` is the id of the first."""

    first_id: str
    service: str
    began: datetime
    last: datetime
    count: int


def mark_of_change(change: Change, links: Links) -> Mark:
    """Return the mark of one change: what, who, why, and where it is kept."""
    if change.to_status == "rolled_back":
        what = f"{change.rollout} was rolled back at stage {change.from_stage}"
    elif change.to_stage != change.from_stage:
        what = f"{change.rollout}: {change.from_stage} → {change.to_stage} ({change.to_status})"
    else:
        what = f"{change.rollout}: {change.from_status} → {change.to_status}, stage {change.to_stage}"
    told = [what, f"by {change.actor}: {change.reason}" if change.reason else f"by {change.actor}", links.decision(change)]
    kind = "rollback" if change.to_status == "rolled_back" else "stage"
    tags = ("isolation", kind, f"service:{change.service}", f"rollout:{change.rollout}")
    return Mark(f"event-{change.id}", _text("\n".join(line for line in told if line)), tags, _ms(change.at))


def mark_of_burst(burst: Burst, links: Links) -> Mark:
    """Return the mark of a burst, from its first to its last violation."""
    where = f"{links.collector}/v1/violations?{urlencode({'service': burst.service, 'since': rfc3339(burst.began)})}"
    noun = "violation" if burst.count == 1 else "violations"
    text = f"{burst.count} {noun} of isolation in {burst.service}\nfirst: {burst.first_id}\n{where}"
    tags = ("isolation", "violations", f"service:{burst.service}")
    return Mark(f"burst-{burst.first_id}", _text(text), tags, _ms(burst.began), _ms(burst.last))


def alerts_of_change(change: Change, links: Links, now: datetime) -> list[Json]:
    """Return alerts for Alertmanager's API v2: the page of a rollback, its end by a re-arm, nothing for other changes.

    What the collector rolled back by itself wakes someone. A person who rolls back is awake: that is a ticket.
    """
    if change.to_status == "rolled_back":
        return [_alert(change, links, urgent=change.actor == BY_ITSELF, ends=max(now, change.at) + PAGE_LASTS)]
    if change.from_status == "rolled_back":
        return [_alert(change, links, urgent=urgent, ends=now) for urgent in (True, False)]
    return []


def _alert(change: Change, links: Links, *, urgent: bool, ends: datetime) -> Json:
    labels = {
        "alertname": ALERT,
        "service": change.service,
        "rollout": change.rollout,
        "severity": "critical" if urgent else "warning",
        "action": "page" if urgent else "ticket",
    }
    if change.service.startswith(DRILL_PREFIX):
        labels["synthetic"] = "true"
    dashboard, decision = links.dashboard(change), links.decision(change)
    annotations = {
        "summary": f"{change.service}: rollout {change.rollout} was rolled back",
        "description": _text(
            f"Rollout {change.rollout} of {change.service} was rolled back at stage {change.from_stage} by {change.actor}: "
            f"{change.reason or 'no reason given'}. Everybody gets `off` now. It stays so until a person re-arms it."
        ),
        "runbook_url": f"{links.collector}/runbooks/{ALERT}",
        "rollout_url": links.rollout(change),
        **({"dashboard_url": dashboard} if dashboard else {}),
        **({"decision_url": decision} if decision else {}),
    }
    # A rollback by a re-arm's event has begun before it: only its end is said.
    began = {"startsAt": rfc3339(change.at)} if change.to_status == "rolled_back" else {}
    return {"labels": labels, "annotations": annotations, **began, "endsAt": rfc3339(ends), "generatorURL": links.rollout(change)}


def bursts(violations: list[tuple[str, str, datetime, int]], pause: timedelta) -> list[Burst]:
    """Return the bursts of (id, service, time, count), oldest first; a pause as long as `pause` ends one."""
    found: list[Burst] = []
    open_by_service: dict[str, int] = {}
    for first_id, service, time, count in sorted(violations, key=lambda violation: violation[2]):
        position = open_by_service.get(service)
        if position is not None and time - found[position].last < pause:
            last = found[position]
            found[position] = Burst(last.first_id, service, last.began, time, last.count + count)
            continue
        open_by_service[service] = len(found)
        found.append(Burst(first_id, service, time, time, count))
    return found


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _text(text: str) -> str:
    return text[:_TEXT_LIMIT]
