"""Flagger's webhooks: a gate of four verdicts for a caller that knows only yes and no.

Flagger takes every status up to 202 for yes (204 is a no), tries 5xx and 429 again and then loses the body, and shows
the body of any other status in the canary's events. So a no is always 409 with the reason, also where the gate itself
could not look, and what the caller got wrong is another 4xx. Which question is asked decides what is a yes:

| verdict | rollback | confirm | open | check |
| --- | --- | --- | --- | --- |
| pass | no | yes | yes | yes |
| inconclusive | no | no | yes | yes |
| error | no | no | no | yes |
| fail | yes | no | no | no |

`rollback` acts on its yes. `confirm` (traffic increase, promotion) and `open` (confirm-rollout: there is no traffic yet)
only wait on a no. A no of `check` (hook type `rollout`) counts as a failed check, so nothing but a fail may say it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, StringConstraints

from isolation_monitor.collector.body import parsed, read_json_body
from isolation_monitor.collector.documented import body_of
from isolation_monitor.collector.gates.service import GateService
from isolation_monitor.collector.problems import Conflict, JsonResponse
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import Access, requires
from isolation_monitor.collector.storage.database import StoreUnavailable

router = APIRouter(prefix="/flagger", tags=["flagger"], dependencies=[Depends(requires("gates", "read", password=True, per_service=True))])

Question = Literal["rollback", "confirm", "open", "check"]

YES: Final[dict[Question, tuple[str, ...]]] = {
    "rollback": ("fail",),
    "confirm": ("pass",),
    "open": ("pass", "inconclusive"),
    "check": ("pass", "inconclusive", "error"),
}
"""The verdicts that answer a question with 200."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Stage = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9._-]*$")]


class Metadata(BaseModel):
    """What the canary's author wrote below `metadata`; other keys are theirs."""

    model_config = ConfigDict(strict=True, extra="ignore")

    rollout: Name
    stage: Stage = ""


class HookIn(BaseModel):
    """Flagger's payload; the canary's name, `phase`, `checksum` and what newer versions add are not read."""

    model_config = ConfigDict(strict=True, extra="ignore")

    metadata: Metadata


@router.post("/rollback", openapi_extra=body_of(HookIn))
async def rollback(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Hook type `rollback`: 200 when the gate has failed, so that Flagger rolls back; 409 otherwise."""
    return await _answer("rollback", request, runtime)


@router.post("/confirm", openapi_extra=body_of(HookIn))
async def confirm(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Hook types `confirm-traffic-increase` and `confirm-promotion`: 200 when the gate passes; 409, and so waiting, otherwise."""
    return await _answer("confirm", request, runtime)


@router.post("/open", openapi_extra=body_of(HookIn))
async def is_open(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Hook type `confirm-rollout`: 200 unless the gate has failed or cannot look; there need be no evidence yet."""
    return await _answer("open", request, runtime)


@router.post("/check", openapi_extra=body_of(HookIn))
async def check(request: Request, runtime: RuntimeDep) -> JsonResponse:
    """Hook types `pre-rollout` and `rollout`: 409, and so a failed check, only when the gate has failed."""
    return await _answer("check", request, runtime)


async def _answer(question: Question, request: Request, runtime: RuntimeDep) -> JsonResponse:
    hook = parsed(await read_json_body(request, runtime.body_limits), HookIn, "not a webhook of Flagger with metadata.rollout: ")
    gates: GateService = request.app.state.gates
    about: dict[str, Any] = {"question": question, "rollout": hook.metadata.rollout}  # Any: JSON
    access: Access = request.state.access
    try:
        if access.services is not None:
            await gates.check(hook.metadata.rollout, access.services)
        gate = await gates.evaluate(hook.metadata.rollout, hook.metadata.stage)
    except StoreUnavailable as error:
        # 503 would be tried again and its reason lost.
        if "error" in YES[question]:
            return JsonResponse({"schema": "flagger/1", **about, "verdict": "error", "reason": str(error)})
        raise Conflict(f"error: {error}", verdict="error", **about) from None
    about |= {key: gate[key] for key in ("verdict", "stage", "decision_id", "decision_url")}
    reason = _in_words(gate)
    if gate["verdict"] in YES[question]:
        return JsonResponse({"schema": "flagger/1", **about, "reason": reason})
    raise Conflict(f"{gate['verdict']}: {reason}", **about)


def _in_words(gate: dict[str, Any]) -> str:  # Any: gate/v1
    """Return the gravest reason as one sentence; a pass has none."""
    reasons = gate.get("reasons") or []
    return str(reasons[0].get("detail", "no reason given")) if reasons else "all that the gate asks for was seen"
