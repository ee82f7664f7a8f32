"""The reference service from its start to its end, by the process table: ready in time, tidy in time, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import httpx2
import pytest

from isolation_monitor.demo.chat_user import ChatUser, ForeignSighting, Registry
from tests.chat.conftest import EXAMPLES
from tests.real_parts.processes import PATIENCE_S, eventually, free_port, running

READY_S, CLEANUP_S = 30.0, 5.0
SLOW = 5
"""A machine five times slower is no failure of the service."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the process table is read from /proc")

UVICORN = ("uvicorn", "chat.app:app", "--app-dir", str(EXAMPLES), "--port", "{port}", "--workers", "2")
GUNICORN = ("gunicorn", "--chdir", str(EXAMPLES), "-k", "asgi", "-w", "2", "-b", "127.0.0.1:{port}", "chat.app:app")


def family(pid: int) -> set[int]:
    """The process, its children and theirs, by the process table."""
    found = {pid}
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(entry.name))
    todo = [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def handles_below(pids: set[int], folder: Path) -> list[str]:
    """The files below a folder that these processes hold open."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()).startswith(str(folder)):
                        found.append(f"{pid}: {link.readlink()}")
    return found


async def traffic(base_url: str) -> list[ChatUser]:
    """Let some users ask; their sockets are still open."""
    registry, foreign = Registry(), list[ForeignSighting]()
    users = [ChatUser(base_url, f"user-{number}-{os.urandom(3).hex()}", registry, on_foreign=foreign.append) for number in range(6)]
    for user in users:
        await user.sign_in()
        await user.connect()
    await asyncio.gather(*(user.ask("what is my note?", PATIENCE_S) for user in users))
    assert foreign == []
    return users


@pytest.mark.slow
@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
async def test_the_service_is_ready_in_time_and_leaves_nothing_behind(command: tuple[str, ...], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "chat.log"
    files = tmp_path / "files"
    files.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "ISOLATION_", "OTEL_"))} | {
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{files / 'chat.sqlite3'}",
        "CHAT_SECRET_FILE": str(files / "chat.secret"),
        "ISOLATION_METRICS_DIR": str(files / "metrics"),
        "ISOLATION_SPOOL_DIR": str(files / "spool"),
        "ISOLATION_HASH_KEY": "only for tests",
        "TMPDIR": str(files),
    }
    began = time.monotonic()
    arguments = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    with running(arguments, log, f"http://127.0.0.1:{port}/readyz", environment) as process:
        ready_s = time.monotonic() - began
        users = await traffic(f"http://127.0.0.1:{port}")
        pids = family(process.pid)
        assert len(pids) >= 3, "a parent and two workers"
        assert handles_below(pids, files), "the table tells what they hold"

        if command is GUNICORN:
            # It waits for open sockets, up to its own graceful timeout of 30 s, before the application hears of the end.
            for user in users:
                await user.close()
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, PATIENCE_S)
        ended_s = time.monotonic() - asked
        for user in users:
            await user.close()

    eventually(lambda: not any(state(pid) for pid in pids), "no process and no zombie of the service is left")
    said = log.read_text()
    assert ready_s < READY_S * SLOW
    assert ended_s < CLEANUP_S * SLOW
    assert handles_below(pids, files) == []
    assert "left after the clean-up" not in said, said
    assert "timed out" not in said, said
    assert "Traceback" not in said, said
    # What another process of the machine leaves in the temporary folder is not ours; here it is the service's alone.
    assert {one.name.split(".")[0] for one in files.iterdir()} <= {"chat", "metrics", "spool"}


UNTIDY = """
import pathlib
import subprocess
from chat.app import app

@app.get("/untidy")
async def untidy() -> None:
    app.state.kept = (pathlib.Path(__file__).with_name("kept").open("w"), subprocess.Popen(["sleep", "1"]))
"""


async def test_what_a_worker_leaves_would_be_told(tmp_path: Path) -> None:
    """The control: a worker that leaves a child and a file is found out, or the test above proves nothing."""
    (tmp_path / "untidy.py").write_text(UNTIDY)
    port, log = free_port(), tmp_path / "chat.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES),
        "ISOLATION_METRICS_DIR": str(tmp_path / "metrics"),
        "ISOLATION_SPOOL_DIR": "",
        "ISOLATION_HASH_KEY": "k",
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'chat.sqlite3'}",
        "CHAT_SECRET_FILE": str(tmp_path / "secret"),
    }
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "untidy:app", "--app-dir", str(tmp_path), "--port", str(port)]
    with running(command, log, f"{url}/readyz", environment) as process:
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            assert (await client.get("/untidy")).status_code == 200
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, PATIENCE_S)

    assert "left after the clean-up: 1 children" in log.read_text()
    assert "kept" in log.read_text()
