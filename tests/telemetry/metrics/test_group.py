"""Groups: which processes count together, and which folders may go."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.group import (
    ProcessId,
    find_leader,
    open_group,
    own_namespace,
    remove_stale_groups,
    start_time,
    worker_is_alive,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process start times are read from /proc")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("ISOLATION_METRICS_DIR", raising=False)
    return folder


@pytest.fixture
def dead() -> ProcessId:
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = ProcessId.of(process.pid)
        assert found.is_alive()
    return found


def test_a_process_is_known_by_its_start_time_not_only_its_id(dead: ProcessId) -> None:
    own = ProcessId.of(os.getpid())

    assert own.is_alive()
    assert not dead.is_alive()
    assert not ProcessId(own.pid, own.start - 1, own.namespace).is_alive()
    assert ProcessId(own.pid, own.start, "f00").is_alive() is None


def test_a_zombie_counts_as_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert start_time(process.pid) is None

    process.wait()


def test_a_plain_process_leads_itself() -> None:
    assert find_leader() == ProcessId.of(os.getpid())


def test_the_chosen_folder_is_this_users_alone(temporary: Path) -> None:
    group = open_group("chat/../x", None)

    assert group.path is not None
    assert group.path.parent == temporary / f"isolation-monitor-{os.getuid()}"
    assert group.path.name == f"chat_.._x-{group.leader}"
    assert stat.S_IMODE(group.path.stat().st_mode) == stat.S_IMODE(group.path.parent.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_used(temporary: Path) -> None:
    """Somebody who made it first in the world-writable /tmp could feed us numbers."""
    base = temporary / f"isolation-monitor-{os.getuid()}"
    base.mkdir()
    base.chmod(0o777)

    assert open_group("chat", None).path is None


def test_an_argument_wins_over_the_environment_and_both_over_the_choice(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLATION_METRICS_DIR", str(temporary / "environment"))

    assert open_group("chat", temporary / "argument").path == temporary / "argument" / "chat"
    assert open_group("chat", None).path == temporary / "environment" / "chat"


def test_folders_of_dead_leaders_go_and_others_stay(temporary: Path, dead: ProcessId) -> None:
    base = temporary / "base"
    own = ProcessId.of(os.getpid())
    stale = base / f"chat-{dead}"
    orphaned = base / f"chat-{dead.pid}-{dead.start + 1}-{dead.namespace}"
    reused = base / f"chat-{own.pid}-{own.start - 5}-{own_namespace()}"
    living = base / f"chat-{own}"
    strange = base / "notes"
    for folder in (stale, orphaned, reused, living, strange):
        folder.mkdir(parents=True)
        (folder / "archive.jsonl").write_text("")
    (stale / f"w-{dead}-0.series").write_text("")
    (orphaned / f"w-{own}-0.series").write_text("")

    remove_stale_groups(base)

    assert {path.name for path in base.iterdir()} == {orphaned.name, living.name, strange.name}


def test_two_cleaners_at_once_do_not_disturb_each_other(temporary: Path, dead: ProcessId) -> None:
    base = temporary / "base"
    for number in range(40):
        folder = base / f"chat-{dead.pid}-{dead.start + number}-{dead.namespace}"
        folder.mkdir(parents=True)
        (folder / "archive.jsonl").write_text("")
    errors: list[BaseException] = []

    def clean() -> None:
        try:
            remove_stale_groups(base)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=clean) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert list(base.iterdir()) == []


def test_another_containers_group_stays_while_a_worker_holds_its_file(temporary: Path) -> None:
    """A shared /tmp shows folders whose process ids mean nothing here; the file lock still tells."""
    import fcntl

    base = temporary / "base"
    folder = base / "chat-7-7-abcdef"
    folder.mkdir(parents=True)
    worker = folder / "w-9-9-abcdef-0.series"
    with worker.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        for path in (worker, folder):
            os.utime(path, (1, 1))
        remove_stale_groups(base)
        assert worker_is_alive(worker)
        assert folder.exists()

    remove_stale_groups(base)

    assert not folder.exists()


def test_a_single_process_leaves_nothing_behind(temporary: Path) -> None:
    registry = MetricRegistry("chat")
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc()
    folder = registry.directory
    assert folder is not None
    assert len(list(folder.iterdir())) == 2

    registry.close()

    assert not folder.exists()


def test_a_process_that_ends_without_closing_leaves_nothing_behind(temporary: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    code = "from isolation_monitor.telemetry.metrics import MetricRegistry; print(MetricRegistry('chat').directory)"
    output, _ = python(code, TMPDIR=str(temporary)).communicate(timeout=60)

    assert Path(output.strip()).parent == temporary / f"isolation-monitor-{os.getuid()}"
    assert not Path(output.strip()).exists()


def test_a_killed_process_is_cleaned_up_by_the_next_start(temporary: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    code = (
        "from isolation_monitor.telemetry.metrics import MetricRegistry\n"
        "registry = MetricRegistry('chat')\nprint(registry.directory, flush=True)\ninput()"
    )
    process = python(code, TMPDIR=str(temporary))
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()

    MetricRegistry("other-service").close()

    assert not folder.exists()


def test_a_folder_that_was_named_is_never_removed(tmp_path: Path) -> None:
    registry = MetricRegistry("chat", tmp_path)
    registry.close()

    assert (tmp_path / "chat").is_dir()


def test_two_registries_of_one_process_add_up(temporary: Path) -> None:
    first, second = MetricRegistry("chat"), MetricRegistry("chat")
    for registry in (first, second):
        registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(2)

    assert first.value(names.WEBSOCKET_MESSAGES, direction="sent") == 4.0
    first.close()
    assert second.value(names.WEBSOCKET_MESSAGES, direction="sent") == 4.0
    second.close()
    assert first.directory is not None
    assert not first.directory.exists()
