"""What an endpoint gives to everybody is nobody's, though one user's code has passed it on; what his code made is his."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.telemetry.conftest import Client

SCRIPT = "89e847ac700c74ef1aae40f36420ac11"


@pytest.mark.parametrize("is_made_first", [False, True])
async def test_what_a_page_gives_to_all_is_nobodys(monitor: IsolationMonitor, *, is_made_first: bool) -> None:
    """The name of a script: in each page, and in the message by which a user's own page is told to load it.

    What no page had shown before is what his code made, and the page that then shows it to others leaks it.
    """
    outbox: asyncio.Queue[str] = asyncio.Queue()

    async def page(request: Request) -> JSONResponse:
        return JSONResponse({"script": f"/static/{SCRIPT}/input.js"})

    async def load(request: Request) -> JSONResponse:
        outbox.put_nowait(f"load {SCRIPT}")
        return JSONResponse({"queued": True})

    async def take(request: Request) -> JSONResponse:
        return JSONResponse({"length": len(outbox.get_nowait())})

    app = Starlette(routes=[Route("/page", page), Route("/load", load), Route("/take", take)])
    client = Client(monitor.instrument(app))

    if not is_made_first:
        await client.get("/page", user="ann")
    await client.get("/load", user="ann")
    await client.get("/take", user="bob")
    assert monitor.detection.foreign_content.ownership.owner_of(SCRIPT) is monitor.principals.named("ann")
    for user in ("bob", "cid", "ann", "bob"):
        await client.get("/page", user=user)

    await asyncio.to_thread(monitor.detection.settle)
    assert {one.kind for one in monitor.violations()} == ({names.FOREIGN_CONTENT} if is_made_first else set())
