"""Bugs around shared HTTP clients: the cookies and headers of one user go out with the call for another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import requests
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service
from tests.leaks.upstream import upstream, upstream_key

USERS = Users("wire-upstream", ids="int")


def keys_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that reads a user's key for the outside service."""
    global upstream_key
    upstream_key = monitor.private(upstream_key)


# --- httpx: the first user's session stays in the shared cookie jar ------------------------------------------------------


def _build_httpx_cookies(variant: Variant) -> Built:
    """Logs in at the outside service once; "once" is said of the client, not of the user."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "bank", "account") as url:
            async with httpx.AsyncHTTPTransport() as transport:
                state["shared"] = httpx.AsyncClient(base_url=url, transport=transport)
                state["own"] = {user.id: httpx.AsyncClient(base_url=url, transport=transport) for user in USERS}
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/bank/account")
    async def account(request: Request) -> Any:
        user = USERS.of(request)
        client = state["shared"] if variant == "buggy" else state["own"][user.id]
        if "sid" not in client.cookies:
            await client.post("/login", headers={"X-Key": upstream_key(user)})
        return (await client.get("/account")).json()

    return Built(app)


# --- httpx: the authorization header is set on the shared client ---------------------------------------------------------


def _build_httpx_headers(variant: Variant) -> Built:
    """Reads public rates and then the user's account, on one client for all."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "broker", "uuid") as url:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                state["client"] = client
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/portfolio")
    async def portfolio(request: Request) -> Any:
        client, bearer = state["client"], f"Bearer {upstream_key(USERS.of(request))}"
        if variant == "buggy":
            client.headers["Authorization"] = bearer
        rates = (await client.get("/rates")).json()
        headers = {"Authorization": bearer} if variant == "fixed" else None
        return {"rates": rates, **(await client.get("/account", headers=headers)).json()}

    return Built(app)


# --- aiohttp: the first login's cookie serves everybody ------------------------------------------------------------------


def _build_aiohttp_cookies(variant: Variant) -> Built:
    """Logs in when the outside service says 401, which it says once."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "crm", "base32") as url:
            async with aiohttp.TCPConnector() as connector, aiohttp.ClientSession(url, connector=connector) as session:
                state.update(url=url, connector=connector, session=session)
                yield

    app = FastAPI(lifespan=lifespan)

    async def contact(session: aiohttp.ClientSession, user: User) -> Any:
        async with session.get("/account") as answer:
            if answer.status == 200:
                return await answer.json()
        async with session.post("/login", headers={"X-Key": upstream_key(user)}):
            pass
        async with session.get("/account") as answer:
            return await answer.json()

    @app.get("/crm/contact")
    async def crm(request: Request) -> Any:
        user = USERS.of(request)
        if variant == "buggy":
            return [await contact(state["session"], user)]
        async with aiohttp.ClientSession(state["url"], connector=state["connector"], connector_owner=False) as own:
            return [await contact(own, user)]

    return Built(app)


# --- requests: one Session in all threads --------------------------------------------------------------------------------


def _build_requests_session(variant: Variant) -> Built:
    """Plain functions run in a thread pool, and all of them update one `requests.Session`."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "tax", "hex") as url, requests.Session() as session:
            session.trust_env = False
            state.update(url=url, session=session)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/tax/id")
    def tax_id(request: Request) -> Any:
        session, bearer = state["session"], f"Bearer {upstream_key(USERS.of(request))}"
        headers = {"Authorization": bearer}
        if variant == "buggy":
            session.headers.update(headers)
        time.sleep(0.01)
        answer = session.get(f"{state['url']}/account", headers=None if variant == "buggy" else headers)
        return answer.json()

    return Built(app)


# --- a client class of the service's own that keeps the credential -------------------------------------------------------


class _BankClient:
    """What a service wraps around its HTTP client; one instance at module level is the bug."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.key = ""

    async def authenticate(self, key: str) -> None:
        self.key = key
        await self._http.get("/rates")

    async def account(self) -> Any:
        return (await self._http.get("/account", headers={"Authorization": f"Bearer {self.key}"})).json()


def _build_wrapper(variant: Variant) -> Built:
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "pension", "uuid") as url:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                state.update(http=http, bank=_BankClient(http))
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/pension")
    async def pension(request: Request) -> Any:
        bank = state["bank"] if variant == "buggy" else _BankClient(state["http"])
        await bank.authenticate(upstream_key(USERS.of(request)))
        return await bank.account()

    return Built(app)


def _case(name: str, summary: str, build: Any, path: str, label: str, shape: Any, needs: str) -> Case:
    async def drive(service: Service) -> list[str]:
        service.own_values(label, shape)

        async def look(user: User, round: int) -> None:
            await asyncio.sleep(0.002 * ((user.number + round) % 3))
            service.look(user, await service.get(user, path))

        return await service.everybody(look, rounds=8)

    return Case(f"wire-upstream-{name}", "upstream", summary, USERS, build, drive, needs=(needs,), annotate=keys_are_private)


CASES = [
    _case(
        "httpx-cookie-jar", "the shared client's cookie jar keeps the first user's upstream session",
        _build_httpx_cookies, "/bank/account", "bank", "account", "httpx",
    ),
    _case(
        "httpx-default-headers", "the user's credential is set on the shared client's default headers",
        _build_httpx_headers, "/portfolio", "broker", "uuid", "httpx",
    ),
    _case(
        "aiohttp-cookie-jar", "one ClientSession keeps the cookie of whoever logged in first",
        _build_aiohttp_cookies, "/crm/contact", "crm", "base32", "aiohttp",
    ),
    _case(
        "requests-in-threads", "threads update the headers of one requests.Session",
        _build_requests_session, "/tax/id", "tax", "hex", "requests",
    ),
    _case(
        "wrapper-keeps-key", "a singleton API client keeps the credential of its latest caller",
        _build_wrapper, "/pension", "pension", "uuid", "httpx",
    ),
]  # fmt: skip
