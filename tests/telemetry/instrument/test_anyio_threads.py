"""Jobs of the framework's threads are looked at from the very first one."""

from __future__ import annotations

import subprocess
import sys

FIRST_JOB = """
import sys
from starlette.applications import Starlette
assert "anyio._backends._asyncio" not in sys.modules
from isolation_monitor.telemetry import IsolationMonitor
monitor = IsolationMonitor.from_env(service="first", metrics_dir=sys.argv[1], hash_key="k")
monitor.instrument(Starlette())
from anyio._backends._asyncio import AsyncIOBackend
print(AsyncIOBackend.run_sync_in_worker_thread.__func__.__module__)
monitor.close()
"""


def test_the_backend_is_hooked_before_its_first_job(tmp_path) -> None:
    """anyio loads its backend with the first job; whoever waits for that misses the start of every process."""
    done = subprocess.run([sys.executable, "-c", FIRST_JOB, str(tmp_path)], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "isolation_monitor.telemetry.instrument.anyio_threads", done.stderr
