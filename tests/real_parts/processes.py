"""Finding, starting and ending real programs: binaries from Debian, free ports, deadlines instead of sleeps."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from isolation_monitor.demo.ports import free_ports

_T = TypeVar("_T")

PATIENCE_S = 60.0
"""How long a test waits for something that takes a second on an idle machine."""


def binary(*names: str) -> str:
    """Return the path of the first program found; skip the test when none is, or fail it when ISOMON_REQUIRE_REAL=1."""
    for name in names:
        if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin:/usr/local/bin"):
            return found
    reason = f"{names[0]} is not installed: apt-get install --no-install-recommends prometheus prometheus-alertmanager"
    if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now, none that the system gives to whoever connects next."""
    return free_ports(1)[0]


def eventually(found: Callable[[], _T | None], what: str, within_s: float = PATIENCE_S) -> _T:
    """Return the first truthy answer of `found`, asked ten times a second.

    Raises:
        AssertionError: there was none within `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.1)
    return answer


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:  # Any: what Popen takes; text or bytes
    """Run a program until the block ends, also where it ends by an assertion: nobody waits for one that would go on for an hour."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextlib.contextmanager
def running(
    command: list[str], log: Path, ready_url: str, environment: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; the block starts when `ready_url` answers 200. `log` takes its output.

    `environment` replaces the one of this process; `tls` is for an https address.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(ready_url, timeout=2, context=tls) as answer:
            return bool(answer.status == 200)
        return False

    try:
        eventually(ready, f"{ready_url} answers")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
