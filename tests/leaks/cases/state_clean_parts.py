"""Clean services whose parts are shared and used rightly: caches, models, workers, connections. Nothing may be reported."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from tests.leaks.bank import upstream_bank
from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


def expect(service: Service, holds: bool, sentence: str) -> None:
    if not holds:
        service.harm(f"the service does not work: {sentence}")


# --- public caches and per-user caches ------------------------------------------------------------------------------

CACHE_USERS = Users("clean-caches")
CATALOGUE = [{"sku": mint("uuid"), "name": name, "price": price} for name, price in (("tea", 4), ("salt", 1), ("bread", 3))]


def build_caches(variant: Variant) -> FastAPI:
    """A public catalogue cached for all (filled by whoever came first), and personal prices cached per user."""
    app = FastAPI()
    public: dict[str, Any] = {}
    personal: dict[tuple[str, str], dict[str, Any]] = {}
    flying: dict[str, asyncio.Task[Any]] = {}

    @functools.lru_cache(maxsize=128)
    def vat(country: str) -> float:
        return {"de": 0.19, "fr": 0.2}.get(country, 0.21)

    async def load() -> list[dict[str, Any]]:
        await latency()
        return [dict(item) for item in CATALOGUE]

    @app.get("/catalogue")
    async def catalogue(request: Request) -> dict[str, Any]:
        CACHE_USERS.of(request)
        if "catalogue" not in public:
            task = flying.get("catalogue") or flying.setdefault("catalogue", asyncio.create_task(load()))
            public["catalogue"] = await asyncio.shield(task)
            flying.pop("catalogue", None)
        return {"items": public["catalogue"], "vat": vat("de")}

    @app.get("/prices/{sku}")
    async def price(request: Request, sku: str) -> dict[str, Any]:
        user = CACHE_USERS.of(request)
        if (user.id, sku) not in personal:
            await latency()
            personal[user.id, sku] = {"sku": sku, "voucher": user.value(f"voucher-{sku}", "base32")}
        return personal[user.id, sku]

    return app


async def drive_caches(service: Service) -> list[str]:
    for sku in ("tea", "salt", "bread"):
        service.own_values(f"voucher-{sku}", "base32")

    async def act(user: User, round: int) -> None:
        items = await service.get(user, "/catalogue")
        expect(service, len(items.json()["items"]) == 3, "the catalogue is not complete")
        sku = ("tea", "salt", "bread")[round % 3]
        mine = await service.get(user, f"/prices/{sku}")
        expect(service, user.value(f"voucher-{sku}", "base32") in mine.text, "a voucher is missing")
        service.look(user, mine)

    return await service.everybody(act, rounds=6)


# --- everything of a modern service, used rightly -------------------------------------------------------------------

AGENT_USERS = Users("clean-agents")
AGENT_ACCOUNTS = {user.value("api-key", "token"): user.value("number", "account") for user in AGENT_USERS}
user_of: ContextVar[User] = ContextVar("user_of")


class Model:
    """A stateless singleton with counters and statistics, as every client of a model has."""

    def __init__(self) -> None:
        self.calls = 0
        self.in_flight = 0
        self.latest_latency_s = 0.0
        self.models = {"small": 1, "large": 2}

    async def complete(self, prompt: str) -> str:
        self.calls += 1
        self.in_flight += 1
        began = asyncio.get_running_loop().time()
        try:
            await latency()
            return f"{prompt} - noted."
        finally:
            self.in_flight -= 1
            self.latest_latency_s = asyncio.get_running_loop().time() - began


def build_agents(variant: Variant) -> FastAPI:
    """One model for all, one agent per request, one session per user, a queue worker, a batch, a pool of connections upstream."""
    model = Model()
    sessions: dict[str, list[str]] = {}
    jobs: asyncio.Queue[tuple[User, str, asyncio.Future[str]]] = asyncio.Queue()
    audit: deque[tuple[float, str]] = deque(maxlen=100)
    rates: dict[str, int] = defaultdict(int)

    class Agent:
        def __init__(self, user: User) -> None:
            self.user = user
            self.history = sessions.setdefault(user.id, [])

        async def run(self, text: str) -> str:
            self.history.append(text)
            answer = await model.complete(f"{text} (client {self.user.value('client', 'base32')})")
            self.history.append(answer)
            return answer

    async def worker() -> None:
        while True:
            user, text, done = await jobs.get()
            user_of.set(user)
            answer = await Agent(user_of.get()).run(text)
            if not done.done():
                done.set_result(answer)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers = [asyncio.create_task(worker()) for _ in range(2)]
        async with upstream_bank(AGENT_ACCOUNTS) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            app.state.client = client
            yield
        for task in workers:
            task.cancel()

    app = FastAPI(lifespan=lifespan)

    def agent_of(request: Request) -> Agent:
        user = AGENT_USERS.of(request)
        rates[user.id] += 1
        audit.append((time.time(), user.id))
        return Agent(user)

    @app.post("/chat", response_class=PlainTextResponse)
    async def chat(request: Request, agent: Agent = Depends(agent_of)) -> str:
        return await agent.run((await request.body()).decode())

    @app.post("/queued", response_class=PlainTextResponse)
    async def queued(request: Request) -> str:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await jobs.put((AGENT_USERS.of(request), (await request.body()).decode(), done))
        return await done

    @app.post("/parallel")
    async def parallel(request: Request) -> dict[str, Any]:
        agent = Agent(AGENT_USERS.of(request))
        text = (await request.body()).decode()
        return {"answers": await asyncio.gather(*(agent.run(f"{n}: {text}") for n in range(3)))}

    @app.get("/accounts")
    async def accounts(request: Request) -> Any:
        key = {"X-Api-Key": AGENT_USERS.of(request).value("api-key", "token")}
        return (await request.app.state.client.get("/v1/accounts", headers=key)).json()

    @app.get("/history")
    async def history(request: Request) -> StreamingResponse:
        lines = list(sessions.get(AGENT_USERS.of(request).id, []))

        async def stream() -> AsyncIterator[str]:
            for line in lines[-5:]:
                await asyncio.sleep(0.001)
                yield json.dumps({"line": line}) + "\n"

        return StreamingResponse(stream(), media_type="application/x-ndjson")

    return app


async def drive_agents(service: Service) -> list[str]:
    service.own_values("client", "base32")
    service.own_values("number", "account")

    async def act(user: User, round: int) -> None:
        secret = service.minted(user, "token")
        path = ("/chat", "/queued", "/parallel")[(round + user.number) % 3]
        answer = await service.post(user, path, content=f"remember that my locker opens with {secret}")
        expect(service, secret in answer.text, "an answer does not fit its question")
        service.look(user, answer)
        service.look(user, await service.get(user, "/history"))
        service.look(user, await service.get(user, "/accounts"))

    return await service.everybody(act, rounds=5)


# --- connections that carry users in turn ---------------------------------------------------------------------------

PROXY_USERS = Users("clean-behind-proxy", ids="int")


def build_behind_proxy(variant: Variant) -> FastAPI:
    app = FastAPI()
    active: ContextVar[str] = ContextVar("active")

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, Any]:
        user = PROXY_USERS.of(request)
        active.set(user.id)
        size = len(await request.body())
        await latency()
        return {"stored": size, "for": active.get(), "bucket": user.value("bucket")}

    return app


async def drive_behind_proxy(service: Service) -> list[str]:
    service.own_values("bucket")
    limits = httpx.Limits(max_connections=3, max_keepalive_connections=3)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=30, trust_env=False) as proxy:

        async def upload(user: User, round: int) -> None:
            answer = await proxy.post("/upload", content=b"x" * 50_000, headers={"Authorization": f"Bearer {user.token}"})
            expect(service, answer.json()["for"] == user.id, "an upload is another's")
            service.look(user, answer)

        return await service.everybody(upload, rounds=5)


CASES = [
    Case(
        "clean-caches",
        "clean",
        "A public catalogue cached for all, personal vouchers cached per user.",
        CACHE_USERS,
        build_caches,
        drive_caches,
    ),
    Case(
        "clean-agents",
        "clean",
        "A stateless model for all, agents per request, sessions per user, queue workers.",
        AGENT_USERS,
        build_agents,
        drive_agents,
    ),
    Case(
        "clean-behind-proxy",
        "clean",
        "A proxy's few connections carry all users in turn; the service sets its context, never trusts it.",
        PROXY_USERS,
        build_behind_proxy,
        drive_behind_proxy,
        server={"loop": "asyncio", "http": "h11"},
    ),
]
