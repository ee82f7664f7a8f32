"""Rollouts at the HTTP edge: bodies that are read strictly, and the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.body import BodyLimits, M, parsed, read_json_body
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.problems import Invalid
from isolation_monitor.collector.rollouts.domain import DEFAULT_MIN_EXPOSED_REQUESTS, DEFAULT_MIN_OWED_EVENTS, Rollout, RolloutEvent
from isolation_monitor.collector.rollouts.spec import NAME, RolloutSpec, SpecError, parse_spec, written

Json = dict[str, Any]  # Any: JSON


def _line(value: object) -> object:
    return jsontext.one_line(value) if isinstance(value, str) else value


ServiceName = Annotated[str, BeforeValidator(_line), StringConstraints(min_length=1, max_length=100)]
Actor = Annotated[str, BeforeValidator(_line), StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, BeforeValidator(_line), StringConstraints(min_length=1, max_length=2000)]


class RolloutIn(BaseModel):
    """The body of POST /v1/rollouts. Unknown fields are refused: a misspelt threshold must not be ignored."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    service: ServiceName
    arm: Literal["on", "off", "none"] | None = None
    min_exposed_requests: int = Field(default=DEFAULT_MIN_EXPOSED_REQUESTS, ge=1, le=10**9)
    min_owed_events: int = Field(default=DEFAULT_MIN_OWED_EVENTS, ge=0, le=10**9)


class ApplyIn(BaseModel):
    """The body of PUT /v1/rollouts/{name}; `spec` is the file as JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    spec: Json
    actor: Actor
    reason: Reason


class StepIn(BaseModel):
    """The body of a step. `force` overrules a gate that does not pass yet, never one that failed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    actor: Actor
    reason: Reason
    force: bool = False
    expected_revision: int | None = Field(default=None, ge=0)


async def read(request: Request, limits: BodyLimits, model: type[M]) -> M:
    """Return the body of a request.

    Raises:
        MalformedBody: not JSON.
        Invalid: not what `model` says.
    """
    return parsed(await read_json_body(request, limits), model)


def spec_of(name: str, value: Json) -> RolloutSpec:
    """Return the checked file.

    Raises:
        Invalid: it cannot be used; `errors` names each place.
    """
    try:
        spec = parse_spec(value)
    except SpecError as error:
        places = [{"where": written(place), "reason": text} for place, text in error.mistakes]
        raise Invalid(f"the file cannot be used: {error}"[:2000], errors=places) from None
    if spec.rollout != name:
        raise Invalid(f"the file is of rollout {spec.rollout!r}, the address of {name[:100]!r}")
    return spec


def rollout_answer(rollout: Rollout) -> Json:
    """Return `rollout/1`. `state` is null for a rollout that is only watched."""
    plan, staged = rollout.plan, rollout.staged
    answer: Json = {
        "schema": "rollout/1",
        "name": plan.name,
        "service": plan.service,
        "arm": plan.arm,
        "min_exposed_requests": plan.min_exposed_requests,
        "min_owed_events": plan.min_owed_events,
        "started_at": rfc3339(rollout.started_at),
        "failed_at": rfc3339(rollout.failed_at) if rollout.failed_at else None,
        "state": None,
    }
    if staged is None:
        return answer
    state, stage = staged.state, staged.stage
    following = staged.spec.after(state.stage) if stage else (staged.spec.stages[0] if state.status == "ready" else None)
    answer["state"] = {
        "status": state.status,
        "stage": state.stage,
        "percent": state.percent,
        "holdback_percent": state.holdback_percent,
        "next_stage": following.name if following else None,
        "advance": stage.advance if stage else None,
        "triggers": list(stage.triggers) if stage else [],
        "soaked_s": round(staged.soaked_s, 1),
        "soak_s": stage.soak_s if stage else None,
        "stage_started_at": rfc3339(staged.stage_started_at),
        "revision": state.revision,
        "changed_at": rfc3339(state.changed_at),
        "watched_until": rfc3339(staged.watched_until) if staged.watched_until else None,
        "actor": state.actor,
        "reason": state.reason,
        "spec": dict(staged.spec.source),
    }
    return answer


def event_answer(event: RolloutEvent) -> Json:
    """Return one change of a rollout."""
    return {
        "id": event.id,
        "sequence": event.sequence,
        "rollout": event.rollout,
        "revision": event.revision,
        "action": event.action,
        "from_status": event.from_status,
        "to_status": event.to_status,
        "from_stage": event.from_stage,
        "to_stage": event.to_stage,
        "actor": event.actor,
        "reason": event.reason,
        "decision_id": event.decision_id,
        "at": rfc3339(event.at),
    }
