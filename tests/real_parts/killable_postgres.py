"""A private PostgreSQL that is killed like a machine's: all of its processes at once, and started again on the same data folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.real_parts.postgres import _USER, _binaries, _someone_else
from tests.real_parts.processes import eventually, free_port


class Cluster:
    """One cluster with PostgreSQL's own durability: `fsync` and `synchronous_commit` are on."""

    def __init__(self, folder: Path, binaries: Path, account: dict[str, Any]) -> None:
        self._folder = folder
        self._binaries = binaries
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._run("initdb", "-D", str(folder / "data"), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C")
        self.start()

    def create(self, database: str) -> str:
        """Create a database and return its address."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, database)
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self.port}/{database}"

    def analyze(self) -> None:
        """Gather statistics, as it does by itself a minute after it was left alone: each kill made it forget what it had counted."""
        self._run("vacuumdb", "--all", "--analyze-only", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER)

    def start(self) -> None:
        """Start it and wait until it has recovered and takes connections."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=50"]
        with (self._folder / "log").open("ab") as log:
            command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port), *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._account)

        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"postgres ended: {(self._folder / 'log').read_text()[-2000:]}")
            check = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            return subprocess.run(check, check=False, timeout=30).returncode == 0

        eventually(ready, "PostgreSQL accepts connections")

    def kill(self) -> None:
        """Kill every process of it, and return when they are gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        children = _children(process.pid)
        process.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        # A new one refuses to start while one of the old has its shared memory.
        eventually(lambda: not any(_is_running(pid) for pid in children), "the processes of PostgreSQL are gone")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=self._folder, **self._account)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def killable_postgres() -> Iterator[Cluster]:
    """Run a new cluster until the block ends. Skips the test where PostgreSQL is missing (fails if ISOMON_REQUIRE_REAL=1)."""
    binaries, account = _binaries(), _someone_else()
    folder = Path(tempfile.mkdtemp(prefix="isomon-postgres-"))
    cluster: Cluster | None = None
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        cluster = Cluster(folder, binaries, account)
        yield cluster
    finally:
        if cluster is not None:
            cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if int(text[text.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"
