"""A private Redis server on a free port, in a folder of its own, gone with its `with` block."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isolation_monitor.demo.binaries import REDIS
from tests.real_parts.installed import installed
from tests.real_parts.processes import eventually, free_port


@dataclass(frozen=True)
class Redis:
    """One running server; nothing but loopback reaches it, and nothing is written to disk."""

    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def redis() -> Iterator[Redis]:
    """Run a new, empty server until the block ends. Skips the test where Redis is missing (fails if ISOMON_REQUIRE_REAL=1)."""
    program = installed(REDIS)
    folder = Path(tempfile.mkdtemp(prefix="isomon-redis-"))
    port = free_port()
    command = [str(program.path), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"redis-server ended: {(folder / 'log').read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    try:
        eventually(ready, "Redis answers")
        yield Redis(port)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
