"""Records in, violations out, over HTTP."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.body import read_body
from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.evidence import answers
from isolation_monitor.collector.evidence.counting import counted
from isolation_monitor.collector.evidence.domain import RunQuery, ViolationQuery
from isolation_monitor.collector.evidence.schemas import BatchIn, parse_batch
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.evidence.writer import RecordWriter
from isolation_monitor.collector.paging import Moment, chosen_fields, following, make_cursor, only, read_cursor
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep, require_room
from isolation_monitor.collector.security import AccessDep, AllowedService, requires

router = APIRouter(prefix="/v1", tags=["evidence"])


def _service(runtime: RuntimeDep) -> EvidenceService:
    return EvidenceService(runtime.database, runtime.clock)


def _writer(request: Request) -> RecordWriter:
    writer: RecordWriter = request.app.state.record_writer
    return writer


ServiceDep = Annotated[EvidenceService, Depends(_service)]
WriterDep = Annotated[RecordWriter, Depends(_writer)]


@router.post("/records", dependencies=[Depends(requires("ingest", per_service=True))], openapi_extra=body_of(BatchIn))
async def post_records(request: Request, runtime: RuntimeDep, access: AccessDep, writer: WriterDep) -> JsonResponse:
    """Store a batch of records; 200 means that everything accepted is on disk."""
    started = time.perf_counter()
    require_room(runtime)
    settings, intake = runtime.settings, request.app.state.intake
    with counted(runtime.metrics), intake.hold() as held:
        _, body = await read_body(request, runtime.body_limits, ("application/json",), held.take)
        async with intake.turn():
            batch = parse_batch(body, runtime.clock(), max_records=settings.max_records, max_record_bytes=settings.max_record_bytes)
        # What waits for its commit is the rows; the text they came in is not needed any more.
        del body
        access.admit({batch.service: len(batch) + len(batch.rejected)})
        stored = await writer.take([batch], held, runtime.clock())
    rejected = len(batch.rejected) + len(stored.refused)
    runtime.metrics.batch_stored(stored.accepted, stored.duplicate, rejected, time.perf_counter() - started)
    return JsonResponse(answers.reply(batch, stored))


Name = Annotated[str | None, Query(max_length=100)]
Long = Annotated[str | None, Query(max_length=200)]
Fields = Annotated[str | None, Query(max_length=500, description="Names of the fields that are wanted, with commas; all without it.")]
Cursor = Annotated[str | None, Query(max_length=300, description="next_cursor of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/violations", dependencies=[Depends(requires("read", per_service=True))])
async def list_violations(
    request: Request,
    runtime: RuntimeDep,
    evidence: ServiceDep,
    service: AllowedService,
    kind: Name = None,
    grade: Literal["crossed", "reachable", "hygiene"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    synthetic: bool | None = None,
    detector: Name = None,
    arm: Name = None,
    fingerprint: Name = None,
    instance: Long = None,
    retracted: bool | None = None,
    principal: Name = None,
    run_id: Long = None,
    request_id: Long = None,
    suppressed: bool | None = None,
    order: Literal["newest", "oldest"] = "newest",
    fields: Fields = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JsonResponse:
    """List violations, newest first or oldest first. `next` is null on the last page."""
    chosen = chosen_fields(fields, answers.VIOLATION_FIELDS)
    # One more than asked for tells whether there is a next page.
    query = ViolationQuery(
        service, kind, grade, since, until, synthetic, limit + 1, read_cursor(cursor), detector, arm, fingerprint, instance, retracted,
        principal, run_id, order == "oldest", suppressed, request_id,
    )  # fmt: skip
    found = await evidence.find(query)
    page = found[:limit]
    items = [only(answers.violation(item, runtime.settings.base_url), chosen) for item in page]
    last = make_cursor(page[-1].record.time, page[-1].record.id) if page else None
    return JsonResponse({"schema": "violations/1", "items": items} | following(request, last, has_more=len(found) > limit))


@router.get("/runs", dependencies=[Depends(requires("read", per_service=True))])
async def list_runs(
    request: Request,
    runtime: RuntimeDep,
    evidence: ServiceDep,
    service: AllowedService,
    outcome: Name = None,
    run_id: Long = None,
    principal: Name = None,
    since: Moment | None = None,
    until: Moment | None = None,
    order: Literal["newest", "oldest"] = "newest",
    fields: Fields = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JsonResponse:
    """List runs in which something went wrong, newest first or oldest first."""
    chosen = chosen_fields(fields, answers.RUN_FIELDS)
    query = RunQuery(service, outcome, run_id, principal, since, until, limit + 1, read_cursor(cursor), order == "oldest")
    found = await evidence.runs(query)
    page = found[:limit]
    items = [only(answers.run(item, runtime.settings.base_url), chosen) for item in page]
    last = make_cursor(page[-1].record.time, page[-1].record.id) if page else None
    return JsonResponse({"schema": "runs/1", "items": items} | following(request, last, has_more=len(found) > limit))


@router.get("/runs/{record_id}", dependencies=[Depends(requires("read", per_service=True))])
async def get_run(runtime: RuntimeDep, access: AccessDep, evidence: ServiceDep, record_id: str) -> JsonResponse:
    """Return one run by the id of its record."""
    return JsonResponse({"schema": "run/1"} | answers.run(await evidence.run(record_id, access.services), runtime.settings.base_url))


@router.get("/violation-history", dependencies=[Depends(requires("read", per_service=True))])
async def get_history(
    evidence: ServiceDep,
    service: AllowedService,
    since: Moment | None = None,
    until: Moment | None = None,
    by: Literal["service", "kind", "grade", "detector", "arm"] | None = None,
    step: Literal["hour", "day"] = "day",
    kind: Name = None,
    grade: Literal["crossed", "reachable", "hygiene"] | None = None,
    detector: Name = None,
    arm: Name = None,
    synthetic: bool | None = None,
    suppressed: bool | None = None,
) -> JsonResponse:
    """Count violations by hour or day (UTC), as far back as they are kept; retracted ones are left out."""
    found, query = await evidence.history(since, until, by, step == "day", service, kind, grade, detector, arm, synthetic, suppressed)
    return JsonResponse(answers.history(found, query))


@router.get("/violation-groups", dependencies=[Depends(requires("read", per_service=True))])
async def list_groups(
    runtime: RuntimeDep,
    evidence: ServiceDep,
    service: AllowedService,
    kind: Name = None,
    grade: Literal["crossed", "reachable", "hygiene"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    synthetic: bool | None = None,
    detector: Name = None,
    arm: Name = None,
    fingerprint: Name = None,
    suppressed: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JsonResponse:
    """List violations by fingerprint, the newest first: one group is one defect, with how often it happened and to how many users."""
    query = ViolationQuery(
        service, kind, grade, since, until, synthetic, limit, detector=detector, arm=arm, fingerprint=fingerprint, suppressed=suppressed
    )
    found = await evidence.groups(query)
    return JsonResponse({"schema": "violation-groups/1", "items": [answers.group(item, runtime.settings.base_url) for item in found]})


@router.get("/violations/{violation_id}", dependencies=[Depends(requires("read", per_service=True))])
async def get_violation(runtime: RuntimeDep, access: AccessDep, evidence: ServiceDep, violation_id: str) -> JsonResponse:
    """Return the evidence of one violation: both sides, and its escalations and retractions."""
    found, amendments = await evidence.violation(violation_id, access.services)
    return JsonResponse(answers.violation_with_amendments(found, amendments, runtime.settings.base_url))
