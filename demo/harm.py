"""Proof from outside that a fault truly wrongs somebody: taken from what users receive and from public answers only.

Nothing here looks into the service or into the monitor, so that what the monitor says can be held against it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx2

from isolation_monitor.demo.chat_user import ForeignSighting
from isolation_monitor.demo.users import UNREACHABLE, Population

SLOWER_BY_S: Final = 0.03
"""slow-factory: how much later the first event must come, at the first quartile, to be proven slow."""
ENOUGH_SAMPLES: Final = 10
FAILING_PATH: Final = "/api/threads/t_nobodys/messages"
"""Fails inside a unit of work: 404 in a sound service."""
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class HarmProof:
    """What was seen. `time` is Unix seconds of the sighting; `what` tells it to a person."""

    fault: str
    proven: bool
    time: float
    what: str


async def prove(fault: str, population: Population, base_url: str, *, since: float | None = None, timeout_s: float = 20.0) -> HarmProof:
    """Wait until the harm of a fault was seen from outside, or until `timeout_s` is over; then `proven` is False.

    Args:
        population: users who are chatting; their sightings are the proof.
        base_url: of the chat service.
        since: when the fault was switched on, Unix seconds; now when absent. What was seen earlier does not count.

    Raises:
        ValueError: there is no such fault.
    """
    if fault not in _PROOFS:
        raise ValueError(f"no fault {fault!r}: there are {', '.join(_PROOFS)}")
    since = time.time() if since is None else since
    try:
        async with asyncio.timeout(timeout_s):
            what = await _PROOFS[fault](population, base_url, since)
    except TimeoutError:
        return HarmProof(fault, False, time.time(), f"no harm was seen from outside within {timeout_s:g} s")
    return HarmProof(fault, True, what[0], what[1])


async def drive(fault: str, population: Population, base_url: str, *, for_s: float = 5.0) -> int:
    """Send the requests that a fault needs beyond ordinary chatting, for `for_s` seconds; return how many were sent.

    Only `session-leak` (a failing unit of work) and `inherited-context` (requests of several users at once) need any.
    """
    sent = 0
    deadline = time.monotonic() + for_s
    async with _newcomer(base_url) as client:
        while fault in ("session-leak", "inherited-context") and time.monotonic() < deadline:
            with suppress(*UNREACHABLE):
                if fault == "session-leak":
                    sent += 1
                    await _fail_once(client, population)
                else:
                    sent += len(await asyncio.gather(*(user.get("/api/note") for user in population.users[:6])))
            await asyncio.sleep(0.2)
    return sent


async def _foreign(population: Population, since: float, is_it: Callable[[ForeignSighting], bool]) -> tuple[float, str]:
    while True:
        for seen in list(population.foreign_seen):
            if seen.time >= since and is_it(seen):
                return seen.time, f"{seen.seen_by_name} received {seen.what} of {seen.victim_name} in {seen.where}"
        await asyncio.sleep(POLL_S)


async def _foreign_answer(population: Population, _: str, since: float) -> tuple[float, str]:
    return await _foreign(population, since, lambda seen: seen.where == "frame agent_completed" or seen.where.endswith("/messages"))


async def _foreign_event(population: Population, _: str, since: float) -> tuple[float, str]:
    return await _foreign(population, since, lambda seen: seen.where.startswith("frame "))


async def _foreign_http_answer(population: Population, _: str, since: float) -> tuple[float, str]:
    return await _foreign(population, since, lambda seen: seen.where.startswith("http "))


async def _pool_shrinks(population: Population, base_url: str, _: float) -> tuple[float, str]:
    """A worker's connections that are out *at every moment*: the lowest number of a row of looks, which then grows."""
    async with _newcomer(base_url) as client:
        before = await _lowest_checked_out(client)
        while True:
            broke = sum([await _fail_once(client, population) for _ in range(4)])
            for pid, lowest in (await _lowest_checked_out(client)).items():
                was = before.get(pid, lowest)
                if not broke or lowest <= was:
                    continue
                # Once more, later: what stays out then was no passing load.
                await asyncio.sleep(0.5)
                if (await _lowest_checked_out(client)).get(pid, 0) >= lowest:
                    return time.time(), f"worker {pid} never has fewer than {lowest} database connections out; before it was {was}"


def _newcomer(base_url: str) -> httpx2.AsyncClient:
    """A client that connects anew for each request, so that every worker gets its share."""
    return httpx2.AsyncClient(base_url=base_url, timeout=5, limits=httpx2.Limits(max_keepalive_connections=0))


async def _lowest_checked_out(client: httpx2.AsyncClient, looks: int = 24) -> dict[int, int]:
    """Return, by worker, the lowest number of connections seen out in a row of looks over about half a second."""
    seen: dict[int, list[int]] = defaultdict(list)
    for _ in range(looks):
        with suppress(httpx2.HTTPError, ValueError, KeyError):
            answer = (await client.get("/readyz")).json()
            seen[answer["pid"]].append(answer["checks"]["pool"]["detail"]["checked_out"])
        await asyncio.sleep(0.02)
    return {pid: min(numbers) for pid, numbers in seen.items() if len(numbers) >= 4}


async def _fail_once(client: httpx2.AsyncClient, population: Population) -> int:
    """Ask for a thread that is nobody's; return 1 if the service broke over it, else 0."""
    try:
        answer = await client.get(FAILING_PATH, headers={"Authorization": f"Bearer {population.users[0].token}"})
    except httpx2.HTTPError:
        return 0
    return int(answer.status_code >= 500)


async def _first_event_later(population: Population, _: str, since: float) -> tuple[float, str]:
    """By the first quartiles: what is added to each event moves them too, but a machine that was busy before hardly does."""
    while True:
        samples = list(population.first_events)
        before = [s for at, s in samples if since - 60 <= at < since - 1]
        after = [s for at, s in samples if at >= since]
        if len(before) >= ENOUGH_SAMPLES and len(after) >= ENOUGH_SAMPLES:
            was, is_now = (statistics.quantiles(times, n=4)[0] for times in (before, after))
            if is_now - was >= SLOWER_BY_S:
                return (
                    time.time(),
                    f"three of four first events took {is_now * 1000:.0f} ms or longer, before it was {was * 1000:.0f} ms",
                )
        await asyncio.sleep(POLL_S)


async def _run_without_end(population: Population, _: str, since: float) -> tuple[float, str]:
    while True:
        for lost in list(population.lost_runs):
            if lost.time >= since and lost.missing == ("agent_completed",):
                return lost.time, f"{lost.user_name} never got agent_completed of {lost.run_id}"
        await asyncio.sleep(POLL_S)


_PROOFS: Final[dict[str, Callable[[Population, str, float], Awaitable[tuple[float, str]]]]] = {
    "shared-agent": _foreign_answer,
    "wrong-socket": _foreign_event,
    "inherited-context": _foreign_http_answer,
    "session-leak": _pool_shrinks,
    "slow-factory": _first_event_later,
    "lost-event": _run_without_end,
}
