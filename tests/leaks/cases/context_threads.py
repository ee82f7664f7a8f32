"""Endpoints that are no coroutines: the framework runs each of their parts in a thread of its pool, whichever is free."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fastapi import Depends, FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor
from tests.leaks.case import Built, Case, User, Users, Variant, shaped
from tests.leaks.service import Service


def latency() -> None:
    time.sleep(random.uniform(0.001, 0.006))


# --- the login of a dependency, read in the endpoint's thread ---------------------------------------------------------

LOGIN_USERS = Users("login-of-thread")


def build_login(variant: Variant) -> FastAPI:
    """The dependency notes the user for the thread; the endpoint runs in another one, where somebody else was noted."""
    app, local, lock = FastAPI(), threading.local(), threading.Lock()
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("create table accounts (owner text, iban text)")
    database.executemany("insert into accounts values (?, ?)", [(user.id, user.value("iban", "account")) for user in LOGIN_USERS])

    def login(request: Request) -> str:
        local.user = LOGIN_USERS.of(request).id
        return str(local.user)

    def current(user_id: str) -> str:
        return str(getattr(local, "user", user_id)) if variant == "buggy" else user_id

    @app.get("/iban")
    def iban(user_id: str = Depends(login)) -> dict[str, str]:
        latency()
        with lock:
            row = database.execute("select iban from accounts where owner = ?", (current(user_id),)).fetchone()
        return {"iban": row[0]}

    return app


async def drive_login(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/iban"))

    return await service.everybody(ask, rounds=6)


# --- a session without a name -----------------------------------------------------------------------------------------

SESSION_USERS = Users("session-of-thread", ids="uuid")


class Sessions:
    """Sessions by bearer token, and the one of the thread: nothing in them says whose they are."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._by_token: dict[str, dict[str, str]] = {}

    def begin(self, token: str) -> dict[str, str]:
        self._local.session = session = self._by_token.setdefault(token, {"csrf": uuid.uuid4().hex})
        return session

    def current(self, session: dict[str, str]) -> dict[str, str]:
        found: dict[str, str] = getattr(self._local, "session", session)
        return found


def build_session(variant: Variant) -> FastAPI:
    app, sessions = FastAPI(), Sessions()

    def begin(request: Request) -> dict[str, str]:
        return sessions.begin(request.headers["authorization"])

    @app.get("/form")
    def form(session: dict[str, str] = Depends(begin)) -> dict[str, str]:
        latency()
        return {"csrf": (sessions.current(session) if variant == "buggy" else session)["csrf"]}

    @app.get("/session")
    async def session(request: Request) -> dict[str, str]:
        return sessions.begin(request.headers["authorization"])

    app.state.sessions = sessions
    return app


async def drive_session(service: Service) -> list[str]:
    for user in service.users:
        service.owns(user, (await service.get(user, "/session")).json()["csrf"])

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/form"))

    return await service.everybody(ask, rounds=6)


# --- one computation for all who ask for the same month ---------------------------------------------------------------

FORECAST_USERS = Users("coalesced")


def forecast_of(user: User) -> str:
    return shaped(uuid.uuid5(uuid.NAMESPACE_OID, user.seed + user.id).bytes * 2, "base32")


def forecasts_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private(by=…)` on the function that makes them."""
    global forecast_of
    forecast_of = monitor.private(by=lambda user: user.id)(forecast_of)


def build_coalesced(variant: Variant) -> FastAPI:
    app, lock, pool = FastAPI(), threading.Lock(), ThreadPoolExecutor(4)
    flights: dict[object, Future[dict[str, Any]]] = {}

    def compute(user: User) -> dict[str, Any]:
        latency()
        return {"forecast": forecast_of(user)}

    @app.get("/forecast")
    def forecast(request: Request, month: str) -> dict[str, Any]:
        user = FORECAST_USERS.of(request)
        key = month if variant == "buggy" else (user.id, month)
        with lock:
            flight = flights.get(key)
            if flight is None:
                flight = flights[key] = pool.submit(compute, user)
        try:
            return flight.result(5)
        finally:
            flights.pop(key, None)

    return app


async def drive_coalesced(service: Service) -> list[str]:
    for user in service.users:
        service.owns(user, forecast_of(user))

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, f"/forecast?month=2024-0{round + 1}"))

    return await service.everybody(ask, rounds=6)


CASES = [
    Case("login-of-thread", "context", "the account of who used the thread last is shown", LOGIN_USERS, build_login, drive_login),
    Case(
        "session-of-thread", "context", "a form carries the session that the thread had before", SESSION_USERS, build_session, drive_session
    ),
    Case(
        "coalesced-by-month",
        "task",
        "who asks for a month gets the first one's forecast",
        FORECAST_USERS,
        build_coalesced,
        drive_coalesced,
        annotate=forecasts_are_private,
    ),
]
