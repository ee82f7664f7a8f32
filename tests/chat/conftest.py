"""The chat service as its users meet it: uvicorn with two workers on a free port, real sockets, real HTTP."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from isolation_monitor.demo.chat_user import ChatUser, ForeignSighting, Registry
from tests.real_parts.processes import free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# The example's own modules are imported as its workers import them: by `--app-dir examples`.
sys.path.insert(0, str(EXAMPLES))


@dataclass(frozen=True)
class Service:
    """One running service; `folder` holds its files."""

    base_url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "chat.log").read_text()


@contextlib.contextmanager
def chat_service(folder: Path, *, workers: int = 2, port: int = 0, **settings: str) -> Iterator[Service]:
    """Run the service until the block ends, on a free port if none is named. `settings` are further environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "ISOLATION_", "OTEL_"))}
    environment |= {
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'chat.sqlite3'}",
        "CHAT_SECRET_FILE": str(folder / "chat.secret"),
        "CHAT_FAULTS_FILE": str(folder / "faults.json"),
        "CHAT_FAULT_LOG": str(folder / "faults.log"),
        "ISOLATION_METRICS_DIR": str(folder / "metrics"),
        "ISOLATION_SPOOL_DIR": str(folder / "spool"),
        "ISOLATION_HASH_KEY": "only for tests",
        **settings,
    }
    port = port or free_port()
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "chat.app:app", "--app-dir", str(EXAMPLES), "--port", str(port), "--workers", str(workers)]
    with running(command, folder / "chat.log", f"{base_url}/readyz", environment) as process:
        try:
            yield Service(base_url, folder, process)
        finally:
            process.send_signal(signal.SIGTERM)


def acknowledged(base_url: str) -> float:
    """Return how many events the clients of a service with one worker have acknowledged, as its metrics say."""
    wanted = re.compile(r'isolation_events_settled_total\{.*outcome="(acknowledged|replayed)"')
    lines = httpx2.get(f"{base_url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if wanted.match(line) and 'highest="client_acked"' in line)


@pytest.fixture(scope="module")
def clean_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Without CHAT_FAULTS: as anybody would run it."""
    with chat_service(tmp_path_factory.mktemp("clean")) as service:
        yield service


@pytest.fixture(scope="module")
def faulty_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With CHAT_FAULTS=1, every fault off."""
    with chat_service(tmp_path_factory.mktemp("faulty"), CHAT_FAULTS="1") as service:
        yield service


class People:
    """Makes signed-in, connected users of one service, and keeps what of others they saw."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.registry = Registry()
        self.foreign_seen: list[ForeignSighting] = []
        self._users: list[ChatUser] = []

    async def new(self, name: str) -> ChatUser:
        user = ChatUser(self.base_url, f"{name}-{os.urandom(4).hex()}", self.registry, on_foreign=self.foreign_seen.append)
        self._users.append(user)
        await user.sign_in()
        await user.connect()
        return user

    async def new_beside(self, name: str, other: ChatUser) -> ChatUser:
        """A user whose WebSocket is held by the same worker as the other's."""
        user = await self.new(name)
        for _ in range(200):
            if user.worker == other.worker:
                return user
            await user.connect()
        raise AssertionError(f"200 connections, none to worker {other.worker}")

    async def leave(self) -> None:
        for user in self._users:
            await user.close()


@pytest.fixture
async def people(clean_service: Service) -> AsyncIterator[People]:
    everybody = People(clean_service.base_url)
    yield everybody
    await everybody.leave()


@pytest.fixture
async def http(clean_service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=clean_service.base_url, timeout=30) as client:
        yield client
