"""Starts and ends of processes over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.lifecycle.domain import STARTUP, LifecycleQuery, LifecycleRecord
from isolation_monitor.collector.lifecycle.service import LifecycleService
from isolation_monitor.collector.paging import Moment, following, make_cursor, read_cursor
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import AccessDep, AllowedService, requires

router = APIRouter(prefix="/v1", tags=["lifecycle"])

Json = dict[str, Any]  # Any: JSON
Kind = Literal["hanging", "failed", "startup", "left", "cleanup"]


def _service(runtime: RuntimeDep) -> LifecycleService:
    return LifecycleService(runtime.database, runtime.clock)


ServiceDep = Annotated[LifecycleService, Depends(_service)]


@router.get("/lifecycle", dependencies=[Depends(requires("read", per_service=True))])
async def list_lifecycle(
    request: Request,
    runtime: RuntimeDep,
    lifecycle: ServiceDep,
    service: AllowedService,
    kind: Kind | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List start-ups and clean-ups, newest first: phases that hang, start-ups that failed, clean-ups that left something, or all."""
    found = await lifecycle.find(LifecycleQuery(service, kind, since, until, limit + 1, read_cursor(cursor)))
    page = found[:limit]
    last = make_cursor(page[-1].time, page[-1].id) if page else None
    items = [_answer(one, runtime.settings.base_url) for one in page]
    return JsonResponse({"schema": "lifecycle/1", "items": items} | following(request, last, has_more=len(found) > limit))


@router.get("/lifecycle/{lifecycle_id}", dependencies=[Depends(requires("read", per_service=True))])
async def get_lifecycle(runtime: RuntimeDep, access: AccessDep, lifecycle: ServiceDep, lifecycle_id: str) -> JsonResponse:
    """Return one start-up or clean-up by the id of its record, with what else its process told, oldest first."""
    story = await lifecycle.tell(lifecycle_id, access.services)
    base_url = runtime.settings.base_url
    others = [_answer(one, base_url) for one in story.others]
    return JsonResponse({"schema": "lifecycle-record/1"} | _answer(story.record, base_url) | {"others": others})


def _answer(one: LifecycleRecord, base_url: str) -> Json:
    about: Json = {
        "id": one.id,
        "url": f"{base_url}/v1/lifecycle/{one.id}",
        "time": rfc3339(one.time),
        "received_at": rfc3339(one.received_at),
        "service": one.service,
        "instance": one.instance,
        "type": one.type,
        "state": one.state,
        "duration_s": one.duration_s,
    }
    if one.type == STARTUP:
        phases = [
            {"phase": part.name, "state": part.outcome, "duration_s": part.duration_s, "error": part.error or None} for part in one.parts
        ]
        return about | {"phase": one.phase or None, "waits_for": one.waits_for or None, "stack": one.stack, "phases": phases}
    steps = [asdict(part) | {"error": part.error or None} for part in one.parts]
    return about | {"reason": one.reason or None, "steps": steps, "left": one.left, "detail": one.named}
