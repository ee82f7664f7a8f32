"""The guard's journal on this machine: one action a line, as JSON, bounded; beside it what the collector has not got yet."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from isolation_monitor.cli.docker.guard.action import Action
from isolation_monitor.telemetry import filelock

PATH_ENV: Final = "ISOMON_DOCKER_JOURNAL"
MAX_BYTES: Final = 1 << 20
"""One file before it and this one: two such files at most."""
MAX_UNSENT: Final = 1000

Json = dict[str, Any]  # Any: JSON


class JournalError(Exception):
    """The journal cannot be written; the text says why and what to do."""


def journal_path() -> Path:
    """Return where the journal of this account is."""
    if named := os.environ.get(PATH_ENV):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "isomon" / "docker-actions.jsonl"


class Journal:
    """A journal at `path`, which several processes may write to. The one before it is `path` + `.1`."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.unsent_path = path.with_name(path.name + ".unsent")
        self._lock = path.with_name(path.name + ".lock")
        self._max_bytes = max_bytes

    def check(self) -> None:
        """Raise JournalError where `add` would."""
        try:
            self._prepare()
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise self._problem(error) from None

    def add(self, action: Action) -> None:
        """Write an action down; it is on the disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        line = _line(action.as_json())
        try:
            self._prepare()
            with filelock.exclusive(self._lock, wait=True):
                if self.path.exists() and self.path.stat().st_size + len(line) > self._max_bytes:
                    self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._append(self.path, [line])
        except OSError as error:
            raise self._problem(error) from None

    def entries(self) -> list[Json]:
        """Return what was written down, oldest first; a line that a crash cut off is left out."""
        return [*_read(self.path.with_name(self.path.name + ".1")), *_read(self.path)]

    def keep_unsent(self, actions: Sequence[Json], sent: Collection[str] = ()) -> None:
        """Let `actions` wait for the collector, which has those with the ids `sent` now; the last thousand are kept.

        What another guard let wait meanwhile goes on waiting.
        """
        try:
            if not actions and not self.unsent_path.exists():
                return
            self._prepare()
            with filelock.exclusive(self._lock, wait=True):
                known = {one["id"] for one in actions} | set(sent)
                waiting = [*(one for one in self.unsent() if one["id"] not in known), *actions][-MAX_UNSENT:]
                if not waiting:
                    self.unsent_path.unlink(missing_ok=True)
                    return
                # Whole or not at all: a guard that is killed here loses nothing.
                fresh = self.unsent_path.with_name(self.unsent_path.name + ".new")
                fresh.unlink(missing_ok=True)
                self._append(fresh, [_line(one) for one in waiting])
                fresh.replace(self.unsent_path)
        except OSError as error:
            raise self._problem(error) from None

    def unsent(self) -> list[Json]:
        """Return what waits for the collector, oldest first."""
        return _read(self.unsent_path)

    def _prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    @staticmethod
    def _append(path: Path, lines: Sequence[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _problem(self, error: OSError) -> JournalError:
        return JournalError(f"the journal {self.path} cannot be written ({type(error).__name__}): mend that, or set {PATH_ENV}")


def _line(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read(path: Path) -> list[Json]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "id" in value:
            found.append(value)
    return found
