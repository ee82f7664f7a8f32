"""Configuration and clients that are set per user on something shared: module keys, the environment, aliased defaults, app.state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from isolation_monitor.telemetry import IsolationMonitor
from tests.leaks.bank import upstream_bank
from tests.leaks.case import Built, Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


def with_bank(accounts: dict[str, str]) -> Any:
    """A lifespan that gives the application a bank upstream and one client for it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with upstream_bank(accounts) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            app.state.client = client
            yield

    return lifespan


async def drive_accounts(service: Service) -> list[str]:
    service.own_values("number", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/accounts"))

    return await service.everybody(ask, rounds=5)


# --- a key that belongs to the module -------------------------------------------------------------------------------

MODULE_KEY_USERS = Users("sdk-module-key")


def build_module_key(variant: Variant) -> FastAPI:
    """An SDK is configured as `sdk.api_key = ...`, once per request, with a moderation call before the real one."""
    app = FastAPI(lifespan=with_bank({u.value("api-key", "token"): u.value("number", "account") for u in MODULE_KEY_USERS}))
    sdk = SimpleNamespace(api_key="")

    async def sdk_accounts(client: httpx.AsyncClient, api_key: str | None = None) -> Any:
        answer = await client.get("/v1/accounts", headers={"X-Api-Key": api_key or sdk.api_key})
        return answer.json()

    @app.get("/accounts")
    async def accounts(request: Request) -> Any:
        key = MODULE_KEY_USERS.of(request).value("api-key", "token")
        if variant == "buggy":
            sdk.api_key = key
            await latency()
            return await sdk_accounts(request.app.state.client)
        await latency()
        return await sdk_accounts(request.app.state.client, api_key=key)

    return app


# --- a key in the environment ---------------------------------------------------------------------------------------

ENVIRON_USERS = Users("sdk-environ", ids="uuid")


def build_environ(variant: Variant) -> FastAPI:
    """The SDK reads its key from the environment when it makes a call, so the service sets the environment."""
    app = FastAPI(lifespan=with_bank({u.value("api-key", "hex"): u.value("number", "account") for u in ENVIRON_USERS}))

    @app.get("/accounts")
    async def accounts(request: Request) -> Any:
        key = ENVIRON_USERS.of(request).value("api-key", "hex")
        if variant == "buggy":
            os.environ["BANK_API_KEY"] = key
        await latency()
        used = os.environ["BANK_API_KEY"] if variant == "buggy" else key
        answer = await request.app.state.client.get("/v1/accounts", headers={"X-Api-Key": used})
        return answer.json()

    return app


# --- a list of messages that is not copied --------------------------------------------------------------------------

PROMPT_USERS = Users("base-messages", ids="int")
BASE_MESSAGES = [{"role": "system", "content": "You are a helpful assistant."}]


def build_base_messages(variant: Variant) -> FastAPI:
    app = FastAPI()

    async def model(messages: list[dict[str, str]]) -> str:
        await latency()
        return "You told me: " + " / ".join(message["content"] for message in messages[1:][-4:])

    @app.post("/complete", response_class=PlainTextResponse)
    async def complete(request: Request) -> str:
        PROMPT_USERS.of(request)
        messages = BASE_MESSAGES if variant == "buggy" else list(BASE_MESSAGES)
        messages.append({"role": "user", "content": (await request.body()).decode()})
        return await model(messages)

    return app


async def drive_base_messages(service: Service) -> list[str]:
    async def ask(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/complete", content=f"my visa application is {service.minted(user, 'uuid')}"))

    return await service.everybody(ask, rounds=4)


# --- defaults that are copied on the surface ------------------------------------------------------------------------

COPY_USERS = Users("shallow-copy")
DEFAULTS: dict[str, Any] = {"model": "small", "auth": {"scheme": "bearer"}, "stops": ["end"]}


def build_shallow_copy(variant: Variant) -> FastAPI:
    app = FastAPI()

    @app.get("/effective-config")
    async def config(request: Request) -> dict[str, Any]:
        user = COPY_USERS.of(request)
        config = DEFAULTS.copy()
        if variant == "fixed":
            config["auth"] = dict(DEFAULTS["auth"])
        config["auth"]["credential"] = user.value("credential", "base32")
        await latency()
        return {"config": config, "warnings": []}

    return app


async def drive_shallow_copy(service: Service) -> list[str]:
    service.own_values("credential", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/effective-config"))

    return await service.everybody(ask, rounds=5)


# --- sessions by address --------------------------------------------------------------------------------------------

ADDRESS_USERS = Users("session-by-address", ids="uuid")


def build_by_address(variant: Variant) -> FastAPI:
    """Visitors' sessions are found by their network address: behind a proxy, or in one office, that is one session."""
    app = FastAPI()
    sessions: dict[str, dict[str, Any]] = {}
    app.state.session_of = lambda request: sessions.setdefault(
        request.client.host if variant == "buggy" else ADDRESS_USERS.of(request).id, {"answers": {}}
    )

    @app.post("/form/{step}")
    async def fill(request: Request, step: int) -> dict[str, Any]:
        session = app.state.session_of(request)
        session["answers"][str(step)] = (await request.json())["answer"]
        await latency()
        return {"so_far": session["answers"]}

    return app


def sessions_are_ones_own(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.factory("session", scope="user")` on the function that finds them."""
    built.app.state.session_of = monitor.factory("session", scope="user")(built.app.state.session_of)


async def drive_by_address(service: Service) -> list[str]:
    async def fill(user: User, round: int) -> None:
        answer = f"passport number {service.minted(user, 'base32')}"
        service.look(user, await service.post(user, f"/form/{(round + user.number) % 3}", json={"answer": answer}))

    return await service.everybody(fill, rounds=4)


# --- a session id that everybody leaves out -------------------------------------------------------------------------

SESSION_USERS = Users("default-session-id")


def build_default_session(variant: Variant) -> FastAPI:
    """`session_id` is optional in the body; clients that leave it out all talk in the session `default`."""
    app = FastAPI()
    memory: dict[str, list[str]] = {}

    @app.post("/agent")
    async def agent(request: Request) -> dict[str, Any]:
        user = SESSION_USERS.of(request)
        body = await request.json()
        session_id = body.get("session_id") or ("default" if variant == "buggy" else f"{user.id}/default")
        lines = memory.setdefault(session_id, [])
        lines.append(body["message"])
        await latency()
        return {"session": {"turns": len(lines), "context": [{"content": line} for line in lines[-5:]]}}

    return app


async def drive_default_session(service: Service) -> list[str]:
    async def say(user: User, round: int) -> None:
        message = f"please book with my loyalty card {service.minted(user, 'account')}"
        service.look(user, await service.post(user, "/agent", json={"message": message}))

    return await service.everybody(say, rounds=4)


# --- a key that is cut short ----------------------------------------------------------------------------------------

SHORT_USERS = Users("key-cut-short", ids="int")


def build_short_key(variant: Variant) -> FastAPI:
    """Shards are chosen by the user's number modulo three; somebody took the shard for the key."""
    app = FastAPI()
    cache: dict[int, dict[str, str]] = {}

    @app.get("/pension")
    async def pension(request: Request) -> dict[str, str]:
        user = SHORT_USERS.of(request)
        key = int(user.id) % 3 if variant == "buggy" else int(user.id)
        if key not in cache:
            await latency()
            cache[key] = {"fund": "Old Age Mutual", "membership": user.value("pension", "uuid")}
        return cache[key]

    return app


async def drive_short_key(service: Service) -> list[str]:
    service.own_values("pension", "uuid")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/pension"))

    return await service.everybody(ask, rounds=5)


# --- the application's state ----------------------------------------------------------------------------------------

STATE_USERS = Users("app-state-user")


def build_app_state(variant: Variant) -> FastAPI:
    app = FastAPI()

    async def profile_of(holder: Any) -> dict[str, Any]:
        await latency()
        return {"profile": {"card": holder.profile["card"], "newsletter": False}}

    @app.get("/profile")
    async def profile(request: Request) -> dict[str, Any]:
        holder = request.app.state if variant == "buggy" else request.state
        holder.profile = {"card": STATE_USERS.of(request).value("card", "account")}
        return await profile_of(holder)

    return app


async def drive_app_state(service: Service) -> list[str]:
    service.own_values("card", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/profile"))

    return await service.everybody(ask, rounds=5)


# --- tools that are bound to the first user -------------------------------------------------------------------------

TOOL_USERS = Users("tools-bound-first", ids="uuid")


def build_tools(variant: Variant) -> FastAPI:
    """An agent per name is made once; its tools are closures over the user who came first."""
    app = FastAPI()
    agents: dict[Any, Any] = {}

    def make_agent(user: User) -> Any:
        vault = {"note": user.value("note", "token")}

        async def read_note() -> str:
            await latency()
            return f"The note says {vault['note']}."

        return SimpleNamespace(tools={"read_note": read_note})

    @app.get("/agents/{name}/run", response_class=PlainTextResponse)
    async def run(request: Request, name: str) -> str:
        user = TOOL_USERS.of(request)
        key: Any = name if variant == "buggy" else (user.id, name)
        if key not in agents:
            agents[key] = make_agent(user)
        answer: str = await agents[key].tools["read_note"]()
        return answer

    return app


async def drive_tools(service: Service) -> list[str]:
    service.own_values("note", "token")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, f"/agents/{('secretary', 'butler')[round % 2]}/run"))

    return await service.everybody(ask, rounds=4)


CASES = [
    Case(
        "sdk-module-key",
        "state",
        "An SDK's module-wide api_key is set per request: calls go out with another user's key.",
        MODULE_KEY_USERS,
        build_module_key,
        drive_accounts,
    ),
    Case(
        "sdk-key-in-environ",
        "state",
        "The user's key is put into os.environ for an SDK that reads it there, after another request changed it.",
        ENVIRON_USERS,
        build_environ,
        drive_accounts,
    ),
    Case(
        "base-messages-aliased",
        "state",
        "The list of base messages is appended to instead of copied: prompts contain those of others.",
        PROMPT_USERS,
        build_base_messages,
        drive_base_messages,
    ),
    Case(
        "defaults-shallow-copy",
        "state",
        "Defaults are copied on the surface only: the nested credentials are one dict for all.",
        COPY_USERS,
        build_shallow_copy,
        drive_shallow_copy,
        annotate=store_is_private,
    ),
    Case(
        "session-by-address",
        "state",
        "Sessions are found by network address: all who share one fill in one form.",
        ADDRESS_USERS,
        build_by_address,
        drive_by_address,
        annotate=sessions_are_ones_own,
    ),
    Case(
        "default-session-id",
        "state",
        "A missing session id means `default`: users without one share an agent's memory.",
        SESSION_USERS,
        build_default_session,
        drive_default_session,
    ),
    Case(
        "cache-key-is-shard",
        "state",
        "The cache key is the user's shard: users of one shard get the first one's pension.",
        SHORT_USERS,
        build_short_key,
        drive_short_key,
        annotate=store_is_private,
    ),
    Case(
        "app-state-profile",
        "state",
        "The request's profile is put on app.state instead of request.state.",
        STATE_USERS,
        build_app_state,
        drive_app_state,
        annotate=store_is_private,
    ),
    Case(
        "tools-bound-to-first",
        "state",
        "Agents are kept by name, with tools that close over the first user's vault.",
        TOOL_USERS,
        build_tools,
        drive_tools,
        annotate=store_is_private,
    ),
]
