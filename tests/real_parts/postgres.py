"""A private PostgreSQL cluster on a free port, run by an unprivileged user, gone with its `with` block."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real_parts.processes import eventually, free_port

_USER = "isomon"


@dataclass(frozen=True)
class Postgres:
    """One running cluster. Loopback connections are trusted, as nothing else can reach it."""

    port: int
    binaries: Path

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """Create a database and return its address."""
        self._run("createdb", "-T", template, database)
        return self.url(database)

    def drop(self, database: str) -> None:
        self._run("dropdb", "--force", "--if-exists", database)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    reason = "PostgreSQL is not installed: apt-get install --no-install-recommends postgresql"
    if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _someone_else() -> dict[str, Any]:
    """Return Popen's arguments that leave root behind: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """Run a new cluster until the block ends. Skips the test where PostgreSQL is missing (fails if ISOMON_REQUIRE_REAL=1).

    `fsync` off: the tests kill the collector, never the machine. Benchmarks measure with it on.
    """
    binaries, account = _binaries(), _someone_else()
    # Not below pytest's own folder, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="isomon-postgres-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        data = folder / "data"
        made = subprocess.run(
            [str(binaries / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            capture_output=True, text=True, check=False, timeout=300, cwd=folder, **account,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=100"]
        options += ["-c", f"fsync={'on' if fsync else 'off'}"]
        with (folder / "log").open("wb") as log:
            command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **account)

        def ready() -> bool:
            assert process is not None
            if process.poll() is not None:
                raise AssertionError(f"postgres ended: {(folder / 'log').read_text()[-2000:]}")
            check = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            return subprocess.run(check, check=False, timeout=30).returncode == 0

        eventually(ready, "PostgreSQL accepts connections")
        yield Postgres(port, binaries)
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)
