"""Clean-up: the order, limits and force of its steps, once for whoever asks, and what it says was left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.lifecycle import work
from isolation_monitor.telemetry.lifecycle.lifecycle import Lifecycle

PATIENCE_S = 30.0

linux_only = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="handles and children are read from /proc")


@pytest.fixture
def life(make_monitor: Callable[..., IsolationMonitor]) -> Lifecycle:
    return make_monitor(lifecycle_signals="off").lifecycle


def outcomes(life: Lifecycle) -> dict[str, str]:
    assert life.report is not None
    return {step.name: step.outcome for step in life.report.steps}


async def test_steps_run_in_reverse_order_and_named_ones_after_what_they_name(life: Lifecycle) -> None:
    order: list[str] = []
    life.cleanup("log")(lambda: order.append("log"))
    life.cleanup("database")(lambda: order.append("database"))

    @life.cleanup("requests")
    async def drain() -> None:
        await asyncio.sleep(0.01)
        order.append("requests")

    life.cleanup("last", after=["log"])(lambda: order.append("last"))

    async with life:
        pass

    assert order == ["requests", "database", "log", "last"]
    assert life.report is not None
    assert life.report.is_clean, life.report


async def test_a_step_that_hangs_is_cancelled_and_forced_and_the_others_go_on(
    make_monitor: Callable[..., IsolationMonitor], samples: Callable[..., float]
) -> None:
    monitor = make_monitor(lifecycle_signals="off")
    life, forced, held = monitor.lifecycle, threading.Event(), threading.Event()
    life.cleanup("after")(lambda: None)

    @life.cleanup("async", timeout_s=0.1, force=forced.set)
    async def hangs() -> None:
        await asyncio.sleep(3600)

    life.cleanup("thread", timeout_s=0.1)(lambda: held.wait(PATIENCE_S))

    @life.cleanup("broken", force=lambda: 1 / 0)
    async def breaks() -> None:
        raise ConnectionError

    async with life:
        pass
    held.set()

    assert outcomes(life) == {"broken": "failed", "thread": "timed_out", "async": "timed_out", "after": "done"}
    assert forced.is_set()
    assert samples(monitor, "isolation_cleanup_steps_forced_total") == 2
    assert samples(monitor, "isolation_cleanup_duration_seconds_count") == 1
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_step_that_holds_the_event_loop_is_forced_as_well(life: Lifecycle) -> None:
    release = threading.Event()

    @life.cleanup("busy", timeout_s=0.1, force=release.set)
    async def hold_the_loop() -> None:
        release.wait(PATIENCE_S)

    async with asyncio.timeout(PATIENCE_S / 2):
        async with life:
            pass

    assert outcomes(life) == {"busy": "timed_out"}


def test_a_loop_that_ends_meanwhile_keeps_no_step_from_running() -> None:
    class Ending(asyncio.SelectorEventLoop):
        """It runs while somebody looks, and is closed when it is given something."""

        def is_running(self) -> bool:
            return self.is_closed()

    ran = threading.Event()

    async def step() -> None:
        ran.set()

    loop = Ending()
    loop.close()
    work.begin(step, loop, "step").future.result(PATIENCE_S)

    assert ran.is_set()


async def test_all_together_have_a_limit_too(make_monitor: Callable[..., IsolationMonitor]) -> None:
    life = make_monitor(lifecycle_signals="off", cleanup_limit_s=0.3, cleanup_timeout_s=0.2).lifecycle
    forced: list[str] = []
    for name in ("third", "second", "first"):
        life.cleanup(name, force=lambda name=name: forced.append(name))(lambda: time.sleep(1))

    async with life:
        pass

    assert outcomes(life) == {"first": "timed_out", "second": "timed_out", "third": "not_run"}
    assert forced == ["first", "second", "third"]


async def test_it_runs_once_whoever_asks_and_however_often(life: Lifecycle) -> None:
    runs: list[int] = []
    life.cleanup("count")(lambda: (runs.append(1), time.sleep(0.1)))

    await life.astart()
    reports = await asyncio.gather(life.aclose(), life.aclose(), asyncio.to_thread(life.close), asyncio.to_thread(life.close))

    assert len(runs) == 1
    assert all(report is reports[0] for report in reports)
    assert life.close() is None, "on the loop's own thread it only begins"
    assert await asyncio.to_thread(life.close) is reports[0]


async def test_a_step_of_a_phase_that_never_began_is_left_out(life: Lifecycle) -> None:
    @life.phase("database")
    async def database() -> None:
        raise OSError("away")

    life.phase("model", after=["database"])(lambda: None)
    life.cleanup("database")(lambda: None)
    life.cleanup("model")(lambda: None)

    with pytest.raises(OSError, match="away"):
        async with life:
            pass

    assert outcomes(life) == {"model": "not_needed", "database": "done"}


@linux_only
async def test_what_is_left_is_named_and_what_was_there_before_is_not(
    make_monitor: Callable[..., IsolationMonitor], samples: Callable[..., float], tmp_path: Path
) -> None:
    monitor = make_monitor(lifecycle_signals="off")
    life, stop = monitor.lifecycle, threading.Event()
    before = (tmp_path / "before").open("w")
    task_before = asyncio.create_task(asyncio.sleep(3600))
    await life.astart()
    task = asyncio.create_task(forgotten())
    thread = threading.Thread(target=stop.wait, name="forgotten-thread", daemon=True)
    thread.start()
    child, zombie = _children()
    while _state(zombie) != "Z":  # noqa: ASYNC110  # the system tells nobody
        await asyncio.sleep(0.01)
    file = (tmp_path / "after").open("w")
    listening = socket.create_server(("127.0.0.1", 0))
    temporary = tempfile.NamedTemporaryFile()  # noqa: SIM115  # left open on purpose
    registered = life.temporary(tmp_path)
    report = await life.aclose()

    stop.set()
    child.kill()
    for one in (child, zombie):
        one.wait()
    for each in (before, file, listening, temporary):
        each.close()
    for pending in (task, task_before):
        pending.cancel()
    assert report is not None
    assert report.left is not None
    left = report.left
    assert left.counts["tasks"] == 1
    assert "forgotten" in left.descriptions["tasks"][0]
    assert left.counts["threads"] == 1
    assert "forgotten-thread" in left.descriptions["threads"][0]
    assert [str(child.pid) in line for line in left.descriptions["children"]] == [True]
    assert [str(zombie.pid) in line for line in left.descriptions["zombies"]] == [True]
    assert any(line.endswith("/after") for line in left.descriptions["files"])
    assert not any(line.endswith("/before") for line in left.descriptions["files"])
    assert [
        f":{listening.getsockname()[1]}" in line if listening.fileno() >= 0 else "listening" in line
        for line in left.descriptions["sockets"]
    ] == [True]
    assert {registered, temporary.name} <= set(left.descriptions["temporary_files"])
    assert not report.is_clean
    for resource in ("tasks", "threads", "children", "zombies", "sockets"):
        assert samples(monitor, "isolation_cleanup_left_total", isolation_resource=resource) == 1, resource


def _children() -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]), subprocess.Popen(["true"])


def _state(child: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


async def forgotten() -> None:
    await asyncio.sleep(3600)


@linux_only
async def test_what_a_tidy_application_does_leaves_nothing(life: Lifecycle, tmp_path: Path) -> None:
    """Threads of the loop's own pool wait for their next job until the loop ends them: that is nobody's leftover."""
    async with life:
        await asyncio.to_thread(lambda: None)
        (tmp_path / "file").write_text("closed")
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()

    assert life.report is not None
    assert life.report.is_clean, life.report


# --- how a process ends -----------------------------------------------------------------------------------------------

SCRIPT = """
import asyncio, os, signal, sys, threading, time
from isolation_monitor.telemetry import IsolationMonitor

monitor = IsolationMonitor.from_env(service="script", hash_key="k", metrics_dir=sys.argv[1])
life = monitor.lifecycle

@life.phase("work")
def work(): pass

@life.cleanup("work")
def tidy(): print("tidied by", os.getpid() == MAIN, life.state, flush=True)

MAIN = os.getpid()
"""
ON_LOOP = """
async def main():
    async with life:
        os.kill(MAIN, signal.SIGTERM)
        await asyncio.sleep(60)

asyncio.run(main())
"""
LOOPS_HANDLER = """
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with life:
        os.kill(MAIN, signal.SIGTERM)
        await stop.wait()
        assert not life.is_ready

asyncio.run(main())
"""
FORKED = """
life.start()
if os.fork() == 0:
    sys.exit(0)
os.wait()
told, tell = os.pipe()
if (pid := os.fork()) == 0:
    # Python drops signals that come while it forks.
    os.write(tell, b"1")
    time.sleep(60)
os.read(told, 1)
os.kill(pid, signal.SIGTERM)
assert os.waitpid(pid, 0)[1] == signal.SIGTERM
"""
BLOCK_AHEAD = """
with life.phase("settings"): pass

# A server that runs the application it was given: `uvicorn.run(app)`.
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(life.is_ready))

async def main():
    async with life:
        os.kill(MAIN, signal.SIGTERM)
        await asyncio.sleep(0)
        assert heard == [False], heard
    assert life.report.is_clean, life.report

asyncio.run(main())
"""
PRELOADED = """
with life.phase("settings"): pass
if os.fork() == 0:
    MAIN = os.getpid()
    with life:
        assert life._course.startup_s < 30
    assert life.report.is_clean, life.report
    os._exit(0)
os.wait()
"""
KILL = "life.start(); os.kill(MAIN, signal.{}); time.sleep(60)"
ENDINGS = {
    "falls off its end": ("life.start()", 0),
    "with block": ("with life: pass", 0),
    "closed by hand, and again at exit": ("life.start(); life.close(); life.close()", 0),
    "sys.exit": ("life.start(); sys.exit(3)", 3),
    "an error": ("with life: raise SystemExit(4)", 4),
    "SIGTERM that nobody handles": (KILL.format("SIGTERM"), -signal.SIGTERM),
    "SIGINT": (KILL.format("SIGINT"), -signal.SIGINT),
    "SIGTERM on an event loop": (ON_LOOP, -signal.SIGTERM),
    "SIGTERM with a handler of the host's": ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); " + KILL.format("SIGTERM"), 5),
    "SIGTERM with a handler of the loop's": (LOOPS_HANDLER, 0),
    "SIGTERM with a handler from between a block and the start": (BLOCK_AHEAD, 0),
    "a forked child that starts what a block in its parent began": (PRELOADED, 0),
    "a forked child, that leaves what is its parent's": (FORKED, 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_process_ends_it_is_tidied_once_and_ends_as_it_would_have(ending: str, tmp_path: Path) -> None:
    code, status = ENDINGS[ending]
    environ = {**os.environ, "ISOLATION_SPOOL_DIR": ""}

    command = [sys.executable, "-c", SCRIPT + code, str(tmp_path / "metrics")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, env=environ, check=False)

    assert done.stdout.splitlines() == ["tidied by True stopping"], done.stderr
    assert done.returncode == status, done.stderr


def test_what_a_clean_up_tells_is_on_the_disk_before_a_signal_ends_the_process(tmp_path: Path) -> None:
    environ = {**os.environ, "ISOLATION_SPOOL_DIR": str(tmp_path / "spool"), "ISOLATION_COLLECTOR_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", SCRIPT + ON_LOOP, str(tmp_path / "metrics")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, env=environ, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr

    (spool,) = (tmp_path / "spool").rglob("*.spool")
    with contextlib.closing(sqlite3.connect(spool)) as connection:
        told = [
            record["type"] for (body,) in connection.execute("SELECT body FROM batches") for record in json.loads(zlib.decompress(body))
        ]

    assert "cleanup" in told


@linux_only
async def test_what_a_block_ahead_of_the_start_opens_is_left_and_what_the_server_opens_is_not(life: Lifecycle) -> None:
    with life.phase("settings"):
        opened = os.open(__file__, os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)):
        async with life:
            pass
        os.close(opened)

    assert life.report is not None
    assert life.report.left is not None
    assert (life.report.left.counts["files"], life.report.left.counts["sockets"]) == (1, 0)
