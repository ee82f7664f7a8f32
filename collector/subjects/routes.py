"""Forgetting over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.paging import following
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import requires
from isolation_monitor.collector.subjects.domain import Forgetting
from isolation_monitor.collector.subjects.service import SubjectService

router = APIRouter(prefix="/v1", tags=["subjects"])
_NO_STORE = {"Cache-Control": "no-store"}


@router.delete("/subjects/{principal}", dependencies=[Depends(requires("operate", lent=False))])
async def forget_subject(
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[str, Path(max_length=64)],
    actor: Annotated[str, Query(min_length=1, max_length=200)],
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> JsonResponse:
    """Forget a user by the hash that evidence has; `actor` is who asks for it. Works for a few seconds: call `next` until it is null."""
    progress = await SubjectService(runtime.database, runtime.clock).forget(principal, actor, cursor)
    answer = {"schema": "forgetting/1"} | _answer(progress.forgetting) | following(request, progress.cursor, has_more=True)
    return JsonResponse(answer, headers=_NO_STORE)


@router.get("/forgettings", dependencies=[Depends(requires("read"))])
async def list_forgettings(runtime: RuntimeDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> JsonResponse:
    """List who had somebody forgotten, when, and how many records it concerned; never of whom."""
    found = await SubjectService(runtime.database, runtime.clock).newest(limit)
    return JsonResponse({"schema": "forgettings/1", "items": [_answer(one) for one in found]}, headers=_NO_STORE)


def _answer(one: Forgetting) -> dict[str, Any]:  # Any: JSON
    return {
        "id": one.id,
        "subject": one.subject,
        "actor": one.actor,
        "started_at": rfc3339(one.started_at),
        "finished_at": rfc3339(one.finished_at) if one.finished_at else None,
        "removed": one.removed,
        "changed": one.changed,
    }
