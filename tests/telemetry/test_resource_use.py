"""What a stretch of a program leaves behind, found in the real tables of this process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from isolation_monitor.resource_use import Held, MemoryPeak, held, left

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")


def test_a_file_that_stays_open_is_left_behind(tmp_path: Path) -> None:
    before = held()

    with (tmp_path / "log").open("w"):
        found = left(before)

    assert found.named() == [str(tmp_path / "log")]
    assert left(before).is_empty


class Cycle:
    """Holds a pipe's end and itself: only the collector of garbage lets go of it."""

    def __init__(self) -> None:
        self.me = self
        self.end, other = os.pipe()
        os.close(other)

    def __del__(self) -> None:
        os.close(self.end)


def test_what_garbage_holds_is_not_left_behind() -> None:
    """It goes with the next collection, however many tests there are."""
    before = held()

    Cycle()

    assert left(before).is_empty


def test_a_thread_that_ends_soon_is_awaited_and_one_that_stays_is_named() -> None:
    before, end = held(), threading.Event()
    short = threading.Thread(target=lambda: threading.Event().wait(0.05), name="short")
    long = threading.Thread(target=end.wait, name="long")
    short.start()
    long.start()

    found = left(before)
    end.set()
    long.join()

    assert [one.name for one in found.threads] == ["long"]
    assert left(before).is_empty


def test_a_child_that_was_never_waited_for_is_a_zombie() -> None:
    before = held()
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    found = left(before, settle_s=0)

    assert [(one.pid, one.is_zombie) for one in (found.processes or {}).values()] == [(child.pid, True)]
    child.wait()
    assert left(before).is_empty


def test_a_daemon_whose_parent_has_ended_is_found_by_its_mark() -> None:
    """It is nobody's child any more; the environment that it inherited tells whose it was."""
    before = held("ISOMON_TEST_MARK=1")
    environment = os.environ | {"ISOMON_TEST_MARK": "1"}
    done = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], env=environment, capture_output=True, text=True, check=True)
    daemon = int(done.stdout)

    try:
        found = left(before, "ISOMON_TEST_MARK=1", settle_s=0.2)
    finally:
        os.kill(daemon, 9)

    assert [one.pid for one in (found.processes or {}).values()] == [daemon]


def test_the_peak_of_a_stretch_is_its_own() -> None:
    """80 MB of one test must not stand beside every later one."""
    memory = MemoryPeak()
    if memory.method != "peak":
        pytest.skip("this system does not let the high-water mark be lowered")
    size = 80_000_000

    memory.begin()
    large = bytearray(size)
    large[::4096] = b"\1" * len(large[::4096])
    with_it = memory.end()
    del large
    memory.begin()
    without_it = memory.end()

    assert with_it is not None
    assert without_it is not None
    assert with_it - without_it > size / 2
    assert memory.highest_bytes >= with_it


def test_what_a_system_does_not_tell_stays_unknown() -> None:
    """Zero would be a promise."""
    unknown = Held(None, frozenset(), None)

    assert held().beyond(unknown).handles is None
    assert held().beyond(unknown).processes is None
