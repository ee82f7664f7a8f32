"""What the demonstration asks the chat service besides chatting: its health and its faults."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx2

from isolation_monitor.demo.errors import DemoError


@dataclass(frozen=True, slots=True)
class Harm:
    """The first harmful act of a fault: second 0 of every delay. `time` is Unix seconds."""

    fault: str
    time: float
    pid: int


class Chat:
    """A client of the chat service's own switches. `client` has its base URL."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def inject(self, fault: str) -> None:
        """Switch a fault on in every worker.

        Raises:
            DemoError: there is no such fault; the text lists those that are.
        """
        response = await self._client.post(f"/faults/{fault}")
        if not response.is_success:
            raise DemoError(f"the chat service refused to switch {fault} on: {response.text[:300]}")

    async def heal(self) -> None:
        """Switch every fault off."""
        (await self._client.delete("/faults")).raise_for_status()

    async def faults(self) -> tuple[list[str], list[str]]:
        """Return the names of all faults, and of those that are on."""
        body = (await self._client.get("/faults")).json()
        return list(body["faults"]), list(body["on"])


def harms(log: Path) -> list[Harm]:
    """Return the first harmful acts that the service has logged, oldest first; none when it has not logged yet."""
    try:
        lines = log.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Harm(item["fault"], float(item["time"]), int(item["pid"])) for item in map(json.loads, lines)]
