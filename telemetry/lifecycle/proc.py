"""What the system says of this process: open handles, sockets and children. From Linux's /proc; empty elsewhere."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SELF: Final = Path("/proc/self")
_HELPERS: Final = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Children that Python itself keeps until the process ends."""
_TCP_STATES: Final = {1: "established", 6: "time-wait", 8: "close-wait", 10: "listening"}


@dataclass(frozen=True, slots=True)
class Child:
    """One child process; `started` tells apart those that had the same pid one after the other."""

    pid: int
    started: int
    name: str
    is_zombie: bool


def handles() -> dict[tuple[int, str], str]:
    """Return what the file descriptors lead to, by number and target: the same number with another target is another handle."""
    found: dict[tuple[int, str], str] = {}
    try:
        links = list((_SELF / "fd").iterdir())
    except OSError:
        return found
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            # The listing's own, or one that was closed just now.
            continue
        if not target.startswith("/proc/"):
            found[int(link.name), target] = target
    return found


def children() -> list[Child]:
    """Return the child processes, dead ones that nobody waited for included, without the helpers of Python itself."""
    pids: set[int] = set()
    try:
        for thread in (_SELF / "task").iterdir():
            pids.update(map(int, (thread / "children").read_bytes().split()))
    except (OSError, ValueError):
        pids = _children_by_parent()
    found = [_child(pid) for pid in pids]
    return [one for one in found if one is not None and not _is_helper(one.pid)]


def _children_by_parent() -> set[int]:
    """As a kernel without `children` files has it: every process says who its parent is."""
    own, found = str(os.getpid()).encode(), set()
    try:
        numbers = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
    except OSError:
        return set()
    for pid in numbers:
        stat = _stat(pid)
        if stat is not None and stat[1][1] == own:
            found.add(pid)
    return found


def _child(pid: int) -> Child | None:
    stat = _stat(pid)
    if stat is None:
        return None
    name, fields = stat
    return Child(pid, int(fields[19]), name, fields[0] in (b"Z", b"X"))


def _stat(pid: int) -> tuple[str, list[bytes]] | None:
    """Return a process's name and the fields after it: state, parent, … (proc(5), fields 3 and up)."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    except OSError:
        return None
    fields = tail.split()
    return (head.partition(b"(")[2].decode("utf-8", "replace"), fields) if len(fields) > 19 else None


def _is_helper(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(helper in command for helper in _HELPERS)


def sockets() -> dict[str, tuple[int, int, str]]:
    """Return the network sockets of this process's namespace by target (`socket:[12]`): local port, remote port, and a description.

    Reads tables of the whole machine: only for who has something to explain.
    """
    found: dict[str, tuple[int, int, str]] = {}
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        try:
            lines = (_SELF / "net" / protocol).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            try:
                (local, port), (remote, remote_port) = _address(fields[1]), _address(fields[2])
                state = _TCP_STATES.get(int(fields[3], 16), "") if protocol.startswith("tcp") else ""
            except (ValueError, OSError, IndexError):
                continue
            text = f"{protocol} {local}:{port}" + (f" to {remote}:{remote_port}" if remote_port else "") + (f", {state}" if state else "")
            found[f"socket:[{fields[9]}]"] = (port, remote_port, text)
    return found


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed), int(port, 16)
