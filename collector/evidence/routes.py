"""Records in, violations out, over HTTP."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.evidence import answers
from isolation_monitor.collector.evidence.domain import ViolationQuery
from isolation_monitor.collector.evidence.schemas import parse_batch
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.paging import Moment, make_cursor, read_cursor
from isolation_monitor.collector.problems import JsonResponse, MalformedBody, Problem, RequestTimeout, TooLarge, UnsupportedMedia
from isolation_monitor.collector.runtime import Runtime, RuntimeDep
from isolation_monitor.collector.security import requires
from isolation_monitor.collector.storage.database import StoreUnavailable

router = APIRouter(prefix="/v1", tags=["evidence"])

_REASONS: dict[type[Problem], str] = {
    MalformedBody: "malformed",
    TooLarge: "too_large",
    UnsupportedMedia: "media",
    RequestTimeout: "timeout",
}


def _service(runtime: Runtime) -> EvidenceService:
    return EvidenceService(runtime.database, runtime.clock)


@router.post("/records", dependencies=[Depends(requires("send"))])
async def post_records(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Store a batch of records; 200 means that everything accepted is on disk."""
    started = time.perf_counter()
    settings = runtime.settings
    try:
        body = await read_json_body(request, runtime.body_limits)
        batch = parse_batch(body, runtime.clock(), max_records=settings.max_records, max_record_bytes=settings.max_record_bytes)
        stored = await _service(runtime).keep(batch)
    except Problem as problem:
        runtime.metrics.batch_refused(_REASONS.get(type(problem), "invalid"))
        raise
    except StoreUnavailable:
        runtime.metrics.batch_refused("store_unavailable")
        raise
    except Exception:
        runtime.metrics.batch_refused("defect")
        raise
    if batch.may_be_harm:
        runtime.harm.give(batch.service)
    runtime.metrics.batch_stored(stored.accepted, stored.duplicate, len(batch.rejected), time.perf_counter() - started)
    return JsonResponse(answers.reply(batch, stored))


@router.get("/violations", dependencies=[Depends(requires("read"))])
async def list_violations(
    runtime: RuntimeDep,
    service: Annotated[str | None, Query(max_length=100)] = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    grade: Literal["crossed", "reachable", "hygiene"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    synthetic: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List violations, newest first. `next_cursor` is null on the last page."""
    after = read_cursor(cursor)
    # One more than asked for tells whether there is a next page.
    query = ViolationQuery(service, kind, grade, since, until, synthetic, limit + 1, after)
    found = await _service(runtime).find(query)
    page = found[:limit]
    following = make_cursor(page[-1].record.time, page[-1].record.id) if len(found) > limit else None
    return JsonResponse(
        {"schema": "violations/1", "items": [answers.violation(item, runtime.settings.base_url) for item in page], "next_cursor": following}
    )


@router.get("/violation-groups", dependencies=[Depends(requires("read"))])
async def list_groups(
    runtime: RuntimeDep,
    service: Annotated[str | None, Query(max_length=100)] = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    grade: Literal["crossed", "reachable", "hygiene"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    synthetic: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JsonResponse:
    """List violations by fingerprint, the newest first: one group is one defect, with how often it happened and to how many users."""
    found = await _service(runtime).groups(ViolationQuery(service, kind, grade, since, until, synthetic, limit))
    return JsonResponse({"schema": "violation-groups/1", "items": [answers.group(item, runtime.settings.base_url) for item in found]})


@router.get("/violations/{violation_id}", dependencies=[Depends(requires("read"))])
async def get_violation(runtime: RuntimeDep, violation_id: str) -> JsonResponse:
    """Return the evidence of one violation: both sides, and its escalations and retractions."""
    found, amendments = await _service(runtime).violation(violation_id)
    return JsonResponse(answers.violation_with_amendments(found, amendments, runtime.settings.base_url))
