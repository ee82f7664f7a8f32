"""`POST /v1/logs`: logs of any OpenTelemetry SDK or Collector, kept as records. Answers are those of OTLP/HTTP.

Senders give up on every error but 429, 502, 503 and 504, and take any 2xx or 3xx for delivered: what may go well later is
503, log records that never will are counted in `partial_success`, and nothing is redirected.
"""

from __future__ import annotations

import time
from collections import Counter

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # the package has no types
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from isolation_monitor.collector.body import read_body
from isolation_monitor.collector.evidence.counting import counted
from isolation_monitor.collector.evidence.otlp import JSON, PROTOBUF, parse_logs
from isolation_monitor.collector.evidence.routes import WriterDep
from isolation_monitor.collector.evidence.schemas import texts_of
from isolation_monitor.collector.evidence.writer import RecordWriter
from isolation_monitor.collector.problems import Problem, RequestTimeout, Unavailable
from isolation_monitor.collector.runtime import Runtime, RuntimeDep, require_room
from isolation_monitor.collector.security import Access, AccessDep, requires
from isolation_monitor.collector.storage.database import StoreUnavailable

router = APIRouter(prefix="/v1", tags=["evidence"])

_INVALID_ARGUMENT, _UNAVAILABLE = 3, 14
"""Codes of google.rpc that the specification of OTLP names."""


@router.post("/logs", dependencies=[Depends(requires("ingest", per_service=True))])
async def post_logs(request: Request, runtime: RuntimeDep, access: AccessDep, writer: WriterDep) -> Response:
    """Keep the log records of an OTLP export; 200 means that all but the rejected ones are on disk."""
    as_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON
    try:
        return await _keep(request, runtime, access, writer)
    except RequestTimeout as slow:
        return _refusal(Unavailable(slow.detail), as_json)
    except StoreUnavailable as error:
        return _refusal(Unavailable(f"{error}; nothing was stored, send it again"), as_json)
    except Problem as problem:
        return _refusal(problem, as_json)


async def _keep(request: Request, runtime: Runtime, access: Access, writer: RecordWriter) -> Response:
    started = time.perf_counter()
    require_room(runtime)
    settings, intake = runtime.settings, request.app.state.intake
    with counted(runtime.metrics), intake.hold() as held:
        media, body = await read_body(request, runtime.body_limits, (PROTOBUF, JSON), held.take)
        async with intake.turn():
            batches = parse_logs(body, media, runtime.clock(), max_records=settings.max_records, max_record_bytes=settings.max_record_bytes)
        del body
        records: Counter[str] = Counter()
        for batch in batches:
            records[batch.service] += len(batch) + len(batch.rejected)
        access.admit(records)
        stored = await writer.take(batches, held, runtime.clock())
    refused = sorted([*(item for batch in batches for item in batch.rejected), *stored.refused], key=lambda item: item.index)
    runtime.metrics.batch_stored(stored.accepted, stored.duplicate, len(refused), time.perf_counter() - started)
    if media == JSON:
        partial = {"partialSuccess": {"rejectedLogRecords": str(len(refused)), "errorMessage": texts_of(refused)}} if refused else {}
        return Response(msgspec.json.encode(partial), media_type=JSON)
    answer = ExportLogsServiceResponse()
    if refused:
        answer.partial_success.rejected_log_records = len(refused)
        answer.partial_success.error_message = texts_of(refused)
    return Response(answer.SerializeToString(), media_type=PROTOBUF)


def _refusal(problem: Problem, as_json: bool) -> Response:
    """Return the error as OTLP wants it: a google.rpc.Status in the encoding of the request."""
    code = _UNAVAILABLE if problem.status == Unavailable.status else _INVALID_ARGUMENT
    if as_json:
        body = msgspec.json.encode({"code": code, "message": problem.detail})
    else:
        body = Status(code=code, message=problem.detail).SerializeToString()
    return Response(body, problem.status, headers=problem.headers, media_type=JSON if as_json else PROTOBUF)
