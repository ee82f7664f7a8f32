"""Containers over HTTP: what there is, what happened, and what tools tell of having done."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator

from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.containers.domain import KINDS, Action, EngineState, Tracked
from isolation_monitor.collector.containers.repository import EventQuery, Received
from isolation_monitor.collector.containers.schemas import ActionsIn, parse_actions
from isolation_monitor.collector.containers.service import ContainerService
from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.paging import Moment, following, make_cursor, read_cursor
from isolation_monitor.collector.problems import Invalid, JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep, require_room
from isolation_monitor.collector.security import requires

router = APIRouter(prefix="/v1", tags=["containers"])

_LIMIT: Final = 1000
Json = dict[str, Any]  # Any: JSON


async def _service(request: Request) -> ContainerService:
    service: ContainerService = request.app.state.containers
    return service


ServiceDep = Annotated[ContainerService, Depends(_service)]


def _known_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in KINDS:
        raise Invalid(f"kind is one of {', '.join(KINDS)}")
    return kind


@router.get("/containers", dependencies=[Depends(requires("read"))])
async def list_containers(
    service: ServiceDep,
    runtime: RuntimeDep,
    engine: Annotated[str | None, Query(max_length=64)] = None,
    removed: bool = False,
) -> JsonResponse:
    """List the containers of all engines, or of one, and the engines' states; `removed` adds containers that went within a day."""
    now = runtime.clock()
    engines = await service.engines()
    found = await service.containers(engine, removed=removed)
    return JsonResponse(
        {
            "schema": "containers/1",
            "as_of": rfc3339(now),
            "engines": [_engine(one, service, now) for one in engines if engine in (None, one.name)],
            "items": [_container(name, one, service, now) for name, one in found],
        }
    )


@router.get("/container-events", dependencies=[Depends(requires("read"))])
async def list_events(
    request: Request,
    service: ServiceDep,
    since: Moment | None = None,
    until: Moment | None = None,
    kind: Annotated[str | None, Query(max_length=20), AfterValidator(_known_kind)] = None,
    container: Annotated[str | None, Query(max_length=300)] = None,
    engine: Annotated[str | None, Query(max_length=64)] = None,
    forced: bool | None = None,
    limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List what happened, newest first; `container` is a name or how an id begins. `next_cursor` is null on the last page."""
    found = await service.events(EventQuery(since, until, kind, container, engine, forced, limit + 1, read_cursor(cursor)))
    page = found[:limit]
    last = make_cursor(page[-1].happening.time, page[-1].happening.id) if page else None
    return JsonResponse(
        {"schema": "container-events/1", "items": [_event(one) for one in page]} | following(request, last, has_more=len(found) > limit)
    )


@router.get("/container-actions", dependencies=[Depends(requires("read"))])
async def list_actions(
    request: Request,
    service: ServiceDep,
    since: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> JsonResponse:
    """List what tools told of having done to containers, and what they refused, newest first."""
    found = await service.actions(since, limit + 1, read_cursor(cursor))
    page = found[:limit]
    last = make_cursor(page[-1].time, page[-1].id) if page else None
    return JsonResponse(
        {"schema": "container-actions/1", "items": [_action(one) for one in page]} | following(request, last, has_more=len(found) > limit)
    )


@router.post("/container-actions", dependencies=[Depends(requires("ingest"))], openapi_extra=body_of(ActionsIn))
async def post_actions(request: Request, runtime: RuntimeDep, service: ServiceDep) -> JsonResponse:
    """Store what somebody did to containers, or was refused. Answered when it is on disk; sending it again stores nothing twice."""
    actions = parse_actions(await read_json_body(request, runtime.body_limits), runtime.clock)
    require_room(runtime)
    return JsonResponse({"schema": "container-actions-reply/1", "stored": await service.keep(actions)})


def _engine(one: EngineState, service: ContainerService, now: datetime) -> Json:
    orphaned = one.orphan_volumes(now, service.rules)
    return {
        "name": one.name,
        "engine_id": one.engine_id,
        "state": "up" if one.is_up else "down",
        "since": rfc3339(one.since),
        "seen_at": rfc3339(one.seen_at),
        "version": one.version,
        "error": one.error or None,
        "dangling_volumes": one.dangling_volumes,
        "orphan_volumes": [{"name": name, "unused_since": rfc3339(one.unused_volumes[name])} for name in orphaned],
    }


def _container(engine: str, one: Tracked, service: ContainerService, now: datetime) -> Json:
    return {
        "engine": engine,
        "id": one.id,
        "name": one.name,
        "image": one.image,
        "image_created_at": _time(one.image_created_at),
        "owner": one.owner,
        "state": "removed" if one.removed_at is not None else one.status,
        "health": one.shown_health,
        "created_at": _time(one.created_at),
        "started_at": _time(one.started_at),
        "finished_at": _time(one.finished_at),
        "removed_at": _time(one.removed_at),
        "expires_at": _time(one.expires_at),
        "exit_code": one.exit_code,
        "reason": one.reason,
        "deaths": one.deaths,
        "restarts": one.restarts,
        "memory_bytes": one.memory_bytes,
        "memory_limit_bytes": one.memory_limit,
        "cpu_seconds": one.cpu_seconds,
        "cpu_limit_cores": one.cpu_limit,
        "orphan": one.is_orphan(now, service.rules),
        "expired": one.is_expired(now),
    }


def _event(received: Received) -> Json:
    one = received.happening
    return {
        "id": one.id,
        "time": rfc3339(one.time),
        "received_at": rfc3339(received.received_at),
        "engine": one.engine,
        "kind": one.kind,
        "container_id": one.container_id,
        "container": one.container,
        "image": one.image,
        "owner": one.owner,
        "actor": one.actor,
        "host": received.host,
        "signal": one.signal,
        "exit_code": one.exit_code,
        "reason": one.reason,
        "forced": one.forced,
        "after_stop_s": one.after_stop_s,
        "found_by": one.found_by,
        "detail": one.detail,
    }


def _action(one: Action) -> Json:
    return {name: getattr(one, name) for name in Action.__slots__} | {"time": rfc3339(one.time)}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
