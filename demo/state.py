"""The state file of a running stack: how a second terminal finds it. Removed when the stack ends, however it ends."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from isolation_monitor.demo.errors import NoStackError
from isolation_monitor.demo.layout import Layout, checkout


@dataclass(frozen=True, slots=True)
class Urls:
    """Base URLs of a stack's parts, without a slash at the end."""

    chat: str
    collector: str
    prometheus: str
    alertmanager: str


@dataclass(frozen=True, slots=True)
class StackState:
    """What another process needs to know of a running stack. `folder` holds its token files."""

    pid: int
    folder: Path
    urls: Urls

    def read_token(self) -> str:
        """Return the token that opens the collector's reading routes."""
        return Layout(self.folder).read_token.read_text()

    def write(self, file: Path) -> None:
        """Write the state so that a reader sees all of it or nothing, readable by this user alone.

        Raises:
            NoStackError: another running stack owns the file.
        """
        other = _read(file)
        if other is not None and other.pid != self.pid and _runs(other.pid):
            raise NoStackError(f"another demonstration runs already (process {other.pid}, chat at {other.urls.chat}): end it first")
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{self.pid}")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump({**asdict(self), "folder": str(self.folder)}, out)
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> StackState:
        """Return the state of the running stack.

        Raises:
            NoStackError: there is none, or its driver is gone.
        """
        state = _read(file)
        if state is None or not _runs(state.pid):
            raise NoStackError("no demonstration runs: start it in another terminal with make demo")
        return state


def default_file() -> Path:
    """Return where the stack of this checkout is announced."""
    return checkout() / "build" / "demo" / "stack.json"


def _read(file: Path) -> StackState | None:
    try:
        data = json.loads(file.read_text())
        return StackState(pid=int(data["pid"]), folder=Path(data["folder"]), urls=Urls(**data["urls"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
