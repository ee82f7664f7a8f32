"""The outbox in real processes: forks with a full queue, children of multiprocessing, gunicorn's preloading, ends of every kind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from tests.real_parts.processes import PATIENCE_S, free_port, running
from tests.telemetry.records.receiving import Collector, until

BEGIN = """
import multiprocessing, os, signal, sys, threading, time
from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
url, base = sys.argv[1:3]
def new():
    return Outbox("chat", url, "token", 10_000, lambda what, n: None, folder=SpoolFolder(base, "chat"))
def violation(id):
    return {"type": "violation", "id": id, "grade": "crossed"}
box = new()
"""
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code after `BEGIN` in a process of its own, with warnings as errors."""

    def start(code: str, url: str = NOWHERE, expect: int = 0) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "program.py"
        file.write_text(BEGIN + code)
        # Python says of each fork that there are threads (3.12): that is what is tested here.
        warn = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        command = [sys.executable, *warn, str(file), url, str(tmp_path / "spool")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2, check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return start


@pytest.fixture
def left(tmp_path: Path, collector: Collector) -> Callable[[int], Counter[Any]]:
    """Let a new process of the service send what is there, until so many records came; return how often each id did."""

    def send(number: int) -> Counter[Any]:
        counts: Counter[str] = Counter()
        box = Outbox("chat", collector.url, "token", 1000, lambda what, n: counts.update({what: n}), folder=folder(tmp_path))
        box.start()
        until(lambda: len(collector.stored) >= number, f"{number} records arrive, {len(collector.stored)} did")
        until(lambda: len(box) == 0, "nothing is left")
        box.close()
        return Counter(record["id"] for record in collector.stored)

    return send


def folder(tmp_path: Path) -> SpoolFolder:
    return SpoolFolder(str(tmp_path / "spool"), "chat")


def once(found: Counter[Any], ids: set[Any]) -> bool:
    return set(found) == ids and set(found.values()) == {1}


def test_a_fork_with_a_full_queue_sends_nothing_twice_and_loses_nothing(run, left, collector) -> None:
    """The parent keeps what it queued, the child begins with nothing; both go on with files of their own."""
    run("""
for n in range(3_000):
    box.put(violation(f"before-{n}"))
child = os.fork()
name = "child" if child == 0 else "parent"
for n in range(500):
    box.put(violation(f"{name}-{n}"))
assert box.sync(60)
box.close(0.1)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""")
    found = left(4_000)

    assert once(found, {f"before-{n}" for n in range(3_000)} | {f"{who}-{n}" for who in ("child", "parent") for n in range(500)})
    assert len(collector.instances) == 2


def test_many_forks_in_the_middle_of_writing_leave_every_file_whole(run, left) -> None:
    """Forks fall on every moment of a commit, of an opening and of a deletion."""
    done = run(
        """
sys.setswitchinterval(1e-5)
stop = threading.Event()
put = 0
def go_on():
    global put
    while not stop.is_set():
        box.put(violation(f"parent-{put}"))
        put += 1
        time.sleep(0.0005)
writer = threading.Thread(target=go_on)
writer.start()
children = []
for number in range(40):
    child = os.fork()
    if child == 0:
        try:
            box.put(violation(f"child-{number}"))
            ok = box.sync(60)
        finally:
            os._exit(0 if ok else 1)
    children.append(child)
    time.sleep(0.01)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
stop.set()
writer.join()
assert box.sync(60)
print(put, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""", expect=-9)  # fmt: skip
    put = int(done.stdout)
    assert once(left(put + 40), {f"child-{n}" for n in range(40)} | {f"parent-{n}" for n in range(put)})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_send_what_they_found_before_they_end(run, collector, method) -> None:
    run(
        f"""
def work(number):
    mine = box if {method == "fork"} else new()
    mine.put(violation(number))

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    box.put(violation("parent"))
    children = [context.Process(target=work, args=(number,)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
""",
        collector.url,
    )

    assert once(Counter(record["id"] for record in collector.stored), {"parent", 0, 1, 2})


def test_a_process_that_ends_spools_its_last_word_and_does_not_wait_long(run, left) -> None:
    """The collector takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        done = run(
            """
for n in range(2_000):
    box.put(violation(n))
began = time.monotonic()
box.close()
print(time.monotonic() - began)
""",
            f"http://127.0.0.1:{black_hole.getsockname()[1]}",
        )

    assert float(done.stdout) < 2.0 + 3.0
    assert once(left(2_000), set(range(2_000)))


def test_records_of_the_last_moment_are_spooled_by_the_end_of_the_interpreter(run, left) -> None:
    run("for n in range(500):\n    box.put(violation(n))\n")

    assert once(left(500), set(range(500)))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_spooled_survives_a_signal(run, left, ending) -> None:
    run(
        f"for n in range(500):\n    box.put(violation(n))\nassert box.sync(60)\nos.kill(os.getpid(), {int(ending)})\ntime.sleep(60)\n",
        expect=-int(ending),
    )

    assert once(left(500), set(range(500)))


APP = """
import json, os
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.violations import uuid7

monitor = IsolationMonitor.from_env(service="chat")
# While it is loaded: with --preload in the parent, whose workers inherit the queue.
monitor.outbox.put({"type": "violation", "id": f"loaded-{os.getpid()}", "grade": "crossed"})

async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    monitor.outbox.put({"type": "violation", "id": uuid7(), "grade": "crossed"})
    body = json.dumps({"pid": os.getpid()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

app = monitor.instrument(plain)
"""


@pytest.mark.parametrize("preload", [True, False])
def test_workers_of_gunicorn_have_files_of_their_own_and_lose_nothing(tmp_path, collector, preload) -> None:
    if importlib.util.find_spec("gunicorn") is None:
        if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
            pytest.fail("gunicorn is not installed")
        pytest.skip("gunicorn is not installed")
    (tmp_path / "spooling_app.py").write_text(APP)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ISOLATION_")} | {
        "ISOLATION_METRICS_DIR": str(tmp_path / "metrics"),
        "ISOLATION_SPOOL_DIR": str(tmp_path / "spool"),
        "ISOLATION_COLLECTOR_URL": collector.url,
        "ISOLATION_COLLECTOR_TOKEN": "token",
        "ISOLATION_SELF_TEST_INTERVAL_S": "0",
        "PYTHONPATH": str(tmp_path),
    }
    command = [sys.executable, "-m", "gunicorn", "spooling_app:app", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--no-control-socket"]
    command += ["--worker-class", "uvicorn.workers.UvicornWorker", "--log-level", "warning", *(["--preload"] if preload else [])]
    pids, asked = set(), 0
    url = f"http://127.0.0.1:{port}/"
    with running(command, tmp_path / "gunicorn.log", url, environment) as process:
        asked += 1
        deadline = time.monotonic() + PATIENCE_S
        while len(pids) < 2 or asked < 100:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                pids.add(json.load(answer)["pid"])
            asked += 1
            assert time.monotonic() < deadline
        until(lambda: sum("loaded" not in record["id"] for record in collector.stored) >= asked - 1, "what was found arrives")
        arbiter = process.pid

    loaded = [record["id"] for record in collector.stored if "loaded" in record["id"]]
    assert sorted(loaded) == sorted([f"loaded-{arbiter}"] if preload else [f"loaded-{pid}" for pid in pids])
    assert len(collector.stored) == len({record["id"] for record in collector.stored}), "nothing came twice"
    # Workers that a signal ended leave their files; whoever comes next finds nothing in them to send again.
    stored = len(collector.stored)
    box = Outbox("chat", collector.url, "token", 100, lambda what, n: None, folder=folder(tmp_path))
    box.start()
    until(lambda: not list(folder(tmp_path).path.glob("*.spool")), "what is empty is removed")
    box.close()
    assert len(collector.stored) == stored
