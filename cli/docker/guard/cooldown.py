"""One destructive request at a time on each engine, and half a second between two, over all guards of this host.

The lock is a file that every account of the host can hold: its lock is the turn, its content the moment of the last request. A guard
that dies gives its turn back, as the system drops its lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry import filelock

COOLDOWN_S: Final = 0.5
FOLDER_ENV: Final = "ISOMON_DOCKER_LOCK_DIR"
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.02


class NoTurn(Exception):
    """The turn cannot be had; the text says why and what to do."""


def lock_folder() -> Path:
    """Return where the locks of this host are: a folder that all accounts may write to."""
    if named := os.environ.get(FOLDER_ENV):
        return Path(named)
    shared = Path("/run/lock")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


class Cooldown:
    """The turns of one engine. `engine` is what it is called by all guards, whatever address each of them uses."""

    def __init__(
        self,
        engine: str,
        *,
        folder: Path | None = None,
        cooldown_s: float = COOLDOWN_S,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that all processes of the host count alike, as the monotonic clock does."""
        key = hashlib.sha256(engine.encode()).hexdigest()[:16]
        self.path = (folder or lock_folder()) / f"isomon-docker-{key}.lock"
        self._cooldown_s = cooldown_s
        self._patience_s = patience_s
        self._clock = clock

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it is our turn and the cooldown is over, and hold the turn for one request.

        Raises:
            NoTurn: the lock cannot be used, or others hold it for a minute.
        """
        descriptor = self._open()
        try:
            deadline = self._clock() + self._patience_s
            while not filelock.take(descriptor):
                if self._clock() > deadline:
                    raise NoTurn(
                        f"other guards hold {self.path} for {self._patience_s:.0f} s: look who has it open (fuser -v), and try again"
                    )
                await asyncio.sleep(_POLL_S)
            # A timer may end a moment early: looked at again until nothing is left.
            while (left := self._left_s(descriptor)) > 0:  # noqa: ASYNC110 - nothing tells of a time that is over
                await asyncio.sleep(left)
            try:
                yield
            finally:
                # From the end of the request: the engine has it now, and the next one comes half a second later at the earliest.
                os.pwrite(descriptor, f"{self._clock():.6f}\n".encode().ljust(32), 0)
        finally:
            os.close(descriptor)

    def _left_s(self, descriptor: int) -> float:
        try:
            last = float(os.pread(descriptor, 32, 0) or b"nan")
        except ValueError:
            return 0.0
        now = self._clock()
        # A moment in the future is of another boot, or nonsense: it must not stop anybody.
        return self._cooldown_s - (now - last) if last <= now else 0.0

    def _open(self) -> int:
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Never created and opened in one: in a folder of everybody's the kernel refuses that for another account's file.
            for _ in range(3):
                with contextlib.suppress(FileNotFoundError):
                    return os.open(self.path, flags)
                with contextlib.suppress(FileExistsError):
                    descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                    os.fchmod(descriptor, 0o666)  # whatever the umask: every account must be able to hold it
                    return descriptor
        except OSError as error:
            raise NoTurn(f"the lock {self.path} cannot be used ({type(error).__name__}): mend it, or set {FOLDER_ENV}") from None
        raise NoTurn(f"the lock {self.path} comes and goes: set {FOLDER_ENV} to a folder of its own")
