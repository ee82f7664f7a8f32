"""Work that holds everybody up: tasks that never end, locks, lost slots, open circuits, a stopped loop."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.015))


# --- tasks that never end ---------------------------------------------------------------------------------------------

FORGOTTEN_USERS = Users("forgotten-tasks")


def build_forgotten(variant: Variant) -> FastAPI:
    """Each request starts a watcher of its progress and forgets to stop it."""
    app = FastAPI()
    watchers: set[asyncio.Task[None]] = set()

    async def watch(state: dict[str, int]) -> None:
        while True:
            await asyncio.sleep(0.05)
            state["ticks"] = state.get("ticks", 0) + 1

    @app.post("/import")
    async def start(request: Request) -> dict[str, int]:
        FORGOTTEN_USERS.of(request)
        task = asyncio.create_task(watch({}))
        watchers.add(task)
        task.add_done_callback(watchers.discard)
        await latency()
        if variant == "fixed":
            task.cancel()
            await asyncio.wait({task})
        return {"rows": 12}

    @app.get("/watchers")
    async def count() -> dict[str, int]:
        return {"watchers": len(watchers)}

    return app


async def drive_forgotten(service: Service) -> list[str]:
    async def post(user: User, round: int) -> None:
        await service.post(user, "/import")

    await service.everybody(post, rounds=3)
    left = (await service.get(service.users[0], "/watchers")).json()["watchers"]
    if left:
        service.harm(f"{left} tasks of requests that ended are still there")
    # Longer than any patience with work that a request may leave behind.
    await asyncio.sleep(3.0 if left else 0.0)
    return service.proofs


# --- one user's failures block all -----------------------------------------------------------------------------------

LOCK_USERS = Users("lock-held", ids="int")


def build_lock(variant: Variant) -> FastAPI:
    """One lock around a slow upstream call: one user's slow report makes the quick ones of all others wait."""
    app = FastAPI()
    one = asyncio.Lock()
    each: dict[str, asyncio.Lock] = {}

    @app.get("/reports")
    async def reports(request: Request, slow: int = 0) -> dict[str, str]:
        user = LOCK_USERS.of(request)
        async with one if variant == "buggy" else each.setdefault(user.id, asyncio.Lock()):
            await asyncio.sleep(0.7 if slow else 0.002)
        return {"report": user.value("report")}

    return app


async def drive_lock(service: Service) -> list[str]:
    waits: list[float] = []

    async def ask(user: User, round: int) -> None:
        if user.number == 0:
            await service.get(user, "/reports?slow=1")
            return
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await service.get(user, "/reports")
        waits.append(time.monotonic() - began)

    await service.everybody(ask, rounds=3)
    held_up = sum(wait > 0.35 for wait in waits)
    if held_up > len(waits) // 2:
        service.harm(f"{held_up} of {len(waits)} quick requests waited for u0's slow one")
    return service.proofs


# --- slots that errors keep ------------------------------------------------------------------------------------------

SLOT_USERS = Users("slots-lost")


def build_slots(variant: Variant) -> FastAPI:
    """Three slots to a slow upstream; a failing call does not give its slot back, until nobody gets one."""
    app = FastAPI()
    slots = asyncio.Semaphore(3)

    async def upstream(bad: int) -> str:
        await latency()
        if bad:
            raise ValueError("malformed")
        return "fine"

    @app.get("/call")
    async def call(request: Request, bad: int = 0) -> Any:
        SLOT_USERS.of(request)
        await slots.acquire()
        try:
            answer = await upstream(bad)
        except ValueError:
            if variant == "fixed":
                slots.release()
            return PlainTextResponse("malformed", 400)
        slots.release()
        return {"answer": answer}

    return app


async def drive_slots(service: Service) -> list[str]:
    timeouts = 0

    async def act(user: User, round: int) -> None:
        nonlocal timeouts
        if user.number == 0:
            await service.get(user, f"/call?bad={int(round < 3)}", timeout=1.5)
            return
        await asyncio.sleep(0.05)
        await service.get(user, "/call", timeout=1.5)

    for round in range(5):
        answers = await asyncio.gather(*(act(user, round) for user in service.users), return_exceptions=True)
        timeouts += sum(isinstance(answer, Exception) for answer in answers)
    if timeouts:
        service.harm(f"{timeouts} requests got no slot, because the failed calls of u0 keep them all")
    return service.proofs


# --- a circuit breaker for all ---------------------------------------------------------------------------------------

BREAKER_USERS = Users("breaker", ids="uuid")


def build_breaker(variant: Variant) -> FastAPI:
    """Five failures open the circuit: one user's wrong password at the provider shuts everybody out."""
    app = FastAPI()
    failures: dict[str, int] = {}

    @app.get("/mail")
    async def mail(request: Request, password: str) -> Any:
        user = BREAKER_USERS.of(request)
        circuit = "mail" if variant == "buggy" else user.id
        if failures.get(circuit, 0) >= 5:
            return PlainTextResponse("the mail provider is not available", 503)
        await latency()
        if password == "wrong":
            failures[circuit] = failures.get(circuit, 0) + 1
            return PlainTextResponse("refused by the provider", 502)
        return {"mail": [user.value("mail", "hex")]}

    return app


async def drive_breaker(service: Service) -> list[str]:
    refused = 0

    async def act(user: User, round: int) -> None:
        nonlocal refused
        password = "wrong" if user.number == 0 else "right"
        answer = await service.get(user, f"/mail?password={password}")
        refused += user.number != 0 and answer.status_code == 503

    await service.everybody(act, rounds=9)
    if refused:
        service.harm(f"{refused} requests of users with the right password were refused after u0's failures")
    return service.proofs


# --- one user's computation stops the loop ---------------------------------------------------------------------------

STALL_USERS = Users("cpu-bound")


def build_stall(variant: Variant) -> FastAPI:
    app = FastAPI()

    def simulate(seconds: float) -> float:
        """Wait without giving the loop a turn, as a long regular expression or a blocking client does."""
        time.sleep(seconds)
        return seconds

    @app.get("/simulate")
    async def run(request: Request) -> dict[str, float]:
        STALL_USERS.of(request)
        return {"took": simulate(0.5) if variant == "buggy" else await asyncio.to_thread(simulate, 0.5)}

    @app.get("/ping")
    async def ping(request: Request) -> dict[str, str]:
        return {"pong": STALL_USERS.of(request).id}

    return app


async def drive_stall(service: Service) -> list[str]:
    waits: list[float] = []
    began_all = asyncio.Event()

    async def act(user: User, round: int) -> None:
        if user.number == 0:
            began_all.set()
            await service.get(user, "/simulate")
            return
        await began_all.wait()
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await service.get(user, "/ping")
        waits.append(time.monotonic() - began)

    await service.everybody(act, rounds=3)
    held_up = sum(wait > 0.3 for wait in waits)
    if held_up > len(waits) // 2:
        service.harm(f"{held_up} of {len(waits)} pings stood still while u0's simulation ran")
    return service.proofs


CASES = [
    Case(
        "forgotten-watchers",
        "task",
        "Each request starts a watcher task that never ends: they pile up.",
        FORGOTTEN_USERS,
        build_forgotten,
        drive_forgotten,
        expects="hygiene",
        settle_s=3.0,
    ),
    Case(
        "lock-around-upstream",
        "task",
        "One lock around a slow call: one user's slow report holds up everybody's quick ones.",
        LOCK_USERS,
        build_lock,
        drive_lock,
        expects="hygiene",
    ),
    Case(
        "slots-lost-on-error",
        "task",
        "A failing call keeps its slot: after three failures of one user nobody gets through.",
        SLOT_USERS,
        build_slots,
        drive_slots,
        expects="hygiene",
    ),
    Case(
        "breaker-open-for-all",
        "task",
        "A circuit breaker counts the failures of all users together: one user's wrong password shuts everybody out.",
        BREAKER_USERS,
        build_breaker,
        drive_breaker,
        expects="hygiene",
        limit="A counter that all users share is a right choice as often as a wrong one, and a refusal shows nothing of another's data.",
    ),
    Case(
        "blocking-call-on-loop",
        "task",
        "One user's blocking computation runs on the event loop: everybody stands still.",
        STALL_USERS,
        build_stall,
        drive_stall,
        expects="hygiene",
    ),
]
