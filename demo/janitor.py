"""Cleans up after a driver that died: ends its processes and removes its files, even after `kill -9`.

The driver starts it first and holds the writing end of its standard input. Each line names something to clean:
`group PGID` or `path PATH`; `forget PGID` takes a group back. When the input ends, the driver is gone, whatever the
reason: every group gets SIGTERM, then SIGKILL, and every path is removed. A driver that has cleaned up by itself
leaves nothing to do.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TERM_GRACE_S = 3.0
POLL_S = 0.05


def main() -> None:
    """Read names until the driver is gone, then clean."""
    # A Ctrl-C in the terminal and a stop of the whole service reach every process; the janitor goes last.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    paths: list[Path] = []
    for line in sys.stdin:
        word, _, value = line.rstrip("\n").partition(" ")
        if word == "group":
            groups.add(int(value))
        elif word == "forget":
            groups.discard(int(value))
        elif word == "path":
            paths.append(Path(value))
    end_groups(groups)
    remove(paths)


def end_groups(groups: Iterable[int], grace_s: float = TERM_GRACE_S) -> None:
    """End process groups: SIGTERM, `grace_s` seconds to obey, then SIGKILL; return when none is left or all were killed."""
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = {group for group in left if alive(group)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; return whether it had a process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def alive(group: int) -> bool:
    """Return whether a process group has a process that is no zombie; one to be reaped by its parent has ended."""
    return any(member_group == group and state not in "ZX" for member_group, state in _processes())


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders; what is gone already is no error."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _processes() -> Iterable[tuple[int, str]]:
    """Yield process group and state of every process of this machine, from /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                # The name in brackets may contain anything, spaces and brackets too: read behind the last one.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(fields[2]), fields[0]


if __name__ == "__main__":
    main()
