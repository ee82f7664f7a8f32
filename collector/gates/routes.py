"""Gates over HTTP. An answer, also a bad one, is always 200 with strict JSON; 503 means that there is none."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.gates.service import GateService
from isolation_monitor.collector.problems import JsonResponse
from isolation_monitor.collector.security import AccessDep, requires

router = APIRouter(prefix="/v1/gates", tags=["gates"])


async def _service(request: Request) -> GateService:
    service: GateService = request.app.state.gates
    return service


Gates = Annotated[GateService, Depends(_service)]
NO_STORE = {"Cache-Control": "no-store"}


@router.get("/{rollout}", dependencies=[Depends(requires("gates", "read", per_service=True))])
async def get_gate(
    gates: Gates, access: AccessDep, rollout: str, stage: Annotated[str, Query(max_length=100, pattern=r"^[A-Za-z0-9._-]*$")] = ""
) -> JsonResponse:
    """Evaluate the gate of a rollout now."""
    if access.services is not None:
        await gates.check(rollout, access.services)
    return JsonResponse(await gates.evaluate(rollout, stage), headers=NO_STORE)


@router.get("/{rollout}/decisions/{decision_id}", dependencies=[Depends(requires("read", per_service=True))])
async def get_decision(gates: Gates, access: AccessDep, rollout: str, decision_id: str) -> JsonResponse:
    """Return one evaluation with everything that went in, enough to replay it."""
    if access.services is not None:
        await gates.check(rollout, access.services)
    found = await gates.decision(rollout, decision_id)
    return JsonResponse(
        {
            "schema": "gate-decision/1",
            "decision_id": found.id,
            "rollout": found.rollout,
            "as_of": rfc3339(found.as_of),
            "verdict": found.verdict,
            "answer": found.answer,
            "inputs": found.inputs,
            "config": found.config,
            "config_sha256": found.config_sha256,
            "inputs_sha256": found.inputs_sha256,
        }
    )
