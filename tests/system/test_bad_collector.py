"""A collector that is down, slow or broken: the service's users notice nothing, not by one byte."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from isolation_monitor.demo.layout import checkout
from isolation_monitor.demo.ports import LOOPBACK, free_ports
from isolation_monitor.demo.processes import Janitor, Services
from isolation_monitor.demo.promql import probe

from .conftest import eventually

FAILING = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
PLAIN_ENV = ("PATH", "HOME", "LANG", "TMPDIR")
# New in every answer by design: which run and which call of a tool it was.
NEW_IDS = re.compile(rb"(run|call)_[0-9a-z]+")


class StubCollector:
    """Takes connections and never answers (`slow`), or answers each request with 500 (`broken`)."""

    def __init__(self, answer: str | None) -> None:
        self._answer = answer
        self.heads: list[str] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self._answer is not None:
                writer.write(self._answer.encode())
                await writer.drain()
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def chat(folder: Path, collector_url: str | None) -> AsyncIterator[httpx2.AsyncClient]:
    """The chat service over the database in `folder`, with one worker."""
    [port] = free_ports(1)
    env = {name: os.environ[name] for name in PLAIN_ENV if name in os.environ} | {
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/chat.sqlite3",
        "CHAT_SECRET": "only-for-this-test",
        "CHAT_FAULTS": "1",
        "CHAT_FAULTS_FILE": str(folder / "faults.json"),
        "ISOLATION_HASH_KEY": "only-for-this-test-too",
        "ISOLATION_METRICS_DIR": str(folder / "metrics"),
        "ISOLATION_SPOOL_DIR": str(folder / "spool"),
    }
    if collector_url is not None:
        env |= {"ISOLATION_COLLECTOR_URL": collector_url, "ISOLATION_COLLECTOR_TOKEN": "a-token"}
    command = [sys.executable, "-m", "uvicorn", "chat.app:app", "--app-dir", "examples", "--host", LOOPBACK, "--port", str(port)]
    guard = Janitor()
    try:
        async with (
            Services(guard) as services,
            httpx2.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=30) as client,
        ):
            service = services.start("chat", command, env=env, folder=checkout(), log=folder / "log")
            await service.ready(lambda: probe(client, "/readyz"), 60)
            yield client
    finally:
        guard.close()


async def answers(client: httpx2.AsyncClient, token: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Ask for everything a user asks for, good and bad; return status, headers and body of each answer."""
    signed_in = {"Authorization": f"Bearer {token}"}
    seen = [
        await client.get("/api/me", headers=signed_in),
        await client.put("/api/note", headers=signed_in, json={"text": "a note"}),
        await client.get("/api/note", headers=signed_in),
        *[await client.post("/api/threads/main/messages", headers=signed_in, json={"text": "what is my note?"}) for _ in range(5)],
        await client.get("/api/threads/main/messages", headers=signed_in),
        await client.get("/api/threads/none/messages", headers=signed_in),
        await client.post("/api/threads/main/messages", headers=signed_in, json={"text": ""}),
        await client.get("/api/me"),
        await client.get("/"),
        await client.get("/nowhere"),
    ]
    return [(r.status_code, {k: v for k, v in r.headers.items() if k != "date"}, NEW_IDS.sub(rb"\1", r.content)) for r in seen]


@pytest.mark.parametrize("kind", ["down", "slow", "broken"])
async def test_a_bad_collector_changes_no_byte_of_any_answer(kind: str, tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    plain.mkdir()
    async with chat(plain, None) as client:
        token = (await client.post("/api/login", json={"name": "ada"})).json()["token"]
    # Both services start from the same database, so ids in their answers are the same.
    shutil.copytree(plain, watched, ignore=shutil.ignore_patterns("metrics"))
    stub = StubCollector(FAILING if kind == "broken" else None)
    server = await asyncio.start_server(stub.talk, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    if kind == "down":
        server.close()
    try:
        async with chat(plain, None) as client:
            await client.post("/faults/slow-factory")
            expected = await answers(client, token)
        async with chat(watched, f"http://{LOOPBACK}:{port}") as client:
            # A defect that changes no answer, but is recorded: there must be something to send.
            await client.post("/faults/slow-factory")
            seen = await answers(client, token)
            metrics = (await client.get("/metrics/isolation")).text
            if kind != "down":
                await eventually(
                    "a batch arriving at the collector", lambda: any(head.startswith("POST /v1/records") for head in stub.heads)
                )
    finally:
        server.close()

    assert 'kind="slow_creation"' in metrics
    assert seen == expected
