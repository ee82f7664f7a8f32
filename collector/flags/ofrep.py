"""OFREP, the OpenFeature Remote Evaluation Protocol, version 1: any OpenFeature SDK can ask here who gets what.

Source: github.com/open-feature/protocol, service/openapi.yaml. Errors have OFREP's own shapes; only a token that is missing or
wrong is answered as everywhere (401, 403), since OFREP gives these no body. A body that cannot be read is a 400 whatever is wrong
with it: other codes are not OFREP's, and clients would not show the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.body import read_json_body
from isolation_monitor.collector.flags import domain
from isolation_monitor.collector.flags.service import FlagService
from isolation_monitor.collector.problems import JsonResponse, Problem
from isolation_monitor.collector.runtime import RuntimeDep
from isolation_monitor.collector.security import Access, requires
from isolation_monitor.collector.storage.database import StoreUnavailable
from isolation_monitor.telemetry.flags.bucketing import FlagRule

router = APIRouter(prefix="/ofrep/v1", tags=["flags"], dependencies=[Depends(requires("read", "ingest", per_service=True))])

_CONTEXT: dict[str, Any] = {  # Any: OpenAPI
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "context": {"type": "object", "properties": {"targetingKey": {"type": "string"}}, "additionalProperties": True}
                    },
                }
            }
        }
    }
}

POLL_EVERY_MS = 1_000
"""How often clients that keep a copy may ask again."""


@router.post("/evaluate/flags/{key}", openapi_extra=_CONTEXT)
async def evaluate_flag(request: Request, runtime: RuntimeDep, key: str) -> Response:
    """Evaluate one flag for the person that the context names."""
    try:
        person = domain.person_of(await _body(request, runtime))
        rules = await _rules(request)
    except domain.ContextRefused as refused:
        return JsonResponse(domain.failure(key, refused.code, refused.details), status_code=400)
    except StoreUnavailable as error:
        return _unavailable(error)
    rule = rules.get(key)
    if rule is None:
        return JsonResponse(domain.failure(key, domain.FLAG_NOT_FOUND, "no rollout has this name"), status_code=404)
    answer = domain.evaluated(rule, person)
    return JsonResponse(answer, status_code=400 if "errorCode" in answer else 200)


@router.post("/evaluate/flags", openapi_extra=_CONTEXT)
async def evaluate_flags(request: Request, runtime: RuntimeDep, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Evaluate all flags for the person that the context names; 304 where `If-None-Match` names the answer."""
    try:
        person = domain.person_of(await _body(request, runtime))
        rules = await _rules(request)
    except domain.ContextRefused as refused:
        return JsonResponse(domain.failure(None, refused.code, refused.details), status_code=400)
    except StoreUnavailable as error:
        return _unavailable(error)
    answer = jsontext.dumps({"flags": [domain.evaluated(rule, person) for rule in rules.values()]}).encode()
    return _tagged(answer, if_none_match)


@router.get("/configuration")
async def configuration(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Tell clients that ask how to use this: which earlier versions of the protocol do when they start."""
    polling = {"enabled": True, "minPollingInterval": POLL_EVERY_MS}
    capabilities = {"cacheInvalidation": {"polling": polling}, "flagEvaluation": {"unsupportedTypes": []}}
    return _tagged(jsontext.dumps({"name": "isolation-monitor", "capabilities": capabilities}).encode(), if_none_match)


async def _rules(request: Request) -> Mapping[str, FlagRule]:
    """Return the rules that the token may see: of all services, or of those it is bound to."""
    flags: FlagService = request.app.state.flags
    access: Access = request.state.access
    if access.services is None:
        return (await flags.current(None)).rules
    found: dict[str, FlagRule] = {}
    for service in sorted(access.services):
        found |= (await flags.current(service)).rules
    return found


async def _body(request: Request, runtime: RuntimeDep) -> Any:  # Any: JSON
    try:
        text = await read_json_body(request, runtime.body_limits)
        return jsontext.clean(jsontext.loads(text)) if text.strip() else {}
    except (jsontext.JsonError, Problem) as error:
        raise domain.ContextRefused(domain.PARSE_ERROR, str(error)) from None


def _tagged(body: bytes, if_none_match: str | None) -> Response:
    headers = {"ETag": (etag := domain.etag_of(body)), "Cache-Control": "no-cache"}
    if if_none_match is not None and domain.matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _unavailable(error: StoreUnavailable) -> Response:
    return JsonResponse({"errorDetails": f"{error}; ask again"}, status_code=500)
