"""Users of `bench.delivery`, in a process of their own: `python -m bench.delivery_users '{"urls": [...], ...}'`.

They count by themselves what they get, by the serving process that sent it. A line on standard input ends them; then they
acknowledge what they have, close, and write their counts as JSON to standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from isolation_monitor.client import DeliveryClient, Event

CONNECTING_AT_ONCE: Final = 20
SLOW_S: Final = 0.5
RETURN_LIMIT_S: Final = 60.0


class Users:
    """Some users; `counts` are events by epoch."""

    def __init__(self, urls: list[str], names: list[str], cuts: float, cut_every_s: float, seed: int) -> None:
        self._urls = urls
        self._chance = random.Random(seed)
        self._cuts = (cuts, cut_every_s)
        self.counts: Counter[str] = Counter()
        self.twice = 0
        self.cut = 0
        self.away = 0
        """Clients that were between two connections when the time was over."""
        self._seen: dict[str, set[str]] = {}
        self.clients = {name: self._client(name, n) for n, name in enumerate(names)}
        self._gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

    def _client(self, name: str, n: int) -> DeliveryClient:
        slow: dict[str, Any] = {"max_queue": 1} if name.startswith("slow") else {}
        # Each user stays with one worker, as behind a balancer with sticky connections.
        url = f"{self._urls[n % len(self._urls)]}?user={name}"
        return DeliveryClient(url, first_pause_s=0.2, longest_pause_s=2.0, compression=None, open_timeout=60, ping_interval=None, **slow)

    async def live(self) -> None:
        tasks = [asyncio.create_task(self._listen(name, client)) for name, client in self.clients.items()]
        cutting = asyncio.create_task(self._cut_for_ever())
        await asyncio.to_thread(sys.stdin.readline)
        cutting.cancel()
        # Whoever is between two connections has events that the service cannot know of yet.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETURN_LIMIT_S):
                while not all(client.is_current for client in self.clients.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        self.away = sum(not client.is_current for client in self.clients.values())
        for client in self.clients.values():
            with contextlib.suppress(Exception):
                await client.close()
        await asyncio.wait(tasks, timeout=30)

    async def _listen(self, name: str, client: DeliveryClient) -> None:
        await asyncio.sleep(self._chance.random() * 5)
        async for event in client:
            self._count(name, event)
            if name.startswith("slow"):
                await asyncio.sleep(SLOW_S)

    def _count(self, name: str, event: Event) -> None:
        if event.id is None or event.epoch is None:
            return
        self.counts[event.epoch] += 1
        # Beside the client's own memory of ids, which is what is to be proven.
        seen = self._seen.setdefault(name, set())
        self.twice += event.id in seen
        seen.add(event.id)

    async def _cut_for_ever(self) -> None:
        share, every_s = self._cuts
        while True:
            await asyncio.sleep(every_s)
            for client in self._chance.sample(list(self.clients.values()), max(1, int(share * len(self.clients)))):
                if client.socket is not None:
                    client.socket.transport.abort()
                    self.cut += 1


async def main(plan: dict[str, Any]) -> dict[str, Any]:
    users = Users(**plan)
    await users.live()
    reports: Counter[str] = Counter()
    for client in users.clients.values():
        reports.update({name: int(value) for name, value in asdict(client.report).items()})
    return {"by_epoch": users.counts, "twice": users.twice, "cut": users.cut, "away": users.away, "report": reports}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
