"""What a process holds, and what of it is left when it has cleaned up: compared with what it held before it started.

Counted are asyncio tasks of the application's loop, threads, children, zombies, file handles and pipes, sockets, and temporary
files. Left out is what is nobody's leftover: the monitor's own, what the server runs, threads of a pool that wait for their
next job where the loop or AnyIO ends them, and files that `logging` writes to until the end.

Cannot see: threads that Python did not start; temporary files that are neither open nor registered by `temporary()`, because
nothing tells whose they are; and on other systems than Linux handles, sockets and children.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from isolation_monitor.telemetry import awaiting, running, stacks
from isolation_monitor.telemetry.lifecycle import proc

if TYPE_CHECKING:
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.settings import Settings

SHOWN_LIMIT: Final = 20
"""Descriptions of one resource that a report carries."""

_OWN: Final = str(Path(__file__).resolve().parent.parent) + os.sep
_SERVERS: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("uvicorn", "gunicorn", "hypercorn", "daphne", "granian"))
_OWN_THREADS: Final = "isolation-"
_HARMLESS: Final = ("/dev/null", "/dev/urandom", "/dev/random", "/memfd:")


@dataclass(frozen=True, slots=True)
class Left:
    """What is left: by resource of `names.LEFT_RESOURCES` a description of each, and how many there are of each."""

    counts: dict[str, int] = field(default_factory=dict)
    descriptions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Own:
    """What of the process is the monitor's own: folders of its files, ports that it listens on or connects to."""

    folders: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset()


def own_of(settings: Settings, ledger: Ledger, health_port: int | None) -> Own:
    """Return what belongs to the monitor with these settings; `health_port` is the bound one, None for none."""
    url = urlsplit(settings.collector_url or "")
    collector = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    folder = ledger.outbox.folder
    folders = (ledger.registry.directory, folder.path if folder is not None else None)
    ports = frozenset({settings.metrics_port, health_port or 0, collector} - {0})
    return Own(tuple(str(one) for one in folders if one is not None), ports)


class Baseline:
    """What the process held at one moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.tasks: weakref.WeakSet[Any] = weakref.WeakSet(_tasks(loop))
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet(threading.enumerate())
        self.handles = set(proc.handles())
        self.children = {(one.pid, one.started) for one in proc.children()}

    def take_out(self, before: Baseline, after: Baseline) -> None:
        """Leave out what came between two other moments."""
        self.tasks -= after.tasks - before.tasks
        self.threads -= after.threads - before.threads
        self.handles -= after.handles - before.handles
        self.children -= after.children - before.children


def left_since(
    baseline: Baseline,
    loop: asyncio.AbstractEventLoop | None,
    own: Own,
    *,
    excused: Iterable[object] = (),
    temporary: Iterable[str] = (),
) -> Left:
    """Return what the process holds now and did not hold then.

    Args:
        excused: tasks and threads that are there on purpose: those of whoever asks.
        temporary: files and folders that were registered.
    """
    tasks = _tasks(loop)
    known = set(map(id, (*excused, *_of_servers(tasks))))
    found: dict[str, list[str]] = {
        "tasks": [_describe_task(task) for task in tasks if task not in baseline.tasks and id(task) not in known and not task.done()],
        "threads": [
            _describe_thread(thread)
            for thread in threading.enumerate()
            if thread not in baseline.threads
            and id(thread) not in known
            and not thread.name.startswith(_OWN_THREADS)
            and not _waits_in_a_pool(thread, loop)
        ],
    }
    new = [one for one in proc.children() if (one.pid, one.started) not in baseline.children]
    found["children"] = [f"process {one.pid} ({one.name})" for one in new if not one.is_zombie]
    found["zombies"] = [f"process {one.pid} ({one.name}) has ended and nobody waited for it" for one in new if one.is_zombie]
    opened = {key: target for key, target in proc.handles().items() if key not in baseline.handles and not _is_ours(target, own.folders)}
    written = _written_by_logging()
    files = {number: target for (number, target) in opened if not target.startswith("socket:") and number not in written}
    found["files"] = [f"handle {number}: {target}" for number, target in sorted(files.items())]
    found["sockets"] = _sockets([key for key in opened if key[1].startswith("socket:")], own.ports)
    registered = {path for path in temporary if os.path.lexists(path)}
    found["temporary_files"] = sorted(registered | {target for target in files.values() if _is_temporary(target)})
    return Left(
        {resource: len(each) for resource, each in found.items()},
        {resource: each[:SHOWN_LIMIT] for resource, each in found.items() if each},
    )


# --- tasks and threads ------------------------------------------------------------------------------------------------


def _tasks(loop: asyncio.AbstractEventLoop | None) -> list[Any]:
    if loop is None or loop.is_closed():
        return []
    try:
        return list(asyncio.all_tasks(loop))
    except RuntimeError:
        # It walks a set that changes under it, and has tried a thousand times.
        return []


def _of_servers(tasks: list[Any]) -> list[Any]:
    """Return the tasks that servers run, and those that they wait for: `wait_for` makes one of what it is given."""
    found: list[Any] = []
    for task in filter(_is_of_server, tasks):
        while task is not None and all(task is not one for one in found):
            found.append(task)
            task = awaiting.first_of(task)
            if running.request_of_task(task) is not None:
                break
    return found


def _is_of_server(task: Any) -> bool:
    """Return whether a task is the server's, or ours, and works for no request."""
    code = _code_of(task)
    if code is None:
        return False
    real = os.path.realpath(code.co_filename)
    if real.startswith(_OWN):
        return True
    return any(server in real for server in _SERVERS) and running.request_of_task(task) is None


def _code_of(task: Any) -> CodeType | None:
    coroutine = asyncio.Task.get_coro(task) if isinstance(task, asyncio.Task) else None
    code = getattr(coroutine, "cr_code", None)
    return code if isinstance(code, CodeType) else None


def _describe_task(task: Any) -> str:
    # Its own name is left out: it may hold a user's id.
    code = _code_of(task)
    return "a task" if code is None else f"task of {stacks.render(((code, -1),))[0]}"


def _describe_thread(thread: threading.Thread) -> str:
    seen = running.stack_of_thread(thread.ident) if thread.ident is not None else None
    where = stacks.render(seen[1])[-1:] if seen is not None else []
    kind = "daemon" if thread.daemon else "not a daemon: the process waits for it"
    return f"thread {thread.name!r} ({kind})" + (f" at {where[0]}" if where else "")


def _waits_in_a_pool(thread: threading.Thread, loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether a thread waits for its next job in a pool that is ended with the loop: its executor, or AnyIO's."""
    if thread.ident is None:
        return True
    seen = running.stack_of_thread(thread.ident)
    if seen is None:
        return True
    waits_in = next((code for code, _ in seen[1] if Path(code.co_filename).name not in ("queue.py", "threading.py")), None)
    if waits_in is None:
        return False
    if waits_in.co_qualname == "_worker" and Path(waits_in.co_filename).parts[-3:] == ("concurrent", "futures", "thread.py"):
        executor = getattr(loop, "_default_executor", None)
        return executor is not None and thread in getattr(executor, "_threads", ())
    return waits_in.co_qualname == "WorkerThread.run" and f"{os.sep}anyio{os.sep}" in waits_in.co_filename


# --- handles ----------------------------------------------------------------------------------------------------------


def _is_ours(target: str, folders: Iterable[str]) -> bool:
    return target.startswith(_HARMLESS) or any(target.startswith(folder + os.sep) for folder in folders)


def _written_by_logging() -> set[int]:
    """Return the handles of the files that the standard library's handlers write to: `logging.shutdown` closes them last."""
    found = set()
    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference() if isinstance(reference, weakref.ref) else None
        if handler is None or not type(handler).__module__.startswith("logging"):
            continue
        stream = vars(handler).get("stream")
        if stream is not None and type(stream).__module__ == "_io":
            try:
                found.add(stream.fileno())
            except (OSError, ValueError):
                continue
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if isinstance(number := getattr(tracker, "_fd", None), int):
        found.add(number)
    return found


def _sockets(keys: list[tuple[int, str]], own_ports: frozenset[int]) -> list[str]:
    if not keys:
        return []
    known = proc.sockets()
    found = []
    for number, target in sorted(keys):
        local, remote, text = known.get(target, (0, 0, "not of a network, or closed by the other side"))
        if local not in own_ports and remote not in own_ports:
            found.append(f"handle {number}: {text}")
    return found


def _is_temporary(target: str) -> bool:
    """Return whether an open file lies in the temporary folder and is still there: one without a name goes with its handle."""
    return target.startswith(tempfile.gettempdir() + os.sep) and os.path.lexists(target)
