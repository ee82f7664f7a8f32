"""What telemetry reads that others may have changed: files of the spool. And what it does to every record: redaction."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry.records.batches import Batch, pack
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.redaction import redacted
from isolation_monitor.telemetry.records.spool import Spool
from isolation_monitor.telemetry.records.spool_file import LOCK_SUFFIX, SUFFIX, SpoolFile
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder

_NAME: Final = "1-0123abcd"
_PAGE_BYTES: Final = 512
_MEMORY: Final = Path("/dev/shm")
"""Where there is one, files are in memory: the disk is not what is fuzzed."""


class _Silent(QuietLog):
    """Says nothing: that files are damaged is nothing new here."""

    def warn(self, about: str, text: str, *args: object) -> None:
        text % args


def spool(data: bytes) -> None:
    """A file that a process before this one left: whatever is in it, its records are sent or given up, and nothing is raised."""
    with tempfile.TemporaryDirectory(prefix="isomon-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as base:
        folder = SpoolFolder(base, "chat")
        folder.make()
        file = folder.path / (_NAME + SUFFIX)
        file.write_bytes(data)
        file.with_suffix(LOCK_SUFFIX).touch()
        lost: list[str] = []
        reader = Spool(folder, 1 << 20, 100, lambda what, number: lost.append(what), _Silent())
        try:
            passed = set()
            for _ in range(20):
                found = reader.next(passed)
                if found is None:
                    break
                store, batch = found
                is_whole(batch)
                # By turns it was too large, was taken, and has to wait.
                if batch.number % 3 == 0 and reader.split(store, batch):
                    continue
                if batch.number % 3 == 1:
                    reader.done(store, batch)
                passed.add((store, batch.number))
            assert reader.records >= 0
            assert reader.used_bytes >= 0
            # What is new is kept beside what is broken, also where the folder is nearly full.
            reader.add(pack([{"type": "violation", "id": "v", "grade": "crossed"}], "host:1", lambda error: None))
        finally:
            reader.close(10)


def is_whole(batch: Batch) -> None:
    assert 0 <= batch.gravity <= 3
    assert batch.records >= 0
    batch.instance.encode()
    try:
        batch.text()
    except zlib.error:
        # A checksum that was made for it: the sender buries it.
        pass


def spool_seeds() -> Sequence[bytes]:
    """Return small files: pages of 512 bytes, so that a fuzzer comes to all parts of one."""
    with tempfile.TemporaryDirectory(prefix="isomon-fuzz-") as name:
        found = []
        for records in (0, 1, 3):
            path = Path(name) / f"{records}-0123abcd{SUFFIX}"
            connection = sqlite3.connect(path)
            connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")
            connection.close()
            path.with_suffix(LOCK_SUFFIX).touch()
            file = SpoolFile.adopt(path)
            assert file is not None
            for number in range(records):
                file.add(pack([{"type": "violation", "id": f"v-{number}", "grade": "crossed"}] * (number + 1), "h:1", lambda error: None))
            file.let_go()
            found.append(path.read_bytes())
    return found


def redaction(data: bytes) -> None:
    """Any record comes out as JSON of the same shape, and what came out once comes out again."""
    try:
        text = json.dumps({"detail": json.loads(data)}, allow_nan=False)
    except (ValueError, RecursionError):
        return
    once = redacted(text)
    assert redacted(once) == once
    assert list(json.loads(once)) == ["detail"]
    # What goes on is what UTF-8 can carry.
    once.encode()


def redaction_seeds() -> Sequence[bytes]:
    texts = [
        {"password": "hunter2", "url": "postgres://app:hunter2@db/chat", "list": ["Bearer abcdefghijkl", "token=abc", 1.5, None]},
        ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln", "AKIAIOSFODNN7EXAMPLE", "ann@example.com", "-----BEGIN PRIVATE KEY-----"],
    ]
    return [json.dumps(text).encode() for text in texts]
