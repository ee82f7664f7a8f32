"""Exceptions that FastAPI's handlers turn into answers, in real applications, and the function as it was before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import starlette._exception_handler as patched
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.containment import Containment
from isolation_monitor.telemetry.context import CURRENT, RequestContext

SHARED = KeyError("one for all")
UNAVAILABLE = HTTPException(503)


def application() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(KeyError)
    async def handle(request: Any, error: KeyError) -> JSONResponse:
        return JSONResponse({}, 500)

    @app.exception_handler(QuotaExceededError)
    async def tell(request: Any, error: QuotaExceededError) -> JSONResponse:
        return JSONResponse(vars(error), 500)

    @app.get("/quota")
    async def quota() -> None:
        raise SHARED_OWN

    @app.get("/handled")
    async def handled() -> None:
        raise SHARED

    @app.get("/wrapped")
    async def wrapped() -> None:
        raise HTTPException(500) from SHARED

    @app.get("/unavailable")
    async def unavailable() -> None:
        raise UNAVAILABLE

    @app.get("/own")
    async def own() -> None:
        raise KeyError("its own")

    return app


class QuotaExceededError(Exception):
    """An error whose handler answers with what stands in it, as many do."""

    def __init__(self, **told: int) -> None:
        vars(self).update(told)


SHARED_OWN = QuotaExceededError(limit=3)


class Failures:
    """The outcomes of failed requests, counted here as the middleware counts them."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self.containment: Containment = monitor.detection.containment
        self.outcomes: list[str | None] = []
        self._client = client(monitor.instrument(application()))
        self._after = monitor.request_failed
        monitor.request_failed = self._count  # type: ignore[method-assign]  # seen on its way

    def _count(self, request: RequestContext) -> None:
        self.outcomes.append(self.containment.failed(request))

    async def get(self, path: str, *users: str) -> list[str | None]:
        self.outcomes.clear()
        for user in users:
            await self._client.get(path, user=user)
        return self.outcomes


@pytest.fixture
def failures(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> Failures:
    return Failures(monitor, client)


@pytest.mark.parametrize("path", ["/handled", "/wrapped"])
async def test_one_exception_in_two_principals_requests_is_seen_although_it_was_handled(failures: Failures, path: str) -> None:
    assert await failures.get(path, "ann", "ann", "bob") == ["contained", "contained", "escaped"]


@pytest.mark.parametrize("path", ["/unavailable", "/own"])
async def test_an_answer_kept_for_everybody_and_own_failures_are_contained(failures: Failures, path: str) -> None:
    assert set(await failures.get(path, "ann", "bob", "cid")) == {"contained"}


async def test_uninstrument_restores_the_function(make_monitor: Callable[..., IsolationMonitor]) -> None:
    before = patched._lookup_exception_handler
    monitor = make_monitor()
    monitor.instrument(application())
    assert patched._lookup_exception_handler is not before

    monitor.uninstrument()

    assert patched._lookup_exception_handler is before


async def test_an_error_of_ours_changes_no_answer(failures: Failures, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(failures.containment, "_marked", broken)

    assert (await failures._client.get("/handled", user="ann")).status == 500
    assert CURRENT.get() is None


async def test_an_answer_made_of_an_exceptions_fields_is_the_applications_own(failures, client) -> None:
    plain = await client(application()).get("/quota", user="ann")

    watched = [await failures._client.get("/quota", user=user) for user in ("ann", "bob", "bob")]

    assert [answer.body for answer in watched] == [plain.body] * 3
    assert vars(SHARED_OWN) == {"limit": 3}


async def test_one_exception_of_the_applications_own_class_for_all_is_an_escape(failures) -> None:
    assert await failures.get("/quota", "ann", "bob") == ["contained", "escaped"]
