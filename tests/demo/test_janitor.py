"""The janitor: ends process groups and removes files once its driver is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from isolation_monitor.demo import janitor
from isolation_monitor.demo.processes import Janitor

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def stubborn_process() -> subprocess.Popen[str]:
    """A process that ignores SIGTERM, in a group of its own, and has said that it does."""
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_group_that_ignores_sigterm_is_killed() -> None:
    with stubborn_process() as process:
        janitor.end_groups([process.pid], grace_s=0.2)

        assert process.wait(20) == -signal.SIGKILL


def test_an_ended_group_is_not_alive_even_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as process:
        deadline = time.monotonic() + 20
        while janitor.alive(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_closing_the_janitor_ends_what_it_watches_and_leaves_what_it_was_told_to_forget(tmp_path: Path) -> None:
    folder, file, other = tmp_path / "folder", tmp_path / "file", tmp_path / "other"
    folder.mkdir()
    (folder / "inner").write_text("x")
    file.write_text("x")
    other.write_text("x")
    guard = Janitor()
    with stubborn_process() as watched, stubborn_process() as forgotten:
        for process in (watched, forgotten):
            guard.watch_group(process.pid)
        guard.forget_group(forgotten.pid)
        for path in (folder, file, tmp_path / "never made"):
            guard.watch_path(path)

        guard.close(timeout_s=30)

        assert watched.wait(20) == -signal.SIGKILL
        assert forgotten.poll() is None
        forgotten.kill()
    assert sorted(tmp_path.iterdir()) == [other]
