"""Evidence as JSON for readers."""

from __future__ import annotations

from typing import Any, Final

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.evidence.domain import Amendment, Batch, Count, Group, HistoryQuery, Run, Stored, Violation

Json = dict[str, Any]  # Any: JSON


def reply(batch: Batch, stored: Stored) -> Json:
    """Return `records-reply/1`."""
    refused = sorted((*batch.rejected, *stored.refused), key=lambda item: item.index)
    rejected = [{"index": item.index, "reason": item.reason} for item in refused]
    return {"schema": "records-reply/1", "accepted": stored.accepted, "duplicate": stored.duplicate, "rejected": rejected}


VIOLATION_FIELDS: Final = (
    "id", "url", "service", "instance", "time", "received_at", "kind", "grade", "grade_sent", "detector", "arm", "synthetic", "summary",
    "fingerprint", "count", "resource", "victim", "offender", "detail", "extra", "retracted", "retracted_at",
)  # fmt: skip
RUN_FIELDS: Final = (
    "id", "url", "service", "instance", "time", "received_at", "run_id", "principal", "outcome", "duration_s", "events", "anomalies",
    "detail", "extra",
)  # fmt: skip


def run(found: Run, base_url: str) -> Json:
    """Return one run in which something went wrong; `id` is its record's."""
    record = found.record
    return {
        "id": record.id,
        "url": f"{base_url}/v1/runs/{record.id}",
        "service": found.service,
        "instance": found.instance,
        "time": rfc3339(record.time),
        "received_at": rfc3339(found.received_at),
        "run_id": record.run_id,
        "principal": record.principal,
        "outcome": record.outcome,
        "duration_s": record.duration_s,
        "events": record.events,
        "anomalies": record.anomalies,
        "detail": record.detail,
        "extra": record.extra,
    }


def history(found: list[Count], query: HistoryQuery) -> Json:
    """Return the counts of a range that is said as it was counted: from full hour to full hour."""
    items = [
        {"start": rfc3339(one.start), **({query.by: one.of} if query.by else {}), "violations": one.violations, "records": one.records}
        for one in found
    ]
    step = "day" if query.is_daily else "hour"
    return {
        "schema": "violation-history/1", "since": rfc3339(query.since), "until": rfc3339(query.until), "step": step, "by": query.by,
        "items": items,
    }  # fmt: skip


def violation(found: Violation, base_url: str) -> Json:
    """Return one violation; `url` opens it alone, with its escalations and retractions."""
    record = found.record
    return {
        "id": record.id,
        "url": f"{base_url}/v1/violations/{record.id}",
        "service": found.service,
        "instance": found.instance,
        "time": rfc3339(record.time),
        "received_at": rfc3339(found.received_at),
        "kind": record.kind,
        "grade": found.grade,
        "grade_sent": record.grade,
        "detector": record.detector,
        "arm": record.arm,
        "synthetic": record.synthetic,
        "summary": record.summary,
        "fingerprint": record.fingerprint,
        "count": record.count,
        "resource": record.resource,
        "victim": record.victim,
        "offender": record.offender,
        "detail": record.detail,
        "extra": record.extra,
        "retracted": found.retracted_at is not None,
        "retracted_at": rfc3339(found.retracted_at) if found.retracted_at else None,
    }


def group(found: Group, base_url: str) -> Json:
    """Return one group; `affected.at_least` says that there may be more users than were counted, `estimated` that they are many."""
    latest, affected = found.latest, found.affected.numbers()
    return {
        "service": latest.service,
        "fingerprint": latest.record.fingerprint,
        "kind": latest.record.kind,
        "grade": found.grade,
        "first": rfc3339(found.first),
        "last": rfc3339(latest.record.time),
        "count": found.count,
        "records": found.records,
        "affected": {
            "principals": affected.principals,
            "runs": affected.runs,
            "active": affected.active,
            "at_least": affected.is_lower_bound,
            "estimated": affected.is_estimate,
        },
        "latest": violation(latest, base_url),
    }


def violation_with_amendments(found: Violation, amendments: list[Amendment], base_url: str) -> Json:
    return {
        "schema": "violation/1",
        **violation(found, base_url),
        "escalations": [_amendment(item) | {"grade": item.grade} for item in amendments if item.type == "escalation"],
        "retractions": [_amendment(item) for item in amendments if item.type == "retraction"],
    }


def _amendment(item: Amendment) -> Json:
    return {"id": item.id, "time": rfc3339(item.time), "reason": item.reason, "extra": item.extra}
