"""Workers that start and end badly, and tell a collector of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from tests.real_parts.collector import Collector
from tests.real_parts.processes import PATIENCE_S, started

ROOT: Final = Path(__file__).resolve().parents[2]

Conduct = Literal["hangs", "fails", "leaves"]


@contextlib.contextmanager
def starting(conduct: Conduct, folder: Path, collector: Collector) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker that tells the collector, until the block ends; see `starting_program`. `unlock` lets one that hangs go on."""
    folder.mkdir(parents=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLATION_", "OTEL_"))}
    environ |= {"ISOLATION_COLLECTOR_URL": collector.url, "ISOLATION_COLLECTOR_TOKEN": collector.send_token}
    command = [sys.executable, "-m", "tests.real_parts.starting_program", conduct, str(folder)]
    with (folder / "log").open("wb") as log, started(command, cwd=ROOT, env=environ, stdout=log, stderr=log) as process:
        yield process


def unlock(folder: Path) -> None:
    """Let the worker in this folder go on."""
    (folder / "unlocked").touch()


def ran(conduct: Conduct, folder: Path, collector: Collector) -> None:
    """Run a worker to its end."""
    with starting(conduct, folder, collector) as process:
        process.wait(PATIENCE_S)
