"""Shared objects that carry one user's data while another's request runs: the modal bug of agent platforms."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request

from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor

# --- a module-wide agent whose fields are set per request ----------------------------------------------------------

AGENT_USERS = Users("module-agent")
PROFILES = {user.id: {"plan": "pro", "tax_number": user.value("tax", "account")} for user in AGENT_USERS}


class Advisor:
    """Loads the user's profile into itself, waits for the model, then writes the answer from itself."""

    def __init__(self) -> None:
        self.user_id: str | None = None
        self.user_data: dict[str, str] = {}

    async def answer(self, user_id: str, question: str) -> dict[str, Any]:
        self.user_id = user_id
        self.user_data = PROFILES[user_id]
        await asyncio.sleep(random.uniform(0.002, 0.02))
        return {"question": question, "reply": f"For number {self.user_data['tax_number']} the allowance is 12570."}


def build_module_agent(variant: Variant) -> FastAPI:
    app = FastAPI()
    shared = Advisor()
    app.state.get_advisor = (lambda: shared) if variant == "buggy" else Advisor

    @app.get("/advice")
    async def advice(request: Request, question: str) -> dict[str, Any]:
        agent: Advisor = request.app.state.get_advisor()
        return await agent.answer(AGENT_USERS.of(request).id, question)

    return app


def declare_advisor(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.factory("advisor")` on the function that gives the agent."""
    built.app.state.get_advisor = monitor.factory("advisor")(built.app.state.get_advisor)


async def drive_module_agent(service: Service) -> list[str]:
    service.own_values("tax", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/advice", params={"question": "how much may I earn?"}))

    return await service.everybody(ask, rounds=6)


# --- a dependency that is made once and remembers the conversation -------------------------------------------------

HISTORY_USERS = Users("agent-history", ids="uuid")


class Conversation:
    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []

    async def say(self, text: str) -> list[dict[str, str]]:
        self.messages.append({"role": "user", "content": text})
        await asyncio.sleep(0.005)
        self.messages.append({"role": "assistant", "content": f"noted ({len(text)} characters)"})
        return self.messages[-6:]


def build_history(variant: Variant) -> FastAPI:
    app = FastAPI()
    singleton = Conversation()
    per_user: dict[str, Conversation] = {}

    def conversation(request: Request) -> Conversation:
        if variant == "buggy":
            return singleton
        return per_user.setdefault(HISTORY_USERS.of(request).id, Conversation())

    @app.post("/chat")
    async def chat(request: Request, talk: Conversation = Depends(conversation)) -> dict[str, Any]:
        body = await request.json()
        return {"messages": await talk.say(body["text"])}

    return app


async def drive_history(service: Service) -> list[str]:
    async def say(user: User, round: int) -> None:
        text = f"my door code is {service.minted(user, 'base32')}, please remember it"
        service.look(user, await service.post(user, "/chat", json={"text": text}))

    return await service.everybody(say, rounds=5)


CASES = [
    Case(
        "module-agent-fields",
        "state",
        "A module-wide agent keeps the profile of the request that came last; answers written after the await are another's.",
        AGENT_USERS,
        build_module_agent,
        drive_module_agent,
        annotate=declare_advisor,
    ),
    Case(
        "singleton-conversation",
        "state",
        "A conversation object is made once instead of once per user: everybody reads everybody's last messages.",
        HISTORY_USERS,
        build_history,
        drive_history,
    ),
]
