"""The whole stack on real parts: one fault from harm to gate, and nothing left behind whatever ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from isolation_monitor.demo.expectations import EXPECTATIONS
from isolation_monitor.demo.narrator import Narrator
from isolation_monitor.demo.ports import is_open
from isolation_monitor.demo.report import Report
from isolation_monitor.demo.stack import Stack
from isolation_monitor.demo.state import StackState, Urls
from isolation_monitor.demo.story import Story
from isolation_monitor.demo.users import Population

from .conftest import eventually, left_in, processes_with


def open_ports(urls: Urls) -> list[str]:
    return [url for url in (urls.chat, urls.collector, urls.prometheus, urls.alertmanager) if is_open(int(url.rpartition(":")[2]))]


async def test_a_leak_is_proven_paged_and_fails_the_gate_and_the_stack_leaves_nothing(temporary: Path) -> None:
    wrong_socket = next(expected for expected in EXPECTATIONS if expected.fault == "wrong-socket")
    report = Report()

    with Narrator(Console(quiet=True)) as narrator:
        async with Stack() as stack, Population(stack.urls.chat, users=12, requests_per_s=30, run_timeout_s=5) as users:
            await Story(stack, users, narrator, report, clean_s=5, expectations=(wrong_socket,)).tell()

    assert (report.clean.violations, report.clean.pages, report.clean.score) == (0, 0, 100.0)
    [trial] = report.faults
    assert (trial.alert, trial.gate_before, trial.gate_after, trial.grade) == ("WebSocketIsolationViolation", "pass", "fail", "crossed")
    # The end of the story: a bad release was taken back by itself.
    assert report.rollback.rollback_s is not None
    assert report.rollback.variant_traffic_zero_s is not None
    assert "isolation" in (report.rollback.reason or "")
    assert open_ports(stack.urls) == []
    assert processes_with(str(temporary)) == []
    assert left_in(temporary) == []


async def test_a_second_terminal_breaks_and_heals_the_running_stack_and_ctrl_c_ends_it_cleanly(temporary: Path, tmp_path: Path) -> None:
    state_file = tmp_path / "stack.json"
    with demo_up(state_file) as driver:
        await eventually("the stack announcing itself", state_file.exists, 120)
        state = StackState.read(state_file)

        injected = isomon("demo", "inject", "slow-factory", state_file=state_file)
        status = isomon("demo", "status", "--json", state_file=state_file)
        healed = isomon("demo", "heal", state_file=state_file)
        unknown = isomon("demo", "inject", "no-such-fault", state_file=state_file)

        assert (injected.returncode, healed.returncode) == (0, 0), injected.stderr + healed.stderr
        assert json.loads(status.stdout)["active_faults"] == ["slow-factory"]
        assert unknown.returncode == 1
        assert "wrong-socket" in unknown.stderr, "the refusal names the faults that exist"
        driver.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(driver.wait, 60) == 0

    assert open_ports(state.urls) == []
    assert processes_with(str(temporary)) == []
    assert left_in(temporary) == []
    assert not state_file.exists()


async def test_a_driver_killed_outright_takes_everything_with_it(temporary: Path, tmp_path: Path) -> None:
    """SIGKILL leaves it no chance to clean up: its janitor must."""
    state_file = tmp_path / "stack.json"
    with demo_up(state_file) as driver:
        await eventually("the stack announcing itself", state_file.exists, 120)
        state = StackState.read(state_file)

        driver.kill()
        driver.wait()

        await eventually("all processes gone", lambda: processes_with(str(temporary)) == [])
        await eventually("all files gone", lambda: left_in(temporary) == [] and not state_file.exists())
    assert open_ports(state.urls) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_driver_ended_while_it_starts_leaves_nothing(temporary: Path, tmp_path: Path, number: signal.Signals) -> None:
    with demo_up(tmp_path / "stack.json") as driver:
        await eventually("the first process of the stack", lambda: any("uvicorn" in line for line in processes_with(str(temporary))))

        driver.send_signal(number)
        await asyncio.to_thread(driver.wait, 60)

        await eventually("all processes gone", lambda: processes_with(str(temporary)) == [])
        await eventually("all files gone", lambda: left_in(temporary) == [])


@contextmanager
def demo_up(state_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`isomon demo up` in a process of its own; ended in any case."""
    command = [sys.executable, "-m", "isolation_monitor.cli", "demo", "up", "--users", "4", "--state-file", str(state_file)]
    with state_file.with_suffix(".log").open("wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ.copy())
    try:
        yield driver
    finally:
        if driver.poll() is None:
            driver.terminate()
            driver.wait(60)


def isomon(*arguments: str, state_file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isolation_monitor.cli", *arguments, "--state-file", str(state_file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
