"""The whole way on real parts: FastAPI on uvicorn, the OpenFeature SDK, a real collector, HTTP and WebSocket clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from openfeature import api as openfeature
from openfeature.evaluation_context import EvaluationContext
from websockets.asyncio.client import connect

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.flags.bucketing import FlagRule, variant_of
from isolation_monitor.telemetry.flags.provider import IsolationFlagProvider
from tests.telemetry.delivery.conftest import eventually, serve
from tests.telemetry.flags.conftest import requests

__all__ = ["serve"]
USERS = [f"user-{n}" for n in range(12)]
RULE = FlagRule("checkout-v2", True, 50.0)


def variants(*users: str) -> dict[str, int]:
    given = [variant_of(RULE, user, {})[0] for user in users]
    return {arm: given.count(arm) for arm in names.VARIANTS}


def service(monitor: Any) -> FastAPI:
    """Evaluates in a coroutine, in a thread of the pool, when a WebSocket opens, or for each of its messages."""
    app, flags = FastAPI(), openfeature.get_client()

    def new_checkout(user: str) -> bool:
        return flags.get_boolean_value("checkout-v2", False, EvaluationContext(targeting_key=user))

    @app.get("/coroutine/{user}")
    async def coroutine(user: str) -> bool:
        return new_checkout(user)

    @app.get("/thread/{user}")
    def thread(user: str) -> bool:
        return new_checkout(user)

    @app.websocket("/opened/{user}")
    async def opened(socket: WebSocket, user: str) -> None:
        await socket.accept()
        is_new = new_checkout(user)
        try:
            while True:
                await socket.send_json([await socket.receive_text(), is_new])
        except WebSocketDisconnect:
            return

    @app.websocket("/message/{user}")
    async def message(socket: WebSocket, user: str) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_json([await socket.receive_text(), new_checkout(user)])
        except WebSocketDisconnect:
            return

    monitor.instrument(app)
    return app


@pytest.mark.parametrize("where", ["coroutine", "thread"])
async def test_http_requests_have_the_arm_that_their_user_was_given(following, serve, where):
    monitor = following()
    openfeature.set_provider_and_wait(IsolationFlagProvider(monitor.flags))
    try:
        address = (await serve(service(monitor))).replace("ws://", "http://").removesuffix("/ws")
        async with httpx2.AsyncClient(base_url=address) as client:
            for user in USERS:
                assert (await client.get(f"/{where}/{user}")).status_code == 200
    finally:
        openfeature.clear_providers()

    assert counted(monitor) == variants(*USERS)


@pytest.mark.parametrize("where", ["opened", "message"])
async def test_messages_of_a_websocket_have_the_arm_that_their_user_was_given(following, serve, where):
    monitor = following()
    openfeature.set_provider_and_wait(IsolationFlagProvider(monitor.flags))
    try:
        address = (await serve(service(monitor))).removesuffix("/ws")
        for user in USERS:
            async with connect(f"{address}/{where}/{user}") as socket:
                for n in range(3):
                    await socket.send(str(n))
                    await asyncio.wait_for(socket.recv(), 30)
        await eventually(lambda: sum(counted(monitor).values()) >= 3 * len(USERS), "all messages are over")
    finally:
        openfeature.clear_providers()

    assert counted(monitor) == {arm: 3 * n for arm, n in variants(*USERS).items()}


def counted(monitor: Any) -> dict[str, float]:
    return {arm: requests(monitor, arm) for arm in names.VARIANTS}
