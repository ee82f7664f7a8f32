"""Several workers, one number: killed workers, forks, folding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.folding import KEEP_DEAD, fold_dead_workers
from isolation_monitor.telemetry.metrics.group import ARCHIVE
from isolation_monitor.telemetry.metrics.pacing import Pacer
from isolation_monitor.telemetry.metrics.sources import Archive
from isolation_monitor.telemetry.names import Metric

Start = Callable[..., subprocess.Popen[str]]

COUNTING = """
import os, sys, pathlib
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
registry = MetricRegistry("chat", pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["FOLDER"]))
sent = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")
took = registry.histogram(names.RUN_DURATION)
registry.gauge(names.RUN_ACTIVE).set(1.0)
registry.gauge(names.MONITOR_LAST_CHECK).set(float(os.environ.get("CHECKED", "5")))
for _ in range(int(os.environ.get("TIMES", "1000"))):
    sent.values[sent.index] += 1.0
    took.observe(0.2)
print("counted", flush=True)
input()
"""


def count_and_be_killed(python: Start, folder: Path, times: int = 1000, checked: int = 5) -> None:
    process = counting(python, folder, times, checked)
    process.send_signal(signal.SIGKILL)
    process.wait()


def counting(python: Start, folder: Path, times: int = 1000, checked: int = 5) -> subprocess.Popen[str]:
    process = python(COUNTING, FOLDER=str(folder), TIMES=str(times), CHECKED=str(checked))
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def sent(registry: MetricRegistry) -> float:
    return registry.value(names.WEBSOCKET_MESSAGES, direction="sent")


def test_a_killed_workers_counts_survive_and_its_gauges_do_not(registry: MetricRegistry, tmp_path: Path, python: Start) -> None:
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(1)
    worker = counting(python, tmp_path / "group", times=1000, checked=9)
    registry.gauge(names.RUN_ACTIVE).set(2.0)
    registry.gauge(names.MONITOR_LAST_CHECK).set(3.0)
    assert (sent(registry), registry.value(names.RUN_ACTIVE), registry.value(names.MONITOR_LAST_CHECK)) == (1001.0, 3.0, 9.0)

    worker.send_signal(signal.SIGKILL)
    worker.wait()

    assert (sent(registry), registry.value(names.RUN_DURATION)) == (1001.0, 1000.0)
    assert (registry.value(names.RUN_ACTIVE), registry.value(names.MONITOR_LAST_CHECK)) == (2.0, 3.0)


def test_many_dead_workers_become_one_archive_without_losing_a_count(registry: MetricRegistry, tmp_path: Path, python: Start) -> None:
    folder = tmp_path / "group"
    for done in range(KEEP_DEAD + 2):
        count_and_be_killed(python, folder, times=10)
        assert sent(registry) == 10 * (done + 1)
    for done in range(3):
        count_and_be_killed(python, folder, times=10)
        assert (sent(registry), registry.value(names.RUN_DURATION)) == (10 * (KEEP_DEAD + 3 + done),) * 2

    left = sorted(path.name for path in (folder / "chat").iterdir())

    assert ARCHIVE in left
    assert len([name for name in left if name.endswith(".series")]) <= KEEP_DEAD + 1
    # A worker that starts later shows the same.
    later = MetricRegistry("chat", folder)
    assert sent(later) == 10 * (KEEP_DEAD + 5)
    later.close()


def test_dead_files_that_could_not_be_removed_are_not_counted_twice(registry: MetricRegistry, tmp_path: Path, python: Start) -> None:
    """A process killed between writing the archive and removing the files leaves exactly this."""
    folder = tmp_path / "group" / "chat"
    count_and_be_killed(python, tmp_path / "group", times=10)
    (dead,) = [path for path in folder.glob("w-*.series") if f"-{os.getpid()}-" not in path.name]
    kept = {path: path.read_bytes() for path in (dead, dead.with_suffix(".cells"))}

    assert fold_dead_workers(folder, Pacer(), keep=0)
    for path, content in kept.items():
        path.write_bytes(content)

    assert sent(registry) == 10.0
    assert fold_dead_workers(folder, Pacer(), keep=0)
    assert sent(registry) == 10.0
    assert not dead.exists()


def test_scrapes_during_folding_never_see_a_count_fall_or_rise(tmp_path: Path, python: Start) -> None:
    """A counter that falls looks like a restart to Prometheus, which then counts everything again."""
    registries = [MetricRegistry("chat", tmp_path / "group") for _ in range(3)]
    folder = tmp_path / "group" / "chat"
    for _ in range(3):
        count_and_be_killed(python, tmp_path / "group", times=7)
    dead = [path for path in folder.glob("w-*.series") if f"-{os.getpid()}-" not in path.name]
    kept = {path: path.read_bytes() for worker in dead for path in (worker.with_suffix(".cells"), worker)}
    stop = threading.Event()
    seen: set[float] = set()

    def scrape(registry: MetricRegistry) -> None:
        while not stop.is_set():
            seen.add(sent(registry))

    threads = [threading.Thread(target=scrape, args=(registry,)) for registry in registries]
    for thread in threads:
        thread.start()
    for _ in range(60):
        fold_dead_workers(folder, Pacer(), keep=0)
        for path, content in kept.items():
            path.write_bytes(content)
    stop.set()
    for thread in threads:
        thread.join()

    assert seen == {21.0}
    for registry in registries:
        registry.close()


def test_two_processes_fold_at_once_and_count_once(tmp_path: Path, python: Start) -> None:
    registry = MetricRegistry("chat", tmp_path / "group")
    for _ in range(4):
        count_and_be_killed(python, tmp_path / "group", times=5)
    threads = [threading.Thread(target=fold_dead_workers, args=(tmp_path / "group" / "chat", Pacer(), 0)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sent(registry) == 20.0
    registry.close()


def test_the_archive_obeys_label_caps_over_many_lives(tmp_path: Path) -> None:
    """Each life may learn its own values; without a cap in the archive they would add up for ever."""
    metric = Metric("spells_total", "counter", "Spells.", {"wizard": 3})
    for life in range(5):
        registry = MetricRegistry("chat", tmp_path)
        for number in range(3):
            registry.counter(metric, wizard=f"w{life}-{number}").inc()
        registry.close()
        fold_dead_workers(tmp_path / "chat", Pacer(), keep=0)

    archive = Archive(tmp_path / "chat" / ARCHIVE)
    list(archive.load())

    assert len(archive.per_family["spells_total"]) == 4
    last = MetricRegistry("chat", tmp_path)
    assert sum(entry.values[0] for entry in last.series() if entry.family.name == "spells_total") == 15.0
    last.close()


def test_a_torn_last_line_is_ignored_until_it_is_whole(registry: MetricRegistry, tmp_path: Path, python: Start) -> None:
    """A worker killed while it announced a series."""
    count_and_be_killed(python, tmp_path / "group", times=10)
    (dead,) = [path for path in (tmp_path / "group" / "chat").glob("w-*.series") if f"-{os.getpid()}-" not in path.name]
    with dead.open("ab") as file:
        file.write(b'{"of":0,"values":["recei')

    assert sent(registry) == 10.0

    with dead.open("ab") as file:
        file.write(b'ved"],"at":1000}\n')

    assert b'direction="received"' in registry.render()


@pytest.mark.parametrize(
    "damage", [b"\x00\xff\n", b"[]\n", b'{"of":99,"values":[],"at":0}\n', b'{"of":0,"values":["sent"],"at":99999999}\n']
)
def test_a_damaged_file_does_not_break_the_page(registry: MetricRegistry, tmp_path: Path, python: Start, damage: bytes) -> None:
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc()
    count_and_be_killed(python, tmp_path / "group", times=10)
    (dead,) = [path for path in (tmp_path / "group" / "chat").glob("w-*.series") if f"-{os.getpid()}-" not in path.name]
    with dead.open("ab") as file:
        file.write(damage)

    assert sent(registry) in (1.0, 11.0)


def test_workers_of_different_releases_share_a_page(tmp_path: Path) -> None:
    """A rolling restart mixes ladders; numbers that cannot be added are left out, the rest is whole."""
    old = MetricRegistry("chat", tmp_path)
    new = MetricRegistry("chat", tmp_path)
    old.histogram(Metric("d_seconds", "histogram", "Old.", {}, "main", (1.0, 2.0))).observe(1.5)
    new.histogram(Metric("d_seconds", "histogram", "New.", {}, "main", (1.0, 2.0, 3.0))).observe(1.5)
    old.counter(Metric("only_old_total", "counter", "Old.", {})).inc(3)

    page = new.render()

    assert b'd_seconds_count{service="chat"} 1.0\n' in page
    assert b'only_old_total{service="chat"} 3.0\n' in page
    assert page.count(b"# TYPE d_seconds ") == 1
    old.close()
    new.close()


def test_a_forked_child_counts_from_zero_in_cells_of_its_own(tmp_path: Path) -> None:
    registry = MetricRegistry("chat", tmp_path)
    cell = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")
    took = registry.histogram(names.RUN_DURATION)
    registry.own_thread()
    cell.inc(100)

    child = os.fork()
    if child == 0:
        try:
            # The event loop's way, a method's way, and a series that is new in the child.
            cell.values[cell.index] += 10.0
            cell.inc(1)
            took.observe(0.2)
            registry.counter(names.WEBSOCKET_MESSAGES, direction="received").inc(7)
            os._exit(0 if cell.value() == 11.0 and sent(registry) in (111.0, 1111.0) else 1)
        except BaseException:
            os._exit(2)
    cell.values[cell.index] += 1000.0
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert cell.value() == 1100.0
    assert sent(registry) == 1111.0
    assert registry.value(names.WEBSOCKET_MESSAGES, direction="received") == 7.0
    assert registry.value(names.RUN_DURATION) == 1.0
    registry.close()


def test_a_forked_child_that_exits_normally_leaves_its_parent_counting(tmp_path: Path) -> None:
    """Exit handlers come along in a fork; they must not say that the parent is done."""
    code = """
import os, pathlib, sys
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
registry = MetricRegistry("chat", None)
registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(1)
if os.fork() == 0:
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(10)
    sys.exit(0)
os.wait()
registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(100)
print(len(list(registry.directory.glob("*.closed"))), registry.value(names.WEBSOCKET_MESSAGES, direction="sent"), registry.directory)
"""
    environment = {name: value for name, value in os.environ.items() if name != "ISOLATION_METRICS_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=True
    )

    closed, total, folder = ran.stdout.split()

    assert (closed, total) == ("1", "111.0")
    assert not Path(folder).exists()


def test_a_fork_during_new_series_and_renders_neither_hangs_nor_loses_a_count(tmp_path: Path) -> None:
    """The child inherits no lock that a thread of the parent holds."""
    registry = MetricRegistry("chat", tmp_path)
    metric = Metric("spells_total", "counter", "Spells.", {"wizard": 100_000})
    stop = threading.Event()

    def busy() -> None:
        number = 0
        while not stop.is_set():
            registry.counter(metric, wizard=f"w{number % 500}").inc()
            number += 1
            if number % 50 == 0:
                registry.render()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(15):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc()
            os._exit(0 if registry.render() else 1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads:
        thread.join()

    assert codes == [0] * 15
    assert sent(registry) == 15.0
    registry.close()


SPAWNING = """
import multiprocessing, os
from isolation_monitor.telemetry.metrics import MetricRegistry

def folder():
    return str(MetricRegistry("chat").directory)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(os.getpid(), pool.apply(folder))
"""


def test_a_child_started_by_multiprocessing_joins_its_parents_group(tmp_path: Path) -> None:
    """As uvicorn and hypercorn start their workers."""
    script = tmp_path / "spawning.py"
    script.write_text(SPAWNING)
    environment = {name: value for name, value in os.environ.items() if name != "ISOLATION_METRICS_DIR"}
    ran = subprocess.run(
        [sys.executable, script], env={**environment, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=True
    )

    pid, folder = ran.stdout.split()

    assert f"/chat-{pid}-" in folder
