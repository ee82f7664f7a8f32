"""Who waits, over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.queues.domain import ServiceQueues, UserQueue
from isolation_monitor.collector.queues.service import QueueService
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import AllowedService, requires

router = APIRouter(prefix="/v1", tags=["queues"])


@router.get("/queues", dependencies=[Depends(requires("read", per_service=True))])
async def list_queues(
    runtime: RuntimeDep,
    service: AllowedService,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> JsonResponse:
    """List the users for whom most events wait now, by keyed hash, and what waits in each service."""
    users, services = await QueueService(runtime.database, runtime.clock).deepest(service, limit)
    now = runtime.clock()
    return JsonResponse(
        {
            "schema": "queues/1",
            "as_of": rfc3339(now),
            "items": [_user(one, now) for one in users],
            "services": [_service(one) for one in services],
        }
    )


def _user(one: UserQueue, now: datetime) -> dict[str, Any]:  # Any: JSON
    return {
        "service": one.service,
        "principal": one.principal,
        "events": one.events,
        "bytes": one.bytes,
        "oldest": rfc3339(one.oldest),
        "age_s": round(max(0.0, (now - one.oldest).total_seconds()), 3),
        "connections": one.connections,
        "instances": one.instances,
        "at_least": one.is_lower_bound,
    }


def _service(one: ServiceQueues) -> dict[str, Any]:  # Any: JSON
    return asdict(one) | {"told_at": rfc3339(one.told_at)}
