"""Groups: which processes count together, the folder that they share, and when that folder may go.

A group is the workers of one service under one leader. The leader is this process, or its parent when this process is a
worker of a multi-worker server; nothing has to be set in the environment first. Its identity is its process id and its
start time, so a reused id is never taken for the old process.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry import filelock

LOGGER: Final = logging.getLogger("isolation_monitor.telemetry.metrics")
DIRECTORY_VARIABLE: Final = "ISOLATION_METRICS_DIR"
SERIES_SUFFIX: Final = ".series"
CELLS_SUFFIX: Final = ".cells"
CLOSED_SUFFIX: Final = ".closed"
"""A file with this ending says that its process lives on but writes no more."""
ARCHIVE: Final = "archive.jsonl"
LOCK: Final = "lock"
_HAS_PROC: Final = Path("/proc/self/stat").exists()
_NEW_S: Final = 60.0
_GROUP_NAME: Final = re.compile(r"-(\d+)-(\d+)-([0-9a-f]+)$")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for ever: its id, its start time (clock ticks since boot; 0 where unknown) and its process-id namespace."""

    pid: int
    start: int
    namespace: str

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.namespace}"

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify the process that has `pid` now."""
        return cls(pid, start_time(pid) or 0, own_namespace())

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where this process cannot know (another container's)."""
        if self.namespace != own_namespace():
            return None
        if _HAS_PROC:
            return start_time(self.pid) == self.start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started; None when it is gone, a zombie, or the system is not Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name may hold spaces and brackets: fields are counted from the last bracket.
    state, *rest = stat[stat.rindex(b")") + 2 :].split()
    return None if state in (b"Z", b"X") else int(rest[18])


def own_namespace() -> str:
    """The process-id namespace, hexadecimal; "0" where there is none."""
    try:
        return f"{Path('/proc/self/ns/pid').stat().st_ino:x}"
    except OSError:
        return "0"


def find_leader() -> ProcessId:
    """Return the process whose life is the group's life: the server that started this worker, otherwise this process."""
    server = _server_of_this_worker()
    if server is not None and (start_time(server) is not None or not _HAS_PROC):
        return ProcessId.of(server)
    return ProcessId.of(os.getpid())


def _server_of_this_worker() -> int | None:
    if "gunicorn.arbiter" in sys.modules and _is_forked_by_arbiter():
        return os.getppid()
    # uvicorn --workers, hypercorn and granian start workers by multiprocessing.
    started_by = multiprocessing.parent_process()
    if started_by is not None:
        return started_by.pid
    # uWSGI and hand-made pre-forking: the parent is the same program with the same arguments.
    program = _program(os.getpid())
    return os.getppid() if program is not None and program == _program(os.getppid()) else None


def _is_forked_by_arbiter() -> bool:
    """Whether the main thread is inside gunicorn's `spawn_worker`: a worker's whole life is, the arbiter's is not.

    The command line cannot tell, as gunicorn may retitle its processes.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "spawn_worker" and frame.f_globals.get("__name__") == "gunicorn.arbiter":
            return True
        frame = frame.f_back
    return False


def _program(pid: int) -> tuple[str, bytes] | None:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()), Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Group:
    """A folder of counters. `path` is None when no folder can be made: then this process counts alone."""

    path: Path | None
    leader: ProcessId
    is_chosen: bool
    """Whether the folder was chosen by us, so that we may remove it."""

    def owned_by_this_process(self) -> bool:
        """Whether this process is the leader of a folder that we chose."""
        return self.is_chosen and self.leader.pid == os.getpid()


def open_group(service: str, directory: Path | None) -> Group:
    """Make, or join, the folder of `service`'s group.

    `directory` (or the environment's ISOLATION_METRICS_DIR) is shared by everything that names it, with a folder per
    service in it; otherwise a folder per leader is chosen under the temporary folder, readable by this user only.
    """
    leader = find_leader()
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", service)[:64].lstrip(".") or "service"
    setting = directory or os.environ.get(DIRECTORY_VARIABLE)
    path: Path | None
    try:
        if setting:
            path = Path(setting) / name
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            base = _base_directory()
            remove_stale_groups(base)
            path = base / f"{name}-{leader}"
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        LOGGER.warning("metrics of several workers cannot be added up, each shows its own: %s", error)
        path = None
    return Group(path, leader, not setting)


def _base_directory() -> Path:
    """The user's folder under the temporary folder.

    Raises:
        PermissionError: somebody else made it first, so it cannot be trusted.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    base = Path(tempfile.gettempdir()) / f"isolation-monitor-{user}"
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if hasattr(os, "getuid") and (found.st_uid != user or not base.is_dir() or base.is_symlink() or found.st_mode & 0o022):
        raise PermissionError(f"{base} is not this user's own folder: remove it, or set {DIRECTORY_VARIABLE}")
    return base


def remove_stale_groups(base: Path) -> None:
    """Remove the groups whose leader and workers are all dead. Several processes may do this at once."""
    for path in _entries(base):
        named = _GROUP_NAME.search(path.name)
        if named is None:
            continue
        leader = ProcessId(int(named[1]), int(named[2]), named[3])
        alive = leader.is_alive()
        if alive or any(map(worker_is_alive, series_files(path))):
            continue
        # Of another container's leader only its workers' locks are known, and a server may be between two workers.
        if alive is None and _age_s(path) < 3600:
            continue
        shutil.rmtree(path, ignore_errors=True)


def series_files(path: Path) -> list[Path]:
    """The workers' files in a group's folder, in a stable order; none when the folder is gone or cannot be read."""
    try:
        return sorted(path.glob(f"w-*{SERIES_SUFFIX}"))
    except OSError:
        return []


def worker_is_alive(series_file: Path) -> bool:
    """Whether the worker that writes `series_file` still runs: by its id, or by its file lock where the id is another namespace's."""
    if series_file.with_suffix(CLOSED_SUFFIX).exists():
        return False
    named = re.search(r"^w-(\d+)-(\d+)-([0-9a-f]+)-\d+$", series_file.stem)
    if named is None:
        return False
    alive = ProcessId(int(named[1]), int(named[2]), named[3]).is_alive()
    if alive is not None:
        return alive
    # The lock is taken just after the file is made.
    return _age_s(series_file) < _NEW_S or not filelock.is_free(series_file)


def _entries(base: Path) -> list[Path]:
    try:
        return [path for path in base.iterdir() if path.is_dir()]
    except OSError:
        return []


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
