"""The rules of flags over HTTP, for providers that decide in their own process."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response

from isolation_monitor.collector.flags.service import LONGEST_WAIT_S, FlagService
from isolation_monitor.collector.security import AccessDep, requires

router = APIRouter(prefix="/v1", tags=["flags"])


@router.get("/flags", dependencies=[Depends(requires("read", "ingest", per_service=True))])
async def get_flags(
    request: Request,
    access: AccessDep,
    service: Annotated[str, Query(min_length=1, max_length=100)],
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = 0.0,
    after: int | None = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the rules of a service's flags: 200, or 304 where `If-None-Match` names them.

    With `wait` (seconds) the answer comes when the rules differ from what `after` (a revision) and `If-None-Match` name.
    """
    access.check(service)
    flags: FlagService = request.app.state.flags
    found = await flags.changed(service, after=after, etags=if_none_match, wait_s=wait)
    headers = {"ETag": found.etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and found.is_what(None, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(found.document, headers=headers, media_type="application/json")
