"""Whose a request is may be known only once the application has signed its user in: it is judged all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.telemetry.conftest import Client, user_of

USERS = ("ann", "bob", "cid")


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> Any:
        return AuthCredentials(["in"]), SimpleUser(user_of(conn.scope) or "")


def signed_in(scope: Any) -> str | None:
    user = scope.get("user")
    return user.username if user is not None and user.is_authenticated else None


def service(*, is_shared: bool) -> Starlette:
    latest: dict[str, str] = {}

    async def save(request: Request) -> JSONResponse:
        latest["all" if is_shared else request.user.username] = (await request.json())["note"]
        await asyncio.sleep(0.01)
        return JSONResponse({"saved": True})

    async def read(request: Request) -> JSONResponse:
        await asyncio.sleep(0.01)
        return JSONResponse({"note": latest.get("all" if is_shared else request.user.username)})

    routes = [Route("/note", save, methods=["POST"]), Route("/note", read)]
    return Starlette(routes=routes, middleware=[Middleware(AuthenticationMiddleware, backend=Tokens())])


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_user_whom_the_application_signs_in_is_judged(monitor: IsolationMonitor, *, is_shared: bool) -> None:
    monitor.principal(signed_in)
    client = Client(monitor.instrument(service(is_shared=is_shared)))

    for n in range(3):
        await asyncio.gather(*(client.post("/note", user=user, json={"note": f"mine-{n}f9a-{user}-77c7e"}) for user in USERS))
        await asyncio.gather(*(client.get("/note", user=user) for user in USERS))

    await asyncio.to_thread(monitor.detection.settle)
    kinds = {violation.kind for violation in monitor.violations() if violation.grade == "crossed"}
    assert kinds == ({names.FOREIGN_CONTENT} if is_shared else set())
    exposed = sum(
        monitor.registry.value(names.REQUESTS, transport="http", verdict=verdict, exposed="true", arm="none") for verdict in names.VERDICTS
    )
    assert exposed > 0
    assert monitor.ledger.exposure.principals == 0, "nobody is left live"


async def test_a_visitor_who_never_signs_in_is_unverified(monitor: IsolationMonitor) -> None:
    async def welcome(request: Request) -> JSONResponse:
        return JSONResponse({"hello": "visitor"})

    monitor.principal(signed_in)
    client = Client(monitor.instrument(Starlette(routes=[Route("/", welcome)])))
    await client.get("/", user=None)

    assert monitor.registry.value(names.REQUESTS, transport="http", verdict="unverified", exposed="false", arm="none") == 1
    assert monitor.ledger.exposure.principals == 0
