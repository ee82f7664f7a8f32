"""Incidents over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.incidents.domain import Incident
from isolation_monitor.collector.incidents.service import IncidentService, Told
from isolation_monitor.collector.paging import Moment
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import Runtime, RuntimeDep
from isolation_monitor.collector.security import AccessDep, AllowedService, requires

router = APIRouter(prefix="/v1", tags=["incidents"])

Json = dict[str, Any]  # Any: JSON


def _service(runtime: Runtime) -> IncidentService:
    return IncidentService(runtime.database, runtime.clock, runtime.settings.keep_days)


@router.get("/incidents", dependencies=[Depends(requires("read", per_service=True))])
async def list_incidents(
    runtime: RuntimeDep,
    service: AllowedService,
    since: Moment | None = None,
    state: Literal["open", "ended"] | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JsonResponse:
    """List incidents, the one that began last first: what was wrong, since when, whether it still is."""
    found = await _service(runtime).find(since, service, is_open=None if state is None else state == "open", limit=limit)
    items = [_answer(one, runtime.settings.base_url) for one in found]
    return JsonResponse({"schema": "incidents/1", "items": items}, headers={"Cache-Control": "no-store"})


@router.get("/incidents/{incident_id:path}", dependencies=[Depends(requires("read", per_service=True))])
async def get_incident(runtime: RuntimeDep, access: AccessDep, incident_id: str) -> JsonResponse:
    """Tell one incident in the order of time, with the users and runs that it touched."""
    told = await _service(runtime).tell(incident_id, access.services)
    return JsonResponse(_story(told, runtime.settings.base_url), headers={"Cache-Control": "no-store"})


def _answer(one: Incident, base_url: str) -> Json:
    return {
        "id": one.id,
        "url": f"{base_url}/v1/incidents/{one.id}",
        "service": one.service,
        "state": "open" if one.ended_at is None else "ended",
        "started_at": rfc3339(one.started_at),
        "last_sign_at": rfc3339(one.last_sign_at),
        "ended_at": rfc3339(one.ended_at) if one.ended_at else None,
        "alerts": sorted({alert.alertname for alert in one.alerts}),
        "violations": one.violations,
        "rollbacks": [change.rollout for change in one.changes if change.is_rollback],
    }


def _story(told: Told, base_url: str) -> Json:
    affected = told.affected
    return {
        "schema": "incident/1",
        **_answer(told.incident, base_url),
        "affected": {
            "principals": sorted(affected.principals)[:1000],
            "runs": sorted(affected.runs)[:1000],
            "users": len(affected.principals),
            "active": max(affected.active, len(affected.principals)),
            "at_least": affected.is_lower_bound,
        },
        "defects": [
            {
                "kind": one.kind, "grade": one.grade, "fingerprint": one.fingerprint, "first": rfc3339(one.first),
                "last": rfc3339(one.last),
                "violations": one.violations, "records": one.records,
            }
            for one in told.defects
        ],
        "story": [{"time": rfc3339(step.at), "what": step.what, "text": step.text} | step.about for step in told.steps],
    }  # fmt: skip
