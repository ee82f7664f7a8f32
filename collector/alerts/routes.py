"""Alertmanager's webhook in, the list of what arrived out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.alerts.domain import NotificationQuery, ReceivedNotification
from isolation_monitor.collector.alerts.schemas import WebhookIn, parse_webhook
from isolation_monitor.collector.alerts.service import AlertService
from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.paging import Moment, following, make_cursor, read_cursor
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.runtime import Runtime, RuntimeDep
from isolation_monitor.collector.security import AllowedService, requires

router = APIRouter(prefix="/v1", tags=["alerts"])


def _service(runtime: Runtime) -> AlertService:
    return AlertService(runtime.database, runtime.clock)


@router.post("/alerts", dependencies=[Depends(requires("alerts", retry_by_503=True))], openapi_extra=body_of(WebhookIn))
async def post_alerts(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Receive one delivery. Trouble is 503, never 429: Alertmanager tries again after 5xx only."""
    notifications = parse_webhook(await read_json_body(request, runtime.body_limits))
    await _service(runtime).keep(notifications)
    for item in notifications:
        runtime.metrics.alert_received(item.alertname, item.status)
        if item.status == "firing" and item.labels.get("rollback") == "true":
            runtime.harm.give(item.labels.get("service", ""))
    return JsonResponse({"schema": "alerts-reply/1", "received": len(notifications)})


@router.get("/alerts", dependencies=[Depends(requires("read", per_service=True))])
async def list_alerts(
    request: Request,
    runtime: RuntimeDep,
    service: AllowedService,
    since: Moment | None = None,
    until: Moment | None = None,
    alertname: Annotated[str | None, Query(max_length=200)] = None,
    status: Literal["firing", "resolved"] | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List notifications by first arrival, newest first. `next_cursor` is null on the last page."""
    query = NotificationQuery(since, alertname, status, limit + 1, read_cursor(cursor), service, until)
    found = await _service(runtime).find(query)
    page = found[:limit]
    last = make_cursor(page[-1].received_at, page[-1].id) if page else None
    return JsonResponse(
        {"schema": "alerts/1", "items": [_answer(item) for item in page]} | following(request, last, has_more=len(found) > limit)
    )


def _answer(received: ReceivedNotification) -> dict[str, Any]:
    item = received.notification
    return {
        "id": received.id,
        "received_at": rfc3339(received.received_at),
        "last_received_at": rfc3339(received.last_received_at),
        "deliveries": received.deliveries,
        "status": item.status,
        "alertname": item.alertname,
        "receiver": item.receiver,
        "labels": item.labels,
        "annotations": item.annotations,
        "starts_at": rfc3339(item.starts_at),
        "ends_at": rfc3339(item.ends_at) if item.ends_at else None,
        "fingerprint": item.fingerprint,
    }
