"""The service with no fault: nobody gets what is another's, every run is whole, and strangers are refused."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from isolation_monitor.demo.chat_user import RUN_EVENTS
from isolation_monitor.demo.users import Population
from tests.chat.conftest import EXAMPLES, People, Service, chat_service
from tests.real_parts.postgres import postgres

PATIENCE_S = 60.0


async def until_runs(population: Population, runs: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while population.runs < runs:
        population.check()
        assert time.monotonic() < deadline, population.stats()
        await asyncio.sleep(0.05)


async def test_hundreds_of_runs_of_many_users_are_whole_and_show_nothing_foreign(clean_service: Service) -> None:
    """The harm proofs rest on this: what they look for never occurs in a sound service."""
    async with Population(clean_service.base_url, users=16, requests_per_s=100, run_timeout_s=30) as population:
        await until_runs(population, 400)

    stats = population.stats()
    assert stats["wrong_answers"] == 0, list(population.foreign_seen)
    assert stats["lost_runs"] == 0, list(population.lost_runs)
    assert stats["out_of_order_runs"] == 0
    assert stats["http_errors"] == {}
    assert stats["unreachable"] == 0
    assert stats["answers"] == stats["runs"]


async def test_the_agent_answers_from_the_users_own_note(people: People) -> None:
    ann, bob = await people.new("ann"), await people.new("bob")

    to_ann, to_bob = await asyncio.gather(ann.ask("what is my note?", 30), bob.ask("what is my note?", 30))

    assert ann.phrase in (to_ann.text or "")
    assert bob.phrase in (to_bob.text or "")
    assert people.foreign_seen == []


async def test_a_run_tells_its_five_events_in_order_and_pairs_its_tool_by_call_id(people: People) -> None:
    ann = await people.new("ann")

    await ann.send({"type": "message", "text": "what is 2 * (3 + 4)?"})
    frames = [await ann.next_frame(30) for _ in RUN_EVENTS]

    assert tuple(frame["type"] for frame in frames) == RUN_EVENTS
    assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5]
    assert {frame["user_id"] for frame in frames} == {ann.user_id}
    assert len({frame["run_id"] for frame in frames}) == 1
    assert frames[2]["call_id"] == frames[3]["call_id"]
    assert frames[3]["result"] == "14"
    assert frames[4]["text"].endswith("14")


async def test_an_http_run_answers_with_the_same_events_in_one_piece(people: People) -> None:
    ann = await people.new("ann")

    answer = (await ann.ask_by_http("what is my note?")).json()

    assert answer["user_id"] == ann.user_id
    assert ann.phrase in answer["text"]
    assert tuple(event["type"] for event in answer["events"]) == RUN_EVENTS


async def test_an_exchange_is_kept_in_its_own_thread_only(people: People) -> None:
    ann = await people.new("ann")
    threads = (await ann.get("/api/threads")).json()["threads"]

    await ann.ask_by_http("what time is it?", threads[0]["id"])
    history = (await ann.get(f"/api/threads/{threads[0]['id']}/messages")).json()

    assert [line["author"] for line in history["messages"]] == ["user", "agent"]
    assert (await ann.get("/api/threads")).json()["threads"][0]["messages"] == 2


async def test_another_users_thread_is_not_found_however_it_is_asked_for(people: People) -> None:
    """Not 403: a stranger must not learn that the thread exists."""
    ann, bob = await people.new("ann"), await people.new("bob")
    thread_of_ann = (await ann.get("/api/threads")).json()["threads"][0]["id"]

    read = await bob.get(f"/api/threads/{thread_of_ann}/messages")
    asked = await bob.ask_by_http("what is my note?", thread_of_ann)
    await bob.send({"type": "message", "text": "what is my note?", "thread_id": thread_of_ann})
    frame = await bob.next_frame(30)

    assert (read.status_code, asked.status_code, frame["type"]) == (404, 404, "error")


async def test_a_run_is_found_by_its_own_user_from_every_worker_and_by_nobody_else(people: People) -> None:
    """Of the workers that answer, one made the run and knows it; the others ask the database."""
    ann, bob = await people.new("ann"), await people.new("bob")
    answer = (await ann.ask_by_http("what time is it?")).json()
    run_id = answer["run_id"]

    found = [(await ann.get(f"/api/runs/{run_id}")) for _ in range(12)]
    foreign = [(await bob.get(f"/api/runs/{run_id}")).status_code for _ in range(12)]
    no_id = (await ann.get("/api/runs/a%0Ab")).status_code

    assert [(one.status_code, one.json()["thread_id"]) for one in found] == [(200, answer["thread_id"])] * 12
    assert run_id.endswith(answer["thread_id"])
    assert foreign == [404] * 12
    assert no_id == 404


async def test_a_room_carries_words_to_its_members_and_to_nobody_else(people: People) -> None:
    """Sharing on purpose: no violation, though the text is another user's."""
    ann = await people.new("ann")
    bob, eve = await people.new_beside("bob", ann), await people.new_beside("eve", ann)
    for member in (ann, bob):
        await member.send({"type": "join", "room": "garden"})
        assert (await member.next_frame(30))["type"] == "joined"

    await ann.send({"type": "say", "room": "garden", "text": "hello, all"})
    await eve.send({"type": "say", "room": "garden", "text": "let me in"})

    heard = await bob.next_frame(30)
    assert heard == {"type": "room_message", "room": "garden", "author": ann.name, "text": "hello, all"}
    assert (await ann.next_frame(30)) == heard
    assert (await eve.next_frame(30))["type"] == "error"


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", "{}", '{"type": 1}', '{"type": "dance"}', '{"type": "message"}', '{"type": "message", "text": " "}',
     '{"type": "message", "text": 7}', '{"type": "join", "room": ""}', json.dumps({"type": "message", "text": "x" * 5000})],
)  # fmt: skip
async def test_a_frame_that_cannot_be_understood_is_answered_and_the_connection_goes_on(people: People, text: str) -> None:
    ann = await people.new("ann")
    async with connect(f"{people.base_url.replace('http', 'ws')}/ws?token={ann.token}") as socket:
        assert json.loads(await socket.recv())["type"] == "hello"
        await socket.send(text)
        assert json.loads(await socket.recv())["type"] == "error"

        await socket.send('{"type": "message", "text": "what time is it?"}')
        assert json.loads(await socket.recv())["type"] == "agent_started"


async def test_a_missing_damaged_or_forged_token_is_refused(people: People, http: httpx2.AsyncClient) -> None:
    ann, bob = await people.new("ann"), await people.new("bob")
    body, _, signature = ann.token.partition(".")
    of_bob = bob.token.partition(".")[0]
    bad = ["x", "a.b", "é.é", body, f"{of_bob}.{signature}", f"{body}.{base64.urlsafe_b64encode(b'0' * 32).decode()}"]

    for token in bad:
        answer = await http.get("/api/note", headers={"Authorization": f"Bearer {token}".encode()})
        assert answer.status_code == 401, token
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["detail"]
    assert (await http.get("/api/note")).status_code == 401
    assert (await http.get("/api/note", headers={"Authorization": f"Basic {ann.token}"})).status_code == 401


async def test_a_websocket_without_a_good_token_is_closed_with_4401(people: People) -> None:
    for query in ("", "?token=", "?token=a.b"):
        async with connect(f"{people.base_url.replace('http', 'ws')}/ws{query}") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_tokens_never_reach_the_log(people: People, clean_service: Service) -> None:
    ann = await people.new("ann")
    await ann.ask("what time is it?", 30)

    assert "/ws?token=..." in clean_service.log
    assert ann.token not in clean_service.log


async def test_health_tells_the_worker_its_start_and_its_pool(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/livez")).json()["status"] == "alive"
    assert (await http.get("/startupz")).json()["startup"]["phases"]["database"]["state"] == "done"
    ready = (await http.get("/readyz")).json()

    assert ready["status"] == "ready"
    assert ready["checks"]["database"]["status"] == "ok"
    assert set(ready["checks"]["pool"]["detail"]) == {"size", "checked_out", "overflow"}
    assert ready["pid"] > 0


async def test_faults_do_not_exist_without_their_switch(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/faults")).status_code == 404
    assert (await http.post("/faults/shared-agent")).status_code == 404
    assert (await http.delete("/faults")).status_code == 404


async def test_the_page_comes_whole_and_loads_nothing_from_elsewhere(http: httpx2.AsyncClient) -> None:
    page = await http.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text)
    assert "innerHTML" not in page.text, "text of users must never become markup"


async def test_the_monitor_judged_the_requests_and_found_nothing(people: People, http: httpx2.AsyncClient) -> None:
    """The service and its monitor are one example: two lines and four declarations must be enough for every detector."""
    ann, bob = await people.new("ann"), await people.new("bob")
    await asyncio.gather(*(user.ask("what is my note?", 30) for user in (ann, bob)), ann.get("/api/note"))

    samples = dict(
        line.rsplit(" ", 1) for line in (await http.get("/metrics/isolation")).text.splitlines() if line and not line.startswith("#")
    )
    checked = {
        found[1]
        for name, value in samples.items()
        if (found := re.match(r'isolation_checks_total\{.*detector="(\w+)"', name)) and 'result="pass"' in name and float(value) > 0
    }
    # A machine that is busy stalls the loop, which is truly so and nobody's fault.
    stalls = 'kind="loop_stall"'
    violations = {
        name: value
        for name, value in samples.items()
        if name.startswith("isolation_violations_total") and float(value) > 0 and stalls not in name
    }

    assert violations == {}
    assert checked >= {"inherited_context", "instance_reuse", "wrong_socket", "foreign_identity", "session_leak", "slow_creation"}


async def test_a_stopped_service_tells_its_clients_to_come_again_and_ends(tmp_path: Path) -> None:
    """Exit code 0 and close code 1012 (service restart): a deployment is no failure."""
    with chat_service(tmp_path) as service:
        everybody = People(service.base_url)
        ann = await everybody.new("ann")
        async with connect(f"{service.base_url.replace('http', 'ws')}/ws?token={ann.token}") as socket:
            await socket.recv()
            service.process.terminate()
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), PATIENCE_S)
        await everybody.leave()
        code = await asyncio.to_thread(service.process.wait, PATIENCE_S)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert code == 0
        assert "Traceback" not in service.log


async def test_users_are_kept_apart_on_postgresql_too(tmp_path: Path) -> None:
    """Three workers start at once on an empty database: the advisory lock lets one of them make the tables."""
    with postgres() as server:
        url = server.create("chat")
        with chat_service(tmp_path, workers=3, CHAT_DATABASE_URL=url, CHAT_POOL_SIZE="5", CHAT_MAX_OVERFLOW="5") as service:
            async with Population(service.base_url, users=8, requests_per_s=60, run_timeout_s=30) as population:
                await until_runs(population, 100)
            assert "Traceback" not in service.log

    stats = population.stats()
    assert (stats["wrong_answers"], stats["lost_runs"], stats["http_errors"], stats["unreachable"]) == (0, 0, {}, 0)


async def test_only_the_faults_file_knows_of_faults() -> None:
    """People copy this service: no sound module may carry a switch for a defect."""
    for module in (EXAMPLES / "chat").glob("*.py"):
        if module.name in ("faults.py", "settings.py", "app.py", "parts.py"):
            continue
        assert "fault" not in re.sub(r"default", "", module.read_text()).lower(), module.name
