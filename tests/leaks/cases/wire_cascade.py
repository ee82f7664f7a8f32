"""Bugs by which one user's failure becomes everybody's: shared task groups, locks that are never released."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("wire-cascade")


# --- a task group for the tools of all users ----------------------------------------------------------------------------------


def _build_task_group(variant: Variant) -> Built:
    """Tools run in a group of the service: when one fails, the group cancels the others, whosesoever they are."""
    current: dict[str, asyncio.TaskGroup] = {}

    async def keep_a_group() -> None:
        while True:
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    current["group"] = group
                    group.create_task(asyncio.Event().wait())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(keep_a_group())
        yield
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    async def tool(content: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(content["seconds"])
        if content["fails"]:
            raise ValueError("the tool met an unexpected answer")
        return {"done": True}

    app = FastAPI(lifespan=lifespan)

    @app.post("/tools")
    async def run_tool(request: Request) -> Any:
        USERS.of(request)
        content = await request.json()
        try:
            if variant == "buggy":
                return await current["group"].create_task(tool(content))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(tool(content))
            return task.result()
        except asyncio.CancelledError:
            return JSONResponse({"detail": "cancelled"}, status_code=500)
        except (ValueError, ExceptionGroup):
            return JSONResponse({"detail": "the tool failed"}, status_code=502)

    return Built(app)


async def _drive_task_group(service: Service) -> list[str]:
    async def run_tool(user: User, round: int) -> None:
        content = {"seconds": 0.1, "fails": True} if user.number == 0 else {"seconds": 0.4, "fails": False}
        answer = await service.post(user, "/tools", json=content)
        if user.number and answer.status_code != 200:
            service.harm(f"u{user.number}'s tool was cancelled because u0's failed")

    return await service.everybody(run_tool, rounds=2)


# --- a lock that an exception never releases -------------------------------------------------------------------------------------


def _build_kept_lock(variant: Variant) -> Built:
    """Exports run one at a time; one that fails between `acquire` and `release` was the last."""
    exporting = asyncio.Lock()
    app = FastAPI()

    async def export(rows: int) -> dict[str, Any]:
        await asyncio.sleep(0.005)
        if rows < 0:
            raise HTTPException(422, "no such rows")
        return {"rows": rows}

    @app.post("/exports")
    async def run_export(request: Request) -> Any:
        USERS.of(request)
        content = await request.json()
        try:
            async with asyncio.timeout(2.0):
                await exporting.acquire()
        except TimeoutError:
            return JSONResponse({"detail": "another export is running"}, status_code=503)
        if variant == "buggy":
            result = await export(content["rows"])
            exporting.release()
            return result
        try:
            return await export(content["rows"])
        finally:
            exporting.release()

    return Built(app)


async def _drive_kept_lock(service: Service) -> list[str]:
    await service.post(USERS[0], "/exports", json={"rows": -1})

    async def run_export(user: User, round: int) -> None:
        answer = await service.post(user, "/exports", json={"rows": 3})
        if user.number and answer.status_code == 503:
            service.harm(f"u{user.number}'s export was refused because u0's failed one still holds the lock")

    return await service.everybody(run_export, rounds=1)


# --- a semaphore of workers used up by one user's hanging calls ----------------------------------------------------------------


def _build_hogged_workers(variant: Variant) -> Built:
    """Four places for renderings, for everybody together: one user's endless ones take them all."""
    places = asyncio.Semaphore(4)
    places_of = {user.id: asyncio.Semaphore(2) for user in USERS}
    app = FastAPI()

    @app.post("/renderings")
    async def render(request: Request) -> Any:
        user, content = USERS.of(request), await request.json()
        place = places if variant == "buggy" else places_of[user.id]
        try:
            async with asyncio.timeout(1.6):
                await place.acquire()
        except TimeoutError:
            return JSONResponse({"detail": "no place is free"}, status_code=503)
        try:
            await asyncio.sleep(content["seconds"])
        finally:
            place.release()
        return {"pages": 3}

    return Built(app)


async def _drive_hogged_workers(service: Service) -> list[str]:
    long = [asyncio.create_task(service.post(USERS[0], "/renderings", json={"seconds": 5})) for _ in range(4)]
    await asyncio.sleep(0.3)

    async def render(user: User, round: int) -> None:
        if user.number and (await service.post(user, "/renderings", json={"seconds": 0.01})).status_code == 503:
            service.harm(f"u{user.number} got no place because u0's renderings hold all of them")

    proofs = await service.everybody(render, rounds=1)
    await asyncio.gather(*long)
    return proofs


CASES = [
    Case(
        "wire-cascade-task-group", "cascade", "one user's failing tool cancels the tools of all others in a shared group",
        USERS, _build_task_group, _drive_task_group, expects="crossed|reachable|hygiene",
    ),
    Case(
        "wire-cascade-kept-lock", "cascade", "an exception skips the release of a lock, and everybody waits",
        USERS, _build_kept_lock, _drive_kept_lock, expects="hygiene",
    ),
    Case(
        "wire-cascade-hogged-workers", "cascade", "one user's long calls take all places of a shared semaphore",
        USERS, _build_hogged_workers, _drive_hogged_workers, expects="hygiene",
    ),
]  # fmt: skip
