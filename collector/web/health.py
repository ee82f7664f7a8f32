"""Health and metrics. `/healthz`: this process runs. `/readyz`: it can do its work, or says what is missing."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from isolation_monitor.collector.ci.numbers import SuiteWatch
from isolation_monitor.collector.problems import JsonResponse, Unavailable
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import requires
from isolation_monitor.collector.storage.schema import revision_of

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> JsonResponse:
    return JsonResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """200 when the store is reachable and its schema is the one this version needs."""
    async with runtime.database.reading() as connection:
        found = await revision_of(connection)
    needed: str = request.app.state.schema_revision
    if found != needed:
        have = "was never migrated" if found is None else f"is at revision {found}"
        raise Unavailable(f"the database {have}, this version needs {needed}: run 'isomon migrate'", retry_after_s=5)
    ready: dict[str, object] = {"status": "ready", "schema": found, "database": runtime.database.dialect}
    disk = runtime.disk()
    if disk is not None:
        # Still ready: what is stored can be read, and what comes is answered with a reason.
        ready["disk"] = {"used_ratio": round(disk.used_ratio, 4), "limit": disk.limit, "is_full": disk.is_full}
    return JsonResponse(ready)


@router.get("/metrics", dependencies=[Depends(requires("read"))])
async def metrics(request: Request, runtime: RuntimeDep) -> Response:
    if (disk := runtime.disk()) is not None:
        runtime.metrics.disk(disk.used_ratio)
    suites: SuiteWatch = request.app.state.suite_watch
    await suites.look()
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
