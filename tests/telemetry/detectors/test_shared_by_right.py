"""What users share by right, kept in the service's memory: messages, invitations, rooms, a team's plan. And that a leak there is one."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor
from tests.telemetry.detectors.signed import ANN, BOB, CID, USERS, Signed


async def test_an_inbox_that_names_its_senders(app: FastAPI, signed: Signed) -> None:
    inbox: dict[str, list[dict[str, str]]] = defaultdict(list)

    @app.post("/messages")
    async def write(request: Request) -> dict[str, bool]:
        body = await request.json()
        inbox[body["to"]].append({"from": signed.who(request), "text": body["text"]})
        return {"sent": True}

    @app.get("/inbox")
    async def read(request: Request) -> list[dict[str, str]]:
        return inbox[signed.who(request)]

    for round in range(3):
        for sender in USERS:
            for receiver in USERS:
                if sender != receiver:
                    await signed.post(sender, "/messages", to=receiver, text=f"hello {uuid.uuid4()}")
        await signed.walked()
        for user in USERS:
            assert len(await signed.get(user, "/inbox")) == 4 * (round + 1)

    assert signed.found() == []


async def test_an_invitation_shows_what_it_stands_for_to_those_who_have_it_alone(app: FastAPI, signed: Signed) -> None:
    name_of: dict[str, str] = {}
    members: dict[str, list[str]] = defaultdict(list)
    everybody_is_in: list[str] = []

    @app.post("/teams")
    async def found_team(request: Request) -> dict[str, str]:
        code = uuid.uuid4().hex
        name_of[code] = (await request.json())["name"]
        members[code].append(signed.who(request))
        return {"code": code}

    @app.post("/join")
    async def join(request: Request) -> dict[str, str]:
        code = (await request.json())["code"]
        members[code].append(signed.who(request))
        return {"joined": name_of[code]}

    @app.get("/teams")
    async def teams(request: Request) -> dict[str, list[str]]:
        who = signed.who(request)
        return {"names": [name_of[code] for code in members if who in members[code] or everybody_is_in]}

    code = (await signed.post(ANN, "/teams", name=f"team {uuid.uuid4()}"))["code"]
    for user in (ANN, BOB, CID):
        await signed.post(user, "/join", code=code)
    for user in USERS:
        await signed.get(user, "/teams")
    assert signed.found() == []

    strangers = [user for user in USERS if user not in (ANN, BOB, CID)]
    for user in strangers:
        await signed.post(user, "/teams", name=f"team {uuid.uuid4()}")
    everybody_is_in.append("by a bug")
    for user in strangers:
        await signed.get(user, "/teams")

    # Of the two who never were invited, each of the first team and of the other's.
    assert len(signed.found()) == 4


async def test_a_room_that_is_kept_for_each_of_its_members(app: FastAPI, signed: Signed) -> None:
    rooms_of: dict[str, list[str]] = defaultdict(list)
    rooms: dict[str, list[str]] = {}

    @app.post("/rooms")
    async def open_room(request: Request) -> dict[str, str]:
        room = str(uuid.uuid4())
        rooms[room] = []
        rooms_of[signed.who(request)].append(room)
        return {"room": room}

    @app.post("/enter/{room}")
    async def enter(room: str, request: Request) -> dict[str, bool]:
        rooms_of[signed.who(request)].append(room)
        return {"ok": True}

    @app.get("/rooms")
    async def mine(request: Request) -> dict[str, list[str]]:
        return {"rooms": rooms_of[signed.who(request)]}

    for user in USERS:
        await signed.post(user, "/rooms")
        await signed.walked()
        await signed.get(user, "/rooms")
    for room in rooms:
        for user in USERS:
            await signed.post(user, f"/enter/{room}")
            await signed.get(user, "/rooms")

    assert signed.found() == []


@pytest.mark.parametrize("is_walked_first", [True, False])
async def test_one_object_under_the_keys_of_two(app: FastAPI, signed: Signed, *, is_walked_first: bool) -> None:
    plan_of_team = [{"license": str(uuid.uuid4()), "seats": {"code": uuid.uuid4().hex}} for _ in range(2)]
    app.state.plans = {user: plan_of_team[number % 2] for number, user in enumerate(USERS)}

    @app.get("/plan")
    async def plan(request: Request) -> Any:
        return app.state.plans[signed.who(request)]

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    if is_walked_first:
        for user in USERS:
            await signed.get(user, "/hello")
        await signed.walked()
    for _ in range(4):
        for user in USERS:
            await signed.get(user, "/plan")
        await signed.walked()

    assert signed.found() == []


async def test_one_object_under_one_key_is_still_its_owners(app: FastAPI, signed: Signed) -> None:
    app.state.plans = {user: {"license": str(uuid.uuid4())} for user in USERS}

    @app.get("/plan")
    async def plan(request: Request) -> Any:
        return app.state.plans[ANN if is_broken else signed.who(request)]

    is_broken = False
    for user in USERS:
        await signed.get(user, "/plan")
    await signed.walked()
    assert signed.found() == []

    is_broken = True
    await signed.get(BOB, "/plan")
    await signed.walked()

    assert len(signed.found()) == 1


async def test_what_changes_hands_belongs_to_who_has_it_now(app: FastAPI, signed: Signed) -> None:
    tickets = {user: uuid.uuid4().hex for user in USERS}

    @app.get("/ticket")
    async def ticket(request: Request) -> dict[str, str]:
        return {"ticket": tickets[signed.who(request)]}

    for user in USERS:
        await signed.get(user, "/ticket")
    await signed.walked()
    tickets[ANN], tickets[BOB] = tickets[BOB], tickets[ANN]
    for user in (ANN, BOB):
        await signed.get(user, "/ticket")
    await signed.walked()

    assert signed.found() == []


async def test_what_a_pair_shares_while_one_of_them_was_never_seen(app: FastAPI, signed: Signed) -> None:
    latest: dict[tuple[str, str], str] = {}

    @app.get("/latest")
    async def read(request: Request) -> dict[str, str]:
        first, second = (ANN, BOB) if signed.who(request) in (ANN, BOB) else (CID, signed.who(request))
        return {"message": latest.setdefault((first, second), uuid.uuid4().hex)}

    await signed.get(ANN, "/latest")
    await signed.get(CID, "/latest")
    await signed.walked()
    for _ in range(2):
        await signed.get(BOB, "/latest")
        await signed.walked()

    assert signed.found() == []


@pytest.mark.parametrize("is_named", [True, False], ids=["support staff", "a leak"])
async def test_who_acts_as_another_by_a_header_is_shown_his(
    app: FastAPI, monitor: IsolationMonitor, signed: Signed, *, is_named: bool
) -> None:
    accounts = {user: uuid.uuid4().hex for user in USERS}
    acting: dict[str, str] = {}

    @app.get("/account")
    async def account(request: Request) -> dict[str, str]:
        return {"account": accounts[request.headers.get("x-act-as") or acting.get(signed.who(request)) or signed.who(request)]}

    for user in USERS:
        await signed.get(user, "/account")
    await signed.walked()
    if is_named:
        await signed.get(ANN, "/account", {"X-Act-As": BOB})
    else:
        acting[ANN] = BOB
        await signed.get(ANN, "/account")
    await signed.walked()

    assert bool(signed.found()) is not is_named


async def test_what_one_writes_is_for_others_to_read_until_they_write_there_themselves(app: FastAPI, signed: Signed) -> None:
    """A team's settings, a shop's notice: only one keeps them, everybody reads them. Among peers the same is a leak."""
    settings: dict[str, str] = {}

    @app.put("/settings")
    @app.post("/settings")
    async def change(request: Request) -> dict[str, str]:
        settings["slogan"] = (await request.json())["slogan"]
        return {}

    @app.get("/settings")
    async def read() -> dict[str, str]:
        return {"slogan": settings["slogan"]}

    await signed.post(ANN, "/settings", slogan=uuid.uuid4().hex)
    for user in USERS:
        await signed.get(user, "/settings")
    assert signed.found() == []

    await signed.post(BOB, "/settings", slogan=uuid.uuid4().hex)

    # What was ANN's had gone to BOB, who writes there as she does.
    assert len(signed.found()) == 1


async def test_who_acts_for_a_customer_sees_what_is_the_customers(app: FastAPI, signed: Signed) -> None:
    """Support takes over an account at an endpoint that customers do not use, and then uses theirs."""
    acting: dict[str, str] = {}
    account_of = {user: uuid.uuid4().hex for user in USERS}
    is_confused: list[str] = []

    @app.post("/support/act")
    async def act(request: Request) -> dict[str, str]:
        acting[signed.who(request)] = (await request.json())["customer"]
        return {}

    @app.get("/me")
    async def profile(request: Request) -> dict[str, str]:
        user = acting.get(signed.who(request), signed.who(request))
        user = CID if is_confused and user != BOB else user
        return {"id": user, "account": account_of[user]}

    for _ in range(4):
        for user in USERS:
            await signed.get(user, "/me")
    await signed.post(ANN, "/support/act", customer=BOB)
    for user in (ANN, BOB, ANN, BOB):
        await signed.get(user, "/me")
    assert signed.found() == []

    acting.clear()
    is_confused.append("by a bug")
    for user in USERS:
        await signed.get(user, "/me")

    assert len(signed.found()) >= 3


async def test_an_order_is_shown_to_whom_it_was_placed_with(app: FastAPI, signed: Signed) -> None:
    """The buyer's words concern an offer of the seller's: they are for the seller, and for nobody else."""
    seller_of: dict[str, str] = {}
    orders: list[tuple[str, str]] = []
    is_leaking: list[str] = []

    @app.post("/offers")
    async def offer(request: Request) -> dict[str, str]:
        id = uuid.uuid4().hex
        seller_of[id] = signed.who(request)
        return {"offer": id}

    @app.post("/orders")
    async def order(request: Request) -> dict[str, str]:
        body = await request.json()
        orders.append((seller_of[body["offer"]], body["street"]))
        return {}

    @app.get("/parcels/next")
    async def parcel(request: Request) -> dict[str, str | None]:
        me = signed.who(request)
        return {"street": next((street for seller, street in reversed(orders) if seller == me or is_leaking), None)}

    offers = {user: (await signed.post(user, "/offers"))["offer"] for user in USERS}
    for buyer in USERS:
        for seller in USERS:
            if buyer != seller:
                await signed.post(buyer, "/orders", offer=offers[seller], street=uuid.uuid4().hex)
    for user in USERS:
        await signed.get(user, "/parcels/next")
    assert signed.found() == []

    is_leaking.append("by a bug")
    for user in USERS:
        await signed.get(user, "/parcels/next")

    assert signed.found()


async def test_a_leaderboard_of_nicknames_is_for_everybody(app: FastAPI, signed: Signed) -> None:
    nickname_of: dict[str, str] = {}

    @app.post("/nickname")
    async def rename(request: Request) -> dict[str, str]:
        nickname_of[signed.who(request)] = (await request.json())["nickname"]
        return {}

    @app.get("/me")
    async def profile(request: Request) -> dict[str, str]:
        return {"nickname": nickname_of[signed.who(request)]}

    @app.get("/leaderboard")
    async def board() -> dict[str, list[dict[str, Any]]]:
        return {"players": [{"rank": rank, "nickname": name} for rank, name in enumerate(nickname_of.values())]}

    for user in USERS:
        await signed.post(user, "/nickname", nickname=f"player-{uuid.uuid4().hex[:12]}")
    for _ in range(5):
        for user in USERS:
            await signed.get(user, "/me")
            await signed.get(user, "/leaderboard")

    assert signed.found() == []
