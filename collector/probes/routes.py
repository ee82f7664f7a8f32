"""Probes over HTTP: how the endpoints are. Nothing here says what is probed: that is in the operator's file alone."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.probes.domain import Result
from isolation_monitor.collector.probes.service import ProbeNow, ProbeService
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import AllowedService, requires

router = APIRouter(prefix="/v1", tags=["probes"])

Json = dict[str, Any]  # Any: JSON


@router.get("/probes", dependencies=[Depends(requires("read", per_service=True))])
async def list_probes(
    request: Request,
    runtime: RuntimeDep,
    service: AllowedService,
    changes: Annotated[int, Query(ge=0, le=100, description="So many changes of each probe, newest first.")] = 0,
) -> JsonResponse:
    """List the endpoints of the operator's file with the last result of each, failing ones first.

    `file_problem` is there while the file was changed and cannot be used: the probes are then those of before.
    """
    probes: ProbeService = request.app.state.probes
    items = []
    for one in await probes.now(service):
        item = described(one)
        if changes:
            item["changes"] = [_result(change) for change in await probes.changes(one.probe.name, changes)]
        items.append(item)
    answer: Json = {"schema": "probes/1", "as_of": rfc3339(runtime.clock()), "items": items}
    if probes.problem:
        answer["file_problem"] = probes.problem
    return JsonResponse(answer)


def described(one: ProbeNow) -> Json:
    """Return one probe as JSON."""
    probe, state = one.probe, one.state
    return {
        "name": probe.name,
        "service": probe.service,
        "target": probe.shown_target,
        "module": probe.module,
        "by": probe.by,
        "interval_s": probe.interval_s,
        "timeout_s": probe.timeout_s,
        "slow_after_s": probe.slow_after_s,
        "state": one.word,
        "since": None if state is None else rfc3339(state.since),
        "failures": 0 if state is None else state.failures,
        "last": None if state is None else _result(state.last),
    }


def _result(result: Result) -> Json:
    expires = result.certificate_expires_at
    return {
        "time": rfc3339(result.at),
        "success": result.is_success,
        "reason": result.reason,
        "detail": result.detail,
        "status_code": result.status_code,
        "duration_s": round(result.duration_s, 6),
        "phases_s": result.phases_s,
        "redirects": result.redirects,
        "certificate_expires_at": None if expires is None else rfc3339(expires),
    }
