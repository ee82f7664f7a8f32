"""Consent by what memory says of a value: rows kept between two, rows for all, offers that others take up, known names. And its limits."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi import FastAPI, Request

from tests.telemetry.detectors.signed import ANN, BOB, CID, USERS, Signed


async def test_a_ticket_that_names_customer_and_helper_is_shown_to_both_and_to_no_other(app: FastAPI, signed: Signed) -> None:
    tickets: list[dict[str, Any]] = []
    is_leaking: list[str] = []

    @app.post("/tickets")
    async def open_ticket(request: Request) -> dict[str, int]:
        user = signed.who(request)
        helper = USERS[(USERS.index(user) + 1) % len(USERS)]
        tickets.append({"customer": user, "helper": helper, "text": (await request.json())["text"], "answers": []})
        return {"number": len(tickets)}

    @app.get("/mine")
    async def mine(request: Request) -> dict[str, list[str]]:
        user = signed.who(request)
        return {"texts": [one["text"] for one in tickets if user in (one["customer"], one["helper"]) or is_leaking]}

    for user in USERS:
        await signed.post(user, "/tickets", text=f"my router is broken, serial {uuid.uuid4().hex}")
    for user in USERS:
        assert len((await signed.get(user, "/mine"))["texts"]) == 2
    assert signed.found() == []

    is_leaking.append("by a bug")
    for user in USERS:
        await signed.get(user, "/mine")

    assert any("/mine" in summary for summary in signed.found())


async def test_what_is_marked_as_public_is_for_all_and_what_stands_beside_it_is_not(app: FastAPI, signed: Signed) -> None:
    documents: list[dict[str, Any]] = []
    is_leaking: list[str] = []

    @app.post("/documents")
    async def add(request: Request) -> dict[str, bool]:
        body = await request.json()
        owner = "public" if body["text"].startswith("to all") else signed.who(request)
        documents.append({"content": body["text"], "metadata": {"owner": owner}})
        return {}

    @app.get("/search")
    async def search(request: Request) -> dict[str, list[str]]:
        seen = (signed.who(request), "public")
        return {"found": [one["content"] for one in documents if one["metadata"]["owner"] in seen or is_leaking]}

    for user in USERS:
        await signed.post(user, "/documents", text=f"my salary {uuid.uuid4().hex}")
        await signed.post(user, "/documents", text=f"to all {uuid.uuid4().hex}")
    for user in USERS:
        assert len((await signed.get(user, "/search"))["found"]) == len(USERS) + 1
    assert signed.found() == []

    is_leaking.append("by a bug")
    for user in USERS:
        await signed.get(user, "/search")

    assert any("/search" in summary for summary in signed.found())


async def offered(app: FastAPI, signed: Signed) -> None:
    """Let everybody offer something, and everybody see all offers."""
    title_of: dict[str, str] = {}

    @app.post("/offers")
    async def offer(request: Request) -> dict[str, str]:
        id = uuid.uuid4().hex
        title_of[id] = (await request.json())["title"]
        return {"id": id}

    @app.get("/offers")
    async def offers(request: Request) -> list[dict[str, str]]:
        return [{"id": id, "title": title} for id, title in title_of.items()]

    @app.post("/orders")
    async def order(request: Request) -> dict[str, str]:
        return {"ordered": title_of[(await request.json())["offer"]]}

    for user in USERS:
        await signed.post(user, "/offers", title=f"lamp {uuid.uuid4().hex}")


async def test_offers_that_others_take_up_by_their_ids_are_for_all(app: FastAPI, signed: Signed) -> None:
    await offered(app, signed)

    for user in USERS:
        listed = await signed.get(user, "/offers")
        if user in (BOB, CID):
            await signed.post(user, "/orders", offer=listed[0]["id"])

    assert signed.found() == []


async def test_what_is_given_for_an_offer_s_id_is_for_all_though_its_owner_named_that_first(app: FastAPI, signed: Signed) -> None:
    await offered(app, signed)
    of_ann, of_bob, of_cid, *_ = [one["id"] for one in await signed.get(ANN, "/offers")]
    await signed.post(ANN, "/orders", offer=of_ann)

    # Each in the same moment as the list was shown that nothing has explained yet.
    for user, offer in ((BOB, of_ann), (CID, of_ann), (CID, of_bob), (BOB, of_cid)):
        await signed.get(user, "/offers")
        await signed.post(user, "/orders", offer=offer)

    assert signed.found() == []


async def test_what_is_given_for_an_id_that_nobody_else_takes_up_is_somebody_s(app: FastAPI, signed: Signed) -> None:
    await offered(app, signed)
    of_ann = (await signed.get(ANN, "/offers"))[0]["id"]
    await signed.post(ANN, "/orders", offer=of_ann)

    await signed.get(BOB, "/offers")
    await signed.post(BOB, "/orders", offer=of_ann)

    assert any("/orders" in summary for summary in signed.found())


async def test_an_offer_may_be_listed_before_the_answer_to_its_maker_has_left(app: FastAPI, signed: Signed) -> None:
    title_of: dict[str, str] = {}
    made, answers = asyncio.Barrier(3), asyncio.Event()

    @app.post("/offers")
    async def offer(request: Request) -> dict[str, str]:
        id = uuid.uuid4().hex
        title_of[id] = (await request.json())["title"]
        await made.wait()
        await answers.wait()
        return {"id": id}

    @app.get("/offers")
    async def offers(request: Request) -> list[dict[str, str]]:
        return [{"id": id} for id in title_of]

    @app.post("/orders")
    async def order(request: Request) -> dict[str, str]:
        return {"ordered": title_of[(await request.json())["offer"]]}

    making = [asyncio.create_task(signed.post(user, "/offers", title=f"lamp {uuid.uuid4().hex}")) for user in (ANN, BOB)]
    await made.wait()
    await signed.get(CID, "/offers")
    answers.set()
    of_ann, of_bob = [(await one)["id"] for one in making]

    for user, taken in ((ANN, of_bob), (CID, of_ann), (CID, of_bob), (BOB, of_ann)):
        await signed.post(user, "/orders", offer=taken)

    assert signed.found() == []


async def test_a_list_with_ids_that_nobody_takes_up_is_somebody_s(app: FastAPI, signed: Signed) -> None:
    await offered(app, signed)
    for user in USERS:
        await signed.get(user, "/offers")

    assert signed.found()


async def test_words_beside_the_name_by_which_all_know_their_author_are_signed(app: FastAPI, signed: Signed) -> None:
    words_of: dict[str, dict[str, str]] = {}

    @app.post("/words")
    async def say(request: Request) -> dict[str, bool]:
        words_of[signed.who(request)] = await request.json()
        return {}

    @app.get("/wall")
    async def wall(request: Request) -> dict[str, Any]:
        return {"words": [{"nickname": said["nickname"], "text": said["text"]} for said in words_of.values()]}

    @app.get("/rival")
    async def rival(request: Request) -> dict[str, Any]:
        other = USERS[(USERS.index(signed.who(request)) + 1) % len(USERS)]
        return {"rival": {"nickname": words_of[other]["nickname"], "secret": words_of[other]["taunt"]}}

    @app.get("/draft")
    async def draft(request: Request) -> dict[str, Any]:
        return {"draft": {"text": words_of[ANN]["taunt"]}}

    for user in USERS:
        await signed.post(user, "/words", nickname=f"player {USERS.index(user)}", text=uuid.uuid4().hex, taunt=uuid.uuid4().hex)
    for path in ("/wall", "/rival"):
        for user in USERS:
            await signed.get(user, path)
    assert signed.found() == []

    for user in USERS:
        await signed.get(user, "/draft")

    assert any("/draft" in summary for summary in signed.found())


async def test_who_said_what_is_kept_for_another_knows_it(app: FastAPI, signed: Signed) -> None:
    inbox: dict[str, list[str]] = {user: [] for user in USERS}

    @app.post("/messages")
    async def write(request: Request) -> dict[str, bool]:
        body = await request.json()
        inbox[body["to"]].append(body["text"])
        return {}

    @app.get("/sent")
    async def sent(request: Request) -> dict[str, str]:
        return {"latest": text_of[signed.who(request)]}

    text_of = {user: uuid.uuid4().hex for user in USERS}
    for user in USERS:
        await signed.post(user, "/messages", to=USERS[(USERS.index(user) + 1) % len(USERS)], text=text_of[user])
    for _ in range(2):
        await signed.walked()
        for user in USERS:
            await signed.get(user, "/sent")

    assert signed.found() == []
