"""Helpers of the tests that drive the whole stack."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from isolation_monitor.demo import binaries


@pytest.fixture(scope="session", autouse=True)
def _stack_parts() -> None:
    """The stack needs Prometheus and Alertmanager: without them its tests skip, or fail where real parts are required."""
    _, missing = binaries.find_all(binaries.STACK_PARTS)
    if missing:
        reason = "; ".join(map(str, missing))
        if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a stack makes its own: empty before, so what is in it afterwards was left behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


async def eventually(what: str, look: Callable[[], Awaitable[bool] | bool], timeout_s: float = 60.0) -> None:
    """Poll until `look` is true; fail with `what` when it never is."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look()
        if await seen if isinstance(seen, Awaitable) else seen:
            return
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(0.1)


def processes_with(text: str) -> list[str]:
    """Return the command lines of running processes whose command line or environment holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in command or text.encode() in environment:
            found.append(f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def left_in(folder: Path) -> list[str]:
    """Return the names of what lies in a folder."""
    return sorted(entry.name for entry in folder.iterdir())
