"""Each fault is a real defect: it wrongs somebody, seen from outside, and stops when it is healed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx2
import pytest

from isolation_monitor.demo.harm import drive, prove
from isolation_monitor.demo.users import Population
from tests.chat.conftest import Service, chat_service

FAULTS = ("shared-agent", "wrong-socket", "inherited-context", "session-leak", "slow-factory", "lost-event")
PATIENCE_S = 60.0


def first_harms(service: Service) -> list[dict[str, object]]:
    log = service.folder / "faults.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def more_runs(population: Population, runs: int) -> None:
    target, deadline = population.runs + runs, time.monotonic() + PATIENCE_S
    while population.runs < target:
        population.check()
        assert time.monotonic() < deadline, population.stats()
        await asyncio.sleep(0.05)


async def sound_traffic(population: Population) -> None:
    """Wait for enough of it: the slow factory is proven by comparison with what was more than a second before."""
    await more_runs(population, 160)
    deadline = time.monotonic() + PATIENCE_S
    while sum(asked_at < time.time() - 1.2 for asked_at, _ in population.first_events) < 20:
        assert time.monotonic() < deadline, population.stats()
        await asyncio.sleep(0.05)
    assert population.wrong_answers == population.lost == 0


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_harms_its_users_while_it_is_on_and_no_longer(faulty_service: Service, fault: str) -> None:
    url = faulty_service.base_url
    async with (
        httpx2.AsyncClient(base_url=url, timeout=30) as operator,
        Population(url, users=12, requests_per_s=80, run_timeout_s=6) as population,
    ):
        await sound_traffic(population)

        injected = time.time()
        (await operator.post(f"/faults/{fault}")).raise_for_status()
        proof = await prove(fault, population, url, since=injected, timeout_s=PATIENCE_S)
        (await operator.delete("/faults")).raise_for_status()

    assert proof.proven, (proof, population.stats())
    logged = [harm for harm in first_harms(faulty_service) if float(str(harm["time"])) >= injected]
    assert [harm["fault"] for harm in logged] == [fault], "the first harm of a switch-on is logged once, by one of the workers"
    # Service and client read the clock one after the other around one send: either may come first by a hair.
    assert injected <= float(str(logged[0]["time"])) <= proof.time + 0.05

    # New users, so that nothing counts which was under way when it was healed.
    async with Population(url, users=12, requests_per_s=80, run_timeout_s=30) as after:
        await more_runs(after, 80)
    assert (after.wrong_answers, after.lost, after.http_errors) == (0, 0, {}), after.stats()


async def test_leaked_sessions_come_back_when_the_leak_is_healed(faulty_service: Service) -> None:
    """As after a restart with the mended code; the pool of a demonstration must not stay smaller for ever."""
    url = faulty_service.base_url

    async def checked_out(client: httpx2.AsyncClient) -> dict[int, int]:
        answers = [(await client.get("/readyz")).json() for _ in range(20)]
        return {answer["pid"]: answer["checks"]["pool"]["detail"]["checked_out"] for answer in answers}

    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_keepalive_connections=0)) as client:
        population = Population(url, users=2)
        for user in population.users:
            await user.sign_in()
        await client.post("/faults/session-leak")
        assert await drive("session-leak", population, url, for_s=2) > 0
        leaked = await checked_out(client)
        await client.delete("/faults")
        # A worker sees the switch when it next looks at its database, and its answer about that is kept for a moment.
        deadline = time.monotonic() + PATIENCE_S
        while any((healed := await checked_out(client)).values()) and time.monotonic() < deadline:
            pass
        await population.stop()

    assert max(leaked.values()) > 0
    assert set(healed.values()) == {0}


async def test_a_leak_is_bounded_so_that_the_service_goes_on(tmp_path: Path) -> None:
    with chat_service(tmp_path, workers=1, CHAT_FAULTS="1") as service:
        population = Population(service.base_url, users=1)
        user = population.users[0]
        await user.sign_in()
        # uvicorn closes a connection whose request broke: each request opens its own.
        once = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=service.base_url, timeout=30, limits=once) as client:
            await client.post("/faults/session-leak")
            client.headers["Authorization"] = f"Bearer {user.token}"
            codes = [(await client.get("/api/threads/t_nobodys/messages")).status_code for _ in range(20)]
            pool = (await client.get("/readyz")).json()["checks"]["pool"]["detail"]
        await population.stop()

    assert codes == [500] * 12 + [404] * 8
    assert pool["checked_out"] == 12 < pool["size"]


async def test_an_unknown_fault_is_refused_and_switches_nothing_on(faulty_service: Service) -> None:
    async with httpx2.AsyncClient(base_url=faulty_service.base_url, timeout=30) as operator:
        answer = await operator.post("/faults/gremlins")

        assert answer.status_code == 404
        assert "shared-agent" in answer.json()["detail"]
        state = (await operator.get("/faults")).json()
    assert state == {"faults": list(FAULTS), "on": {}}


async def test_a_harm_is_not_proven_where_there_is_none(faulty_service: Service) -> None:
    """A proof that always succeeds would prove nothing."""
    url = faulty_service.base_url
    async with Population(url, users=6, requests_per_s=60, run_timeout_s=30) as population:
        await more_runs(population, 40)
        proofs = await asyncio.gather(*(prove(fault, population, url, timeout_s=4) for fault in FAULTS))

    assert [proof.proven for proof in proofs] == [False] * len(FAULTS), proofs
