"""Processes of a stack: each in a group of its own, each with its log, none surviving its driver.

Three nets hold them. The driver ends them in order. A janitor process ends them when the driver dies, however it died.
The kernel sends SIGTERM to each when the driver dies, should the janitor be gone too. Linux only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from isolation_monitor.demo import janitor
from isolation_monitor.demo.errors import StartError

TETHER = Path(__file__).with_name("tether.py")
JANITOR = Path(__file__).with_name("janitor.py")
LOG_TAIL_LINES = 15
POLL_S = 0.05


class Janitor:
    """The driver's side of the janitor process; start it before anything that must be cleaned."""

    def __init__(self) -> None:
        # Its own session: no signal of the driver's terminal or group reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(JANITOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch_group(self, group: int) -> None:
        """End this process group when the driver dies."""
        self._tell(f"group {group}")

    def forget_group(self, group: int) -> None:
        """Leave a group alone that has ended: its number may come back as somebody else's."""
        self._tell(f"forget {group}")

    def watch_path(self, path: Path) -> None:
        """Remove this file or folder when the driver dies."""
        self._tell(f"path {path}")

    def close(self, timeout_s: float = 10.0) -> None:
        """Let it clean what is left and wait for its end."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None or self._process.poll() is not None:
            raise StartError("the janitor process has ended: nothing would clean up after a crash")
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


class Service:
    """One process of the stack, with its children: started, watched by its log, ended as a group."""

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path, janitor: Janitor) -> None:
        self.name = name
        self.command = tuple(map(str, command))
        self.log = log
        self._env = dict(env)
        self._folder = folder
        self._janitor = janitor
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process in a new session; standard output and error go to its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *self.command],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._janitor.watch_group(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group and session."""
        if self._process is None:
            raise StartError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raise StartError, with the tail of the log, if the process has ended."""
        if self.exit_code is not None:
            raise StartError(f"{self.name} ended with exit code {self.exit_code}. {self.log_tail()}")

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the end of the log under a heading, for an error's text."""
        try:
            tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            tail = []
        return f"The end of its log ({self.log}):\n" + "\n".join(f"    {line}" for line in tail or ["(empty)"])

    async def ready(self, probe: Callable[[], Awaitable[str | None]], timeout_s: float) -> None:
        """Wait until `probe` returns None; until then it returns what is still missing.

        Raises:
            StartError: the process ended, or the time is over; the text says what was missing and ends with the log.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            missing = await probe()
            if missing is None:
                return
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready after {timeout_s:.0f} s: {missing}. {self.log_tail()}")
            await asyncio.sleep(POLL_S)

    async def finished(self, timeout_s: float) -> None:
        """Wait until the process has ended with exit code 0.

        Raises:
            StartError: it ended otherwise, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        while self.exit_code is None:
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} had not ended after {timeout_s:.0f} s. {self.log_tail()}")
            await asyncio.sleep(POLL_S)
        if self.exit_code != 0:
            self.check()
        self._janitor.forget_group(self.pid)

    def ask_to_end(self) -> None:
        """Send SIGTERM to the process itself, which ends its own workers in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def ended(self, grace_s: float) -> None:
        """Wait for the end after `ask_to_end`; kill what is left of the group after `grace_s` seconds."""
        if self._process is None:
            return
        deadline = time.monotonic() + grace_s
        while self._process.poll() is None or janitor.alive(self.pid):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        janitor.signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        self._janitor.forget_group(self.pid)


class Services:
    """The services of a stack in the order of their start; ends them in the opposite order."""

    def __init__(self, janitor: Janitor) -> None:
        self._janitor = janitor
        self._services: list[Service] = []

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path) -> Service:
        """Start a process and keep it for the end."""
        service = Service(name, command, env=env, folder=folder, log=log, janitor=self._janitor)
        self._services.append(service)
        service.start()
        return service

    def check(self) -> None:
        """Raise StartError if any process that should run has ended."""
        for service in self._services:
            if service.exit_code != 0:
                service.check()

    def groups(self) -> list[int]:
        """Return the process group of every service, running or not."""
        return [service.pid for service in self._services]

    async def stop(self, grace_s: float = 6.0) -> None:
        """End all services, together: ask all, then wait, then kill."""
        for service in reversed(self._services):
            service.ask_to_end()
        for service in reversed(self._services):
            await service.ended(grace_s)
