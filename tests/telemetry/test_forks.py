"""Forks: a thread of ours that imports while the host forks leaves the import's lock held in the child, whose own import waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from isolation_monitor.telemetry import IsolationMonitor
from tests.telemetry.records.receiving import Collector

FOUND = "imported on a thread of ours:"
PROGRAM = f"""
import sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        thread = threading.current_thread().name
        if thread.startswith("isolation") and not name.startswith("isolation_monitor.telemetry.instrument."):
            print("{FOUND}", thread, name, flush=True)

sys.meta_path.insert(0, Watch())

import asyncio, time
from fastapi import FastAPI, Request
from isolation_monitor.telemetry import IsolationMonitor
from tests.telemetry.conftest import Client, user_of

monitor = IsolationMonitor.from_env(service="shop")
monitor.principal(user_of)
monitor.canary("a canary of another tenant", owner="cleo")
app = FastAPI()
last = {{}}

@app.post("/chat")
async def chat(request: Request):
    earlier = last.get("said", "")
    last["said"] = (await request.json())["say"]
    return {{"reply": f"you said {{earlier}}"}}

async def main():
    client = Client(monitor.instrument(app))
    monitor.started()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        await client.post("/chat", user="ann", json={{"say": "my code is QX81-77Z2-0K4P"}})
        await client.post("/chat", user="bob", json={{"say": "hello"}})
        await asyncio.sleep(0.02)

asyncio.run(main())
print("found", len(monitor.violations()))
monitor.close()
"""


def test_no_thread_of_ours_imports_anything_but_an_integration(tmp_path: Path) -> None:
    collector = Collector()
    environment = os.environ | {
        "ISOLATION_METRICS_DIR": str(tmp_path / "metrics"),
        "ISOLATION_SPOOL_DIR": str(tmp_path / "spool"),
        "ISOLATION_COLLECTOR_URL": collector.url.replace("127.0.0.1", "localhost"),
        "ISOLATION_COLLECTOR_TOKEN": "token",
        "ISOLATION_SELF_TEST_INTERVAL_S": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        collector.shutdown()
        collector.server_close()

    assert done.returncode == 0, done.stderr[-2000:]
    assert "found 0" not in done.stdout, "nothing was watched"
    assert collector.stored, "nothing was sent"
    assert [line for line in done.stdout.splitlines() if line.startswith(FOUND)] == []


def test_a_fork_waits_for_a_look_at_libraries_and_the_child_can_look(monitor: IsolationMonitor) -> None:
    integrations = monitor.integrations
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        with integrations._lock:
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.3, go.set).start()

    began = time.monotonic()
    child = os.fork()
    if child == 0:
        integrations.look()
        os._exit(7)
    waited = time.monotonic() - began
    thread.join()

    assert waited >= 0.25
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    integrations.look()
