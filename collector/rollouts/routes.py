"""Rollouts over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.problems import Invalid, JsonResponse, MalformedBody
from isolation_monitor.collector.rollouts.domain import (
    DEFAULT_MIN_EXPOSED_REQUESTS,
    DEFAULT_MIN_OWED_EVENTS,
    Rollout,
    RolloutPlan,
)
from isolation_monitor.collector.rollouts.service import RolloutService
from isolation_monitor.collector.runtime import Runtime, RuntimeDep
from isolation_monitor.collector.security import requires

router = APIRouter(prefix="/v1", tags=["rollouts"])

Service = Annotated[
    str,
    BeforeValidator(lambda value: jsontext.one_line(value) if isinstance(value, str) else value),
    StringConstraints(min_length=1, max_length=100),
]


class RolloutIn(BaseModel):
    """The body of POST /v1/rollouts. Unknown fields are refused: a misspelt threshold must not be ignored."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    service: Service
    arm: Literal["on", "off", "none"] | None = None
    min_exposed_requests: int = Field(default=DEFAULT_MIN_EXPOSED_REQUESTS, ge=1, le=10**9)
    min_owed_events: int = Field(default=DEFAULT_MIN_OWED_EVENTS, ge=0, le=10**9)


def _service(runtime: Runtime) -> RolloutService:
    return RolloutService(runtime.database, runtime.clock)


@router.post("/rollouts", dependencies=[Depends(requires("read", "send"))])
async def start_rollout(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Start watching a rollout; 201, also when the same body was sent before; 409 when the name has another plan."""
    body = await read_json_body(request, runtime.body_limits)
    try:
        plan = RolloutIn.model_validate(jsontext.clean(jsontext.loads(body)))
    except jsontext.JsonError as error:
        raise MalformedBody(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise Invalid(f"{'.'.join(str(part) for part in first['loc']) or 'the body'}: {first['msg']}") from None
    rollout = await _service(runtime).start(RolloutPlan(**plan.model_dump()))
    return JsonResponse(_answer(rollout), status_code=201)


@router.get("/rollouts/{name}", dependencies=[Depends(requires("read", "send"))])
async def get_rollout(runtime: RuntimeDep, name: str) -> JsonResponse:
    return JsonResponse(_answer(await _service(runtime).get(name)))


def _answer(rollout: Rollout) -> dict[str, Any]:
    plan = rollout.plan
    return {
        "schema": "rollout/1",
        "name": plan.name,
        "service": plan.service,
        "arm": plan.arm,
        "min_exposed_requests": plan.min_exposed_requests,
        "min_owed_events": plan.min_owed_events,
        "started_at": rfc3339(rollout.started_at),
        "failed_at": rfc3339(rollout.failed_at) if rollout.failed_at else None,
    }
