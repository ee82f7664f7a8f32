"""Objects rather than values in shared fields: a user's row on a middleware, a tool made for one user, what error pages show."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.base import BaseHTTPMiddleware

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service


async def model_latency() -> None:
    await asyncio.sleep(random.uniform(0.002, 0.015))


def looking_at(path: str, label: str, shape: str, method: str = "GET", rounds: int = 8) -> Callable[[Service], Awaitable[list[str]]]:
    """Let everybody call one path and look for private values of that label."""

    async def drive(service: Service) -> list[str]:
        service.own_values(label, shape)

        async def one(user: User, round: int) -> None:
            await asyncio.sleep(random.uniform(0, 0.01))
            service.look(user, await service.client(user).request(method, path))

        return await service.everybody(one, rounds=rounds)

    return drive


# --- a middleware that keeps the user of the latest request as an attribute -------------------------------------------------

MIDDLEWARE_USERS = Users("middleware-user")


def build_middleware(variant: Variant) -> FastAPI:
    app = FastAPI()

    class UploadToken(BaseHTTPMiddleware):
        user: User

        async def dispatch(self, request: Request, call_next: Any) -> Any:
            self.user = MIDDLEWARE_USERS.of(request)
            response = await call_next(request)
            response.headers["X-Upload-Token"] = self.user.value("upload", "token")
            return response

    class OwnUploadToken(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            user = MIDDLEWARE_USERS.of(request)
            response = await call_next(request)
            response.headers["X-Upload-Token"] = user.value("upload", "token")
            return response

    app.add_middleware(UploadToken if variant == "buggy" else OwnUploadToken)

    @app.get("/news")
    async def news() -> dict[str, list[str]]:
        await model_latency()
        return {"news": ["maintenance on sunday", "new prices"]}

    return app


# --- a registry of tools: each request registers its own under the same name ------------------------------------------------

TOOL_USERS = Users("tool-registry", ids="uuid")


def build_registry(variant: Variant) -> FastAPI:
    app = FastAPI()
    everybodys: dict[str, Callable[[], Awaitable[str]]] = {}

    async def run(tools: dict[str, Callable[[], Awaitable[str]]]) -> str:
        await model_latency()
        return await tools["latest_order"]()

    @app.post("/agent")
    async def agent(request: Request) -> dict[str, str]:
        user = TOOL_USERS.of(request)
        tools = everybodys if variant == "buggy" else {}

        async def latest_order() -> str:
            await asyncio.sleep(0)
            return user.value("order", "uuid")

        tools["latest_order"] = latest_order
        return {"answer": f"Your latest order is {await run(tools)}."}

    return app


# --- what is bound for the error page is bound for all ----------------------------------------------------------------------

ERROR_USERS = Users("error-context", ids="int")


def build_error_context(variant: Variant) -> FastAPI:
    app = FastAPI()
    bound: dict[str, str] = {}

    @app.exception_handler(ValueError)
    async def refused(request: Request, error: ValueError) -> JSONResponse:
        shown = bound if variant == "buggy" else request.state.bound
        return JSONResponse({"error": str(error), "context": dict(shown)}, 400)

    @app.post("/transfer")
    async def transfer(request: Request) -> None:
        own = bound if variant == "buggy" else {}
        own["account"] = ERROR_USERS.of(request).value("account", "account")
        request.state.bound = own
        await model_latency()
        raise ValueError("the amount is negative")

    return app


CASES = [
    Case(
        "middleware-keeps-user",
        "state",
        "The middleware keeps the latest request's user on itself, and signs the next answer with that user's token.",
        MIDDLEWARE_USERS,
        build_middleware,
        looking_at("/news", "upload", "token"),
    ),
    Case(
        "tool-of-the-last-user",
        "state",
        "All requests register their own tool under one name: the agent calls the one of whoever came last.",
        TOOL_USERS,
        build_registry,
        looking_at("/agent", "order", "uuid", "POST"),
    ),
    Case(
        "error-page-context",
        "state",
        "What is bound for error pages is bound in one dictionary for all: an error shows the account of whoever came last.",
        ERROR_USERS,
        build_error_context,
        looking_at("/transfer", "account", "account", "POST"),
    ),
]
