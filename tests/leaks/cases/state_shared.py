"""State that Python shares without being asked: class attributes, mutable defaults, closures, default instances, globals of templates."""

from __future__ import annotations

import asyncio
import functools
import random
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

from tests.leaks.case import Built, Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor


async def model_latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.015))


# --- a list that belongs to the class -------------------------------------------------------------------------------

CART_USERS = Users("class-cart")


def build_class_attribute(variant: Variant) -> FastAPI:
    app = FastAPI()

    class SharedCart:
        items: list[dict[str, str]] = []  # noqa: RUF012 - this is the bug

        def add(self, item: dict[str, str]) -> None:
            self.items.append(item)

    class OwnCart(SharedCart):
        def __init__(self) -> None:
            self.items = []

    carts: dict[str, SharedCart] = {}

    @app.post("/cart")
    async def add(request: Request) -> dict[str, Any]:
        user = CART_USERS.of(request)
        cart = carts.setdefault(user.id, SharedCart() if variant == "buggy" else OwnCart())
        cart.add(await request.json())
        await model_latency()
        return {"cart": {"count": len(cart.items), "items": [[i["sku"], i["note"]] for i in cart.items[-20:]]}}

    return app


async def drive_class_attribute(service: Service) -> list[str]:
    async def add(user: User, round: int) -> None:
        item = {"sku": random.choice(["kettle", "toaster", "lamp"]), "note": f"engrave {service.minted(user)}"}
        service.look(user, await service.post(user, "/cart", json=item))

    return await service.everybody(add, rounds=4)


# --- a default argument that is made once ---------------------------------------------------------------------------

DEFAULT_USERS = Users("mutable-default", ids="int")
ALLERGIES = {user.id: user.value("allergy", "token") for user in DEFAULT_USERS}


def allergies_of(user_id: str) -> str:
    return ALLERGIES[user_id]


def allergies_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that reads them."""
    global allergies_of
    allergies_of = monitor.private(allergies_of)


def build_mutable_default(variant: Variant) -> FastAPI:
    app = FastAPI()

    async def collect(user_id: str, facts: list[str] = []) -> list[str]:  # noqa: B006 - this is the bug
        facts.append(f"patient file {allergies_of(user_id)}")
        await model_latency()
        return facts

    @app.get("/facts", response_class=PlainTextResponse)
    async def facts(request: Request) -> str:
        user = DEFAULT_USERS.of(request)
        found = await (collect(user.id) if variant == "buggy" else collect(user.id, []))
        return "We know about you: " + "; ".join(found[-5:]) + "."

    return app


async def drive_mutable_default(service: Service) -> list[str]:
    service.own_values("allergy", "token")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/facts"))

    return await service.everybody(ask, rounds=4)


# --- a closure that remembers the last one --------------------------------------------------------------------------

CLOSURE_USERS = Users("closure-state", ids="uuid")


def build_closure(variant: Variant) -> FastAPI:
    app = FastAPI()

    def make_summarizer() -> Any:
        draft = ""

        async def summarize(text: str) -> str:
            nonlocal draft
            draft = text
            await model_latency()
            return f"<p>Summary: {draft[:200]}</p>"

        return summarize

    shared = make_summarizer()

    @app.post("/summaries", response_class=HTMLResponse)
    async def summaries(request: Request) -> str:
        CLOSURE_USERS.of(request)
        text = (await request.body()).decode()
        summarize = shared if variant == "buggy" else make_summarizer()
        return "<html><body>" + await summarize(text) + "</body></html>"

    return app


async def drive_closure(service: Service) -> list[str]:
    async def post(user: User, round: int) -> None:
        text = f"The contract with reference {service.minted(user, 'uuid')} ends in March and must not be renewed."
        service.look(user, await service.post(user, "/summaries", content=text))

    return await service.everybody(post, rounds=6)


# --- a dependency that is cached for ever ---------------------------------------------------------------------------

DEPENDS_USERS = Users("depends-cached")


class Wallets:
    """The store: each user's own numbers, fetched with some latency."""

    async def fetch(self, user: User) -> dict[str, str]:
        await model_latency()
        return {"iban": user.value("iban", "account"), "owner_ref": user.value("ref", "base32")}


class Assistant:
    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}
        self.wallets = Wallets()

    async def run(self, user: User) -> dict[str, Any]:
        if "wallet" not in self.memory:
            self.memory["wallet"] = await self.wallets.fetch(user)
        return {"answer": {"wallet": self.memory["wallet"], "confidence": 0.9}}


def build_depends(variant: Variant) -> FastAPI:
    app = FastAPI()

    @functools.lru_cache
    def get_assistant() -> Assistant:
        return Assistant()

    dependency = get_assistant if variant == "buggy" else Assistant

    @app.get("/assistant")
    async def assistant(request: Request, agent: Assistant = Depends(dependency)) -> dict[str, Any]:
        return await agent.run(DEPENDS_USERS.of(request))

    return app


async def drive_depends(service: Service) -> list[str]:
    service.own_values("iban", "account")
    service.own_values("ref", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/assistant"))

    return await service.everybody(ask, rounds=4)


# --- one options object as the default of a dataclass ---------------------------------------------------------------

OPTIONS_USERS = Users("default-options")


@dataclass
class Options:
    headers: dict[str, str] = field(default_factory=dict)
    model: str = "small"


DEFAULT_OPTIONS = Options()


@dataclass(eq=False)
class Call:
    prompt: str
    options: Any = None

    def __post_init__(self) -> None:
        if self.options is None:
            self.options = DEFAULT_OPTIONS


def build_default_options(variant: Variant) -> FastAPI:
    app = FastAPI()

    async def provider(call: Call) -> dict[str, Any]:
        await model_latency()
        return {"echo": {"model": call.options.model, "sent": [{"name": k, "value": v} for k, v in call.options.headers.items()]}}

    @app.get("/complete")
    async def complete(request: Request) -> dict[str, Any]:
        user = OPTIONS_USERS.of(request)
        call = Call("hello") if variant == "buggy" else Call("hello", Options())
        call.options.headers["X-Provider-Key"] = user.value("provider-key", "token")
        return await provider(call)

    return app


async def drive_default_options(service: Service) -> list[str]:
    service.own_values("provider-key", "token")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/complete"))

    return await service.everybody(ask, rounds=6)


# --- globals of a template environment ------------------------------------------------------------------------------

TEMPLATE_USERS = Users("template-globals", ids="int")


class Environment:
    """A template environment as the well-known ones have it: values in `globals` are visible to all templates."""

    def __init__(self) -> None:
        self.globals: dict[str, object] = {"site": "Northbank"}

    async def render(self, source: str, **values: object) -> str:
        await model_latency()
        return Template(source).safe_substitute({**self.globals, **values})


def build_template(variant: Variant) -> FastAPI:
    app = FastAPI()
    environment = Environment()
    page = "<h1>$site</h1><p>Your recovery code: <b>$recovery</b></p>"

    @app.get("/settings", response_class=HTMLResponse)
    async def settings(request: Request) -> str:
        code = TEMPLATE_USERS.of(request).value("recovery", "base32")
        if variant == "buggy":
            environment.globals["recovery"] = code
            return await environment.render(page)
        return await environment.render(page, recovery=code)

    return app


async def drive_template(service: Service) -> list[str]:
    service.own_values("recovery", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/settings"))

    return await service.everybody(ask, rounds=6)


CASES = [
    Case(
        "class-attribute-cart",
        "state",
        "The cart's list is an attribute of the class: all carts show all users' items.",
        CART_USERS,
        build_class_attribute,
        drive_class_attribute,
    ),
    Case(
        "mutable-default-argument",
        "state",
        "A helper collects facts into its default argument: each answer lists the facts of earlier users.",
        DEFAULT_USERS,
        build_mutable_default,
        drive_mutable_default,
        annotate=allergies_are_private,
    ),
    Case(
        "closure-draft",
        "state",
        "A summarizer keeps its draft in a closure that all requests share: the summary is of another's text.",
        CLOSURE_USERS,
        build_closure,
        drive_closure,
    ),
    Case(
        "cached-dependency",
        "state",
        "A dependency is cached with lru_cache and keeps the first user's wallet in its memory: everybody gets that one.",
        DEPENDS_USERS,
        build_depends,
        drive_depends,
        annotate=store_is_private,
    ),
    Case(
        "default-options-object",
        "state",
        "Calls share one default options object, whose headers are set per user: the provider sees another's key.",
        OPTIONS_USERS,
        build_default_options,
        drive_default_options,
        annotate=store_is_private,
    ),
    Case(
        "template-globals",
        "state",
        "The page's private value is put into the template environment's globals before an await: another's page shows it.",
        TEMPLATE_USERS,
        build_template,
        drive_template,
        annotate=store_is_private,
    ),
]
