"""A clean service where what one says is for one other: tickets, notices that are marked as public, a market. Nothing may be reported."""

from __future__ import annotations

import itertools
import random
import uuid
from typing import Any

from fastapi import FastAPI, Request

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.cases.state_clean_people import expect, latency
from tests.leaks.service import Service

DESK_USERS = Users("clean-desk")


def build_desk(variant: Variant) -> FastAPI:
    app = FastAPI()
    tickets: dict[int, dict[str, Any]] = {}
    numbers = itertools.count(1)
    notices: list[dict[str, Any]] = []
    offers: dict[str, dict[str, Any]] = {}

    @app.post("/tickets")
    async def open_ticket(request: Request) -> dict[str, int]:
        user, number = DESK_USERS.of(request), next(numbers)
        helper = DESK_USERS[(user.number + number) % len(DESK_USERS)]
        tickets[number] = {"no": number, "customer": user.id, "helper": helper.id, "text": (await request.json())["text"], "answers": []}
        await latency()
        return {"no": number}

    @app.get("/tickets")
    async def mine(request: Request) -> dict[str, Any]:
        user = DESK_USERS.of(request)
        await latency()
        own = [one for one in tickets.values() if user.id in (one["customer"], one["helper"])]
        return {"tickets": [{"no": one["no"], "text": one["text"], "answers": one["answers"][-2:]} for one in own[-4:]]}

    @app.post("/answers")
    async def answer(request: Request) -> dict[str, bool]:
        body = await request.json()
        tickets[body["no"]]["answers"].append(body["text"])
        return {"told": True}

    @app.post("/notices")
    async def announce(request: Request) -> dict[str, bool]:
        user, body = DESK_USERS.of(request), await request.json()
        notices.append({"content": body["text"], "metadata": {"owner": "public" if body["public"] else user.id}})
        return {"kept": True}

    @app.get("/notices")
    async def read(request: Request) -> dict[str, list[str]]:
        seen = (DESK_USERS.of(request).id, "public")
        return {"notices": [one["content"] for one in notices if one["metadata"]["owner"] in seen][-5:]}

    @app.post("/offers")
    async def offer(request: Request) -> dict[str, str]:
        id = uuid.uuid4().hex
        offers[id] = {"seller": DESK_USERS.of(request).id, "title": (await request.json())["title"]}
        return {"id": id}

    @app.get("/offers")
    async def browse(request: Request) -> dict[str, list[dict[str, str]]]:
        return {"offers": [{"id": id, "title": one["title"]} for id, one in offers.items()][-20:]}

    @app.post("/purchases")
    async def buy(request: Request) -> dict[str, str]:
        return {"bought": offers[(await request.json())["offer"]]["title"]}

    return app


async def drive_desk(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await latency()
        await service.post(user, "/tickets", json={"text": f"my router is broken, serial {mint()}"})
        tickets = (await service.get(user, "/tickets")).json()["tickets"]
        expect(service, bool(tickets), "a customer sees his ticket")
        for ticket in tickets[-2:]:
            await service.post(user, "/answers", json={"no": ticket["no"], "text": f"please read {mint('base32')}"})
        await service.get(user, "/tickets")
        await service.post(user, "/notices", json={"text": f"note {mint()}", "public": user.number == 0})
        await service.get(user, "/notices")
        await service.post(user, "/offers", json={"title": f"lamp {mint('token')}"})
        listed = (await service.get(user, "/offers")).json()["offers"]
        await service.post(user, "/purchases", json={"offer": random.choice(listed)["id"]})

    return await service.everybody(act)


CASES = [
    Case(
        "clean-desk",
        "clean",
        "Tickets between customer and helper, notices that are marked as public, offers that others buy.",
        DESK_USERS,
        build_desk,
        drive_desk,
    )
]
