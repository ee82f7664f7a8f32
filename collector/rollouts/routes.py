"""Rollouts over HTTP: watch one, apply a file, take steps, look at them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Request

from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.problems import Conflict, JsonResponse, NotFound
from isolation_monitor.collector.rollouts.domain import Action, RolloutPlan, Who
from isolation_monitor.collector.rollouts.schemas import ApplyIn, RolloutIn, StepIn, event_answer, read, rollout_answer, spec_of
from isolation_monitor.collector.rollouts.service import Gate, RolloutService
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import AccessDep, AllowedService, requires

router = APIRouter(prefix="/v1", tags=["rollouts"])

_STEPS: Final[dict[str, Action]] = {
    "start": "start",
    "advance": "advance",
    "hold": "hold",
    "rollback": "rollback",
    "re-arm": "re-arm",
}
NO_STORE: Final = {"Cache-Control": "no-store"}
Name = Annotated[str, Path(max_length=100)]
_look = Depends(requires("read", "operate", "ingest", per_service=True))
_operate = Depends(requires("operate", per_service=True))


async def _service(request: Request) -> RolloutService:
    service: RolloutService = request.app.state.rollouts
    return service


async def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gates
    return gate


Rollouts = Annotated[RolloutService, Depends(_service)]
TheGate = Annotated[Gate, Depends(_gate)]


@router.post("/rollouts", dependencies=[_look], openapi_extra=body_of(RolloutIn))
async def watch_rollout(request: Request, runtime: RuntimeDep, access: AccessDep, rollouts: Rollouts) -> JsonResponse:
    """Start watching a rollout; 201, also when the same body was sent before; 409 when the name has another plan."""
    plan = await read(request, runtime.body_limits, RolloutIn)
    access.check(plan.service)
    return JsonResponse(rollout_answer(await rollouts.watch(RolloutPlan(**plan.model_dump()))), status_code=201)


@router.get("/rollouts", dependencies=[_look])
async def list_rollouts(rollouts: Rollouts, service: AllowedService) -> JsonResponse:
    """List all rollouts by name."""
    items = [rollout_answer(rollout) for rollout in await rollouts.all(service)]
    return JsonResponse({"schema": "rollouts/1", "items": items}, headers=NO_STORE)


@router.get("/rollouts/{name}", dependencies=[_look])
async def get_rollout(rollouts: Rollouts, access: AccessDep, name: Name) -> JsonResponse:
    return JsonResponse(rollout_answer(await rollouts.get(name, access.services)), headers=NO_STORE)


@router.get("/rollouts/{name}/history", dependencies=[_look])
async def get_history(rollouts: Rollouts, access: AccessDep, name: Name, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> JsonResponse:
    """List the changes of a rollout, newest first: who did what and why."""
    await rollouts.get(name, access.services)
    items = [event_answer(event) for event in await rollouts.history(name, limit)]
    return JsonResponse({"schema": "rollout-history/1", "rollout": name, "items": items}, headers=NO_STORE)


@router.put("/rollouts/{name}", dependencies=[_operate], openapi_extra=body_of(ApplyIn))
async def apply_rollout(request: Request, runtime: RuntimeDep, access: AccessDep, rollouts: Rollouts, name: Name) -> JsonResponse:
    """Store a rollout's file. Nobody's variant changes by it; a new rollout waits for its start."""
    body = await read(request, runtime.body_limits, ApplyIn)
    spec = spec_of(name, body.spec)
    access.check(spec.service)
    await _check_taken(rollouts, access, name)
    event = await rollouts.apply(spec, Who(body.actor, body.reason))
    answer = rollout_answer(await rollouts.get(name)) | {"changed": event is not None}
    return JsonResponse(answer, status_code=201 if event is not None and event.from_status == "none" else 200)


@router.post("/rollouts/{name}/{step}", dependencies=[_operate], openapi_extra=body_of(StepIn))
async def take_step(
    request: Request, runtime: RuntimeDep, access: AccessDep, rollouts: Rollouts, gate: TheGate, name: Name, step: str
) -> JsonResponse:
    """Start, advance, hold, roll back or re-arm. A step that was taken already answers 200 with `changed` false."""
    action = _STEPS.get(step)
    if action is None:
        raise NotFound(f"there is no step {step[:100]!r}: use {', '.join(_STEPS)}")
    body = await read(request, runtime.body_limits, StepIn)
    if access.services is not None:
        await rollouts.get(name, access.services)
    decision_id, expected, reason = None, body.expected_revision, body.reason
    if action == "advance":
        decision_id, revision, overruled = await _may_advance(rollouts, gate, name, force=body.force)
        reason = f"{reason} (forced)" if overruled else reason
        # What was judged is what moves on: a rollback in between must win.
        expected = revision if expected is None else expected
    changed = await rollouts.change(name, action, Who(body.actor, reason, decision_id), expected_revision=expected)
    return JsonResponse(rollout_answer(await rollouts.get(name)) | {"changed": changed})


async def _check_taken(rollouts: RolloutService, access: AccessDep, name: str) -> None:
    """Raises Conflict when the name belongs to a service that the key is not for: it must not learn whose."""
    if access.services is None:
        return
    with suppress(NotFound):
        if not access.allows((await rollouts.get(name)).plan.service):
            raise Conflict(f"{name} is taken: choose another name")


async def _may_advance(rollouts: RolloutService, gate: Gate, name: str, *, force: bool) -> tuple[str | None, int, bool]:
    """Return the decision that lets a person advance, the revision it was made for, and whether the person overrules it.

    Raises:
        Conflict: the gate failed, or does not pass yet and the person does not insist.
    """
    rollout = await rollouts.staged(name)
    state, stage = rollout.state, rollout.stage
    if stage is None or state.status not in ("running", "held"):
        return None, state.revision, False
    answer = await gate.evaluate(name, state.stage)
    decision_id = answer.get("decision_id")
    verdict = answer.get("verdict")
    why = "; ".join(str(reason.get("detail", "")) for reason in answer.get("reasons", [])[:3])
    if verdict == "fail":
        raise Conflict(f"the gate of {name} failed ({why}): it is rolled back, not advanced")
    waits = verdict != "pass" or rollout.soaked_s < stage.soak_s
    if not force and verdict != "pass":
        raise Conflict(f"the gate of {name} says {verdict} ({why}): wait, or overrule it with force; the history will say so")
    if not force and waits:
        seen = f"{rollout.soaked_s:.0f} s of {stage.soak_s:.0f} s"
        raise Conflict(f"stage {stage.name} of {name} was seen in order for {seen}: wait, or overrule it with force")
    return decision_id, state.revision, waits
