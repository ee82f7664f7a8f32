"""Dead letters: records that the collector will never take, kept in a bounded file for people to look at.

`dead-letters.jsonl` in the folder of the spool, one line a batch: when, the status, the collector's reason, the records.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from isolation_monitor.telemetry import filelock
from isolation_monitor.telemetry.violations import iso_time

NAME: Final = "dead-letters.jsonl"
OLDER: Final = "dead-letters.1.jsonl"
LIMIT_BYTES: Final = 4_194_304
"""Of the file; the one before it is kept as well, so twice as much lies there at most."""


def write(folder: Path, status: int, reason: str, records: list[Any]) -> None:
    """Add a batch that was refused for good.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    line = json.dumps({"time": iso_time(time.time()), "status": status, "reason": reason, "records": records}).encode() + b"\n"
    # Several processes of a service write here.
    with filelock.exclusive(folder / "dead-letters.lock", wait=True):
        path = folder / NAME
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size + len(line) > LIMIT_BYTES:
                path.replace(folder / OLDER)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            written = os.write(descriptor, line)
            if written < len(line):
                os.ftruncate(descriptor, before)
                raise OSError(f"wrote {written} of {len(line)} bytes: the disk is full")
        finally:
            os.close(descriptor)
