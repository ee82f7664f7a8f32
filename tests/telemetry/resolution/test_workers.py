"""Several worker processes on one PostgreSQL: what one of them makes, every other resolves, also after its death."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from tests.real_parts.postgres import Postgres

WORKERS = 3
RUNS = 20

_WORKER = """
import asyncio, json, sys
from sqlalchemy.ext.asyncio import create_async_engine
from isolation_monitor.telemetry import ConflictingIdError, ForeignIdError, IsolationMonitor, names
from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry

url, worker, folder, runs = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

async def heard():
    return json.loads(await asyncio.to_thread(sys.stdin.readline))

def say(value):
    sys.stdout.write(json.dumps(value) + "\\n"); sys.stdout.flush()

async def main():
    engine = create_async_engine(url)
    registry = SqlRegistry(engine)
    await registry.create_table()
    monitor = IsolationMonitor.from_env(service="tests", hash_key="x", metrics_dir=folder, resolution_timeout_s=60)
    ids = monitor.resolution(registry=registry)
    made = await asyncio.gather(*(ids.create(f"t-{worker}-{n}", owner=f"user-{worker}") for n in range(runs)))
    # One name for which every worker has another thread: exactly one may have it.
    try:
        await ids.register("contested", f"t-{worker}", owner=f"user-{worker}")
        won = True
    except ConflictingIdError:
        won = False
    say({"made": made, "won": won})
    everybodys = await heard()
    told, denied = [], 0
    for run_id, owner in everybodys:
        run = await ids.resolve(run_id, asker=owner)
        told.append([run.run_id, run.thread_id, run.owner, run.source])
        try:
            await ids.resolve(run_id, asker="eve")
        except ForeignIdError:
            denied += 1
    contested = (await ids.resolve("contested")).owner
    failed = monitor.registry.value(names.ID_RESOLUTIONS, source="error")
    say({"told": told, "denied": denied, "contested": contested, "failed": failed, "violations": len(monitor.violations())})
    await engine.dispose()
    await monitor.aclose()

asyncio.run(main())
"""


def test_every_worker_resolves_what_another_made_and_the_dead_ones_runs_too(cluster: Postgres, tmp_path: Any) -> None:
    """One is killed with `kill -9` once it has made its runs: they are known all the same."""
    url = cluster.create("workers")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, url, str(n), str(tmp_path / "metrics"), str(RUNS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(WORKERS)
    ]
    try:
        made = [heard(worker) for worker in workers]
        everybodys = [(run_id, f"user-{n}") for n, one in enumerate(made) for run_id in one["made"]]
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait(30)
        for worker in workers[1:]:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(everybodys) + "\n")
            worker.stdin.flush()
        told = [heard(worker) for worker in workers[1:]]
        for worker in workers[1:]:
            assert worker.wait(60) == 0
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.communicate()

    assert len({run_id for run_id, _ in everybodys}) == WORKERS * RUNS
    [winner] = [n for n, one in enumerate(made) if one["won"]]
    for n, one in enumerate(told, start=1):
        assert one["contested"] == f"user-{winner}"
        assert one["told"] == [[run_id, run_id[35:], owner, "registry"] for run_id, owner in everybodys]
        assert one["denied"] == WORKERS * RUNS
        assert one["failed"] == 0
        # Whoever lost the contested name has the evidence of it, and nothing else.
        assert one["violations"] == (0 if n == winner else 1)


def heard(worker: subprocess.Popen[str]) -> Any:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    assert line, worker.stderr and worker.stderr.read()
    return json.loads(line)
