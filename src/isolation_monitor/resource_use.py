"""What a stretch of a program uses and leaves behind: CPU, peak memory, file handles, threads and processes of this process.

Units: seconds and bytes. Sources: proc(5) for handles, processes and memory (`clear_refs` 5 lowers the high-water mark `VmHWM` to
the present use), getrusage(2) for CPU. Where a system has no such source the value is None, never a guess. Standard library only.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

PROC: Final = Path("/proc")
SETTLE_S: Final = 0.5
"""So long may what a test has just closed take to end: threads that were told to, processes that were killed."""
_LOOK_EVERY_S: Final = 0.02
_COMMAND_CHARS: Final = 80

MemoryMethod = Literal["peak", "growth", "none"]
"""peak: the highest resident use of the stretch itself; growth: by how much it had grown at its end; none: not known here."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one of the same number by when it began (clock ticks since boot)."""

    pid: int
    began: int
    is_zombie: bool
    command: str

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.began

    def __str__(self) -> str:
        return f"{'zombie' if self.is_zombie else 'process'} {self.pid} {self.command}".rstrip()


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at a moment. None: this system does not tell."""

    handles: Counter[str] | None
    """What open handles lead to, and how many lead there."""
    threads: frozenset[threading.Thread]
    processes: dict[tuple[int, int], Process] | None

    def beyond(self, before: Held) -> Held:
        """Return what is held here and was not before."""
        handles = None if self.handles is None or before.handles is None else self.handles - before.handles
        processes = None
        if self.processes is not None and before.processes is not None:
            processes = {key: one for key, one in self.processes.items() if key not in before.processes}
        return Held(handles, self.threads - before.threads, processes)

    @property
    def is_empty(self) -> bool:
        return not (self.handles or self.threads or self.processes)

    def named(self) -> list[str]:
        """Return a short text for each thing that is held, the gravest first."""
        texts = [str(one) for one in (self.processes or {}).values()]
        texts += sorted(f"thread {one.name}{' (daemon)' if one.daemon else ''}" for one in self.threads)
        texts += [f"{number} x {target}" if number > 1 else target for target, number in sorted((self.handles or Counter()).items())]
        return texts


NOTHING: Final = Held(Counter(), frozenset(), {})


def held(mark: str = "") -> Held:
    """Return what this process holds now.

    `mark` is an environment variable's `NAME=value` that this process was given: processes that carry it count as well, also those
    whose parent has ended.
    """
    threads = frozenset(one for one in threading.enumerate() if one is not threading.main_thread() and one.is_alive())
    return Held(_handles(), threads, _processes(mark.encode()))


def left(before: Held, mark: str = "", *, but: Held = NOTHING, settle_s: float = SETTLE_S) -> Held:
    """Return what has come since `before` and stays, without what is in `but`.

    What has no owner any more is collected first, and what ends within `settle_s` has not been left; nobody waits where nothing is.
    """
    found = held(mark).beyond(before).beyond(but)
    if found.is_empty:
        return found
    gc.collect()
    until = time.monotonic() + settle_s
    while not (found := held(mark).beyond(before).beyond(but)).is_empty and time.monotonic() < until:
        if not (found.threads or found.processes):
            # A handle does not close by itself once its owner was collected.
            break
        time.sleep(_LOOK_EVERY_S)
    return found


def cpu_s() -> float:
    """Return the CPU time of this process and of those children that have ended and were waited for."""
    if sys.platform == "win32":
        return time.process_time()
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class MemoryPeak:
    """The highest resident memory of stretches of this process. `highest_bytes`: of all that were looked at."""

    def __init__(self) -> None:
        self.method: MemoryMethod = "none"
        self.highest_bytes = 0
        self._at_start = 0
        if _status_bytes("VmRSS:") is not None:
            self.method = "peak" if self._lower_mark() else "growth"

    def begin(self) -> None:
        """Start a stretch."""
        self.look()
        if self.method == "peak":
            self._lower_mark()
        elif self.method == "growth":
            self._at_start = _status_bytes("VmRSS:") or 0

    def end(self) -> int | None:
        """Return the stretch's peak in bytes, or its growth, as `method` says; None where neither is known."""
        if self.method == "none":
            return None
        high = self.look()
        return high if self.method == "peak" else (_status_bytes("VmRSS:") or 0) - self._at_start

    def look(self) -> int:
        """Return the high-water mark as it is now."""
        high = _status_bytes("VmHWM:") or 0
        self.highest_bytes = max(self.highest_bytes, high)
        return high

    @staticmethod
    def _lower_mark() -> bool:
        try:
            (PROC / "self/clear_refs").write_text("5")
        except OSError:
            return False
        return True


def _status_bytes(field: str) -> int | None:
    try:
        with (PROC / "self/status").open() as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
    except OSError:
        return None


def _handles() -> Counter[str] | None:
    folder = PROC / "self/fd"
    try:
        links = list(folder.iterdir())
    except OSError:
        return None
    targets: Counter[str] = Counter()
    for link in links:
        # The one that lists the folder is closed again by now.
        try:
            targets[str(link.readlink())] += 1
        except OSError:
            continue
    return targets


def _processes(mark: bytes) -> dict[tuple[int, int], Process] | None:
    """Return the descendants of this process and those that carry `mark`, without Python's own helpers."""
    try:
        pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return None
    every = {pid: stat for pid in pids if (stat := _stat(pid)) is not None}
    if not every:
        return None
    mine, own = os.getpid(), _helpers()
    children: dict[int, list[int]] = {}
    for pid, (parent, _began, _state) in every.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = list(children.get(mine, ()))
    while waiting:
        pid = waiting.pop()
        if pid not in own:
            found.append(pid)
            waiting += children.get(pid, ())
    if mark:
        known = {mine, *own, *found}
        began = every[mine][1] if mine in every else 0
        found += [pid for pid, stat in every.items() if pid not in known and stat[1] >= began and _carries(pid, mark)]
    return {(pid, every[pid][1]): Process(pid, every[pid][1], every[pid][2] == "Z", _command(pid)) for pid in found}


def _stat(pid: int) -> tuple[int, int, str] | None:
    """Return parent, start and state of a process; None when it has gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name is in parentheses and may hold blanks and parentheses itself; field 3, the state, follows the last one.
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[19]), fields[0]


def _carries(pid: int, mark: bytes) -> bool:
    try:
        return mark in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _command(pid: int) -> str:
    for name in ("cmdline", "comm"):
        try:
            text = (PROC / str(pid) / name).read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if text:
            return text if len(text) <= _COMMAND_CHARS else text[: _COMMAND_CHARS - 1] + "…"
    return ""


def _helpers() -> set[int]:
    """Return the processes that `multiprocessing` keeps for the life of a program."""
    found: Iterable[tuple[str, str, str]] = (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    )
    pids = set()
    for module, name, attribute in found:
        # Looked up, not imported: a program that never used them has none.
        pid = getattr(getattr(sys.modules.get(module), name, None), attribute, None)
        if isinstance(pid, int):
            pids.add(pid)
    return pids
