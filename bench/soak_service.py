"""The chat service as a process of its own, watched from outside, and the users who treat it badly."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from isolation_monitor.demo.ports import free_ports
from isolation_monitor.telemetry import names

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
START_LIMIT_S: Final = 60.0
REMEMBERED: Final = 2_500
FILLERS: Final = 12
"""Users who fill the bounded tables before anything is measured."""
BUSY_PAUSE_S: Final = 0.2
SIGN_IN_TRIES: Final = 5
RUDE_EVERY_S: Final = 0.25


class Service:
    """One running chat service with its faults at hand."""

    def __init__(self, base_url: str, pid: int, folder: Path) -> None:
        self.base_url = base_url
        self.pid = pid
        self.client = httpx2.AsyncClient(base_url=base_url, timeout=30)
        self._fault_log = folder / "faults.log"

    async def switch_on(self, fault: str) -> None:
        (await self.client.post(f"/faults/{fault}")).raise_for_status()

    async def heal(self) -> None:
        (await self.client.delete("/faults")).raise_for_status()

    def harms(self) -> int:
        """How often a fault has truly wronged somebody since its switch-on, as the service's own log says."""
        return len(self._fault_log.read_text().splitlines()) if self._fault_log.exists() else 0

    async def violations(self) -> Counter[tuple[str, str]]:
        """Return the violations counted so far, by kind and grade, without planted ones."""
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in await self._samples(names.VIOLATIONS.name):
            if labels["synthetic"] == "false" and value:
                found[labels["kind"], labels["grade"]] += int(value)
        return found

    async def monitor_errors(self) -> int:
        return int(sum(value for _, value in await self._samples(names.MONITOR_ERRORS.name)))

    async def size(self) -> Size:
        """Return what the process holds now."""
        found = await self._samples(names.PROCESS_RESOURCES.name, "/metrics")
        tasks = [value for labels, value in found if labels["resource"] == "tasks"]
        memory_mb, fds = self._memory_and_files()
        return Size(memory_mb, fds, tasks[0] if tasks else 0.0)

    def _memory_and_files(self) -> tuple[float, int]:
        proc = Path(f"/proc/{self.pid}")
        memory_kb = next(int(line.split()[1]) for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return memory_kb / 1_000, sum(1 for _ in (proc / "fd").iterdir())

    async def _samples(self, name: str, page: str = "/metrics/isolation") -> list[tuple[dict[str, str], float]]:
        text = (await self.client.get(page)).raise_for_status().text
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]


@dataclass(frozen=True, slots=True)
class Size:
    """What a process holds; `tasks` is at most ten seconds old."""

    memory_mb: float
    fds: int
    tasks: float


@asynccontextmanager
async def service(folder: Path, collector_url: str, database_url: str) -> AsyncIterator[Service]:
    """Run the chat with one worker, its faults at hand, until the block ends.

    Raises:
        RuntimeError: it did not start.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "ISOLATION_", "OTEL_"))}
    environment |= {
        "CHAT_DATABASE_URL": database_url,
        "CHAT_SECRET": "only-for-the-benchmark",
        "CHAT_FAULTS": "1",
        "CHAT_FAULTS_FILE": str(folder / "faults.json"),
        "CHAT_FAULT_LOG": str(folder / "faults.log"),
        "ISOLATION_METRICS_DIR": str(folder / "metrics"),
        "ISOLATION_SPOOL_DIR": str(folder / "spool"),
        "ISOLATION_HASH_KEY": "only-for-the-benchmark",
        "ISOLATION_COLLECTOR_URL": collector_url,
        # What has a limit must be full before growth is looked at.
        "ISOLATION_REMEMBERED_LIMIT": str(REMEMBERED),
    }
    port = free_ports(1)[0]
    base_url = f"http://127.0.0.1:{port}"
    with (folder / "chat.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", "chat.app:app", "--app-dir", str(EXAMPLES), "--port", str(port), "--no-access-log",
            env=environment, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    chat = Service(base_url, process.pid, folder)
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while not await _is_ready(chat.client):
                if process.returncode is not None:
                    raise RuntimeError(f"the chat did not start: {(folder / 'chat.log').read_text()[-2_000:]}")
                await asyncio.sleep(0.1)
        yield chat
    finally:
        await chat.client.aclose()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _is_ready(client: httpx2.AsyncClient) -> bool:
    with suppress(httpx2.HTTPError):
        return (await client.get("/readyz")).status_code == 200
    return False


async def fill_tables(base_url: str, seconds: float, requests: int) -> int:
    """Let some users ask as fast as they can, until the tables that have a limit are full; return how many asked.

    What fills up to a limit grows as long as it fills, and is no leak: growth is looked at after that.

    Raises:
        RuntimeError: most of them failed.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    asked = failed = 0

    async def ask() -> None:
        nonlocal asked, failed
        async with httpx2.AsyncClient(base_url=base_url, timeout=30) as client:
            await _sign_in(client)
            while asked < requests and asyncio.get_running_loop().time() < deadline:
                asked += 1
                text = f"please keep {secrets.token_hex(12)} and {secrets.token_hex(12)} for me"
                try:
                    (await client.post("/api/threads/main/messages", json={"text": text})).raise_for_status()
                except httpx2.HTTPError:
                    # Its database has more to do than it can: a slow machine fills the tables more slowly.
                    failed += 1
                    await asyncio.sleep(BUSY_PAUSE_S)

    await asyncio.gather(*(ask() for _ in range(FILLERS)))
    if failed * 2 > asked:
        raise RuntimeError(f"{failed} of {asked} requests that were to fill the tables failed")
    return asked


class Rude:
    """Users who leave in the middle: of a request's body, of waiting for its answer, of a run, of a WebSocket frame."""

    def __init__(self, base_url: str, seed: int) -> None:
        self._base_url = base_url
        self._dice = random.Random(seed)
        self.done: Counter[str] = Counter()

    async def live(self) -> None:
        """Be rude until cancelled."""
        async with httpx2.AsyncClient(base_url=self._base_url, timeout=30) as client:
            token = await _sign_in(client)
        host, _, port = self._base_url.removeprefix("http://").partition(":")
        acts: list[Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]] = [
            self._cancel, self._half_body, self._leave_run, self._half_frame,
        ]  # fmt: skip
        while True:
            await asyncio.sleep(self._dice.expovariate(1 / RUDE_EVERY_S))
            act = self._dice.choice(acts)
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    async with asyncio.timeout(10):
                        await act(reader, writer, token)
                    self.done[act.__name__.strip("_")] += 1
                finally:
                    # No farewell of any kind: the connection is gone.
                    writer.transport.abort()

    async def _cancel(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        """Ask, and hang up before the answer."""
        writer.write(_post(token, b'{"text": "what is my note?"}'))
        await writer.drain()
        await asyncio.sleep(self._dice.random() * 0.02)

    async def _half_body(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        writer.write(_post(token, b'{"text": "what is my note?"}')[:-9])
        await writer.drain()
        await asyncio.sleep(self._dice.random() * 0.02)

    async def _leave_run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        await self._open_socket(reader, writer, token)
        writer.write(_frame({"type": "message", "text": "what is my note?"}))
        await writer.drain()
        await asyncio.sleep(self._dice.random() * 0.02)

    async def _half_frame(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        await self._open_socket(reader, writer, token)
        whole = _frame({"type": "message", "text": "what is my note, please, if you would be so kind?"})
        writer.write(whole[: len(whole) // 2])
        await writer.drain()
        await asyncio.sleep(self._dice.random() * 0.02)

    async def _open_socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        writer.write(
            f"GET /ws?token={token} HTTP/1.1\r\nHost: chat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")


async def _sign_in(client: httpx2.AsyncClient) -> str:
    for attempt in range(1, SIGN_IN_TRIES + 1):
        try:
            answer = await client.post("/api/login", json={"name": f"guest-{secrets.token_hex(4)}"})
            token = str(answer.raise_for_status().json()["token"])
        except httpx2.HTTPError:
            # Its database has more to do than it can (see `fill_tables`), or the server closed the connection as too long unused.
            if attempt == SIGN_IN_TRIES:
                raise
            await asyncio.sleep(BUSY_PAUSE_S)
            continue
        break
    client.headers["Authorization"] = f"Bearer {token}"
    return token


def _post(token: str, body: bytes) -> bytes:
    head = (
        "POST /api/threads/main/messages HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _frame(message: dict[str, Any]) -> bytes:
    """Return one masked text frame (RFC 6455) of fewer than 126 bytes."""
    payload, mask = json.dumps(message).encode(), secrets.token_bytes(4)
    return bytes([0x81, 0x80 | len(payload)]) + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
