"""What the sub-commands of `isomon demo` do, without the command line: each returns an exit code.

A stack ends with its context, on every way out; SIGINT, SIGTERM and SIGHUP are such a way. A second signal is ignored:
the end is under way, and cutting it short would leave its rest to the janitor.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from pathlib import Path

from rich.console import Console

from isolation_monitor.demo import leftovers, report, status
from isolation_monitor.demo.errors import DemoError
from isolation_monitor.demo.narrator import Narrator
from isolation_monitor.demo.parts import connect
from isolation_monitor.demo.report import Report
from isolation_monitor.demo.stack import Stack
from isolation_monitor.demo.state import StackState
from isolation_monitor.demo.story import CLEAN_S, Story
from isolation_monitor.demo.users import UNREACHABLE, Population

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REQUESTS_PER_S = 40.0
FAILED_FOLDER = "failed"
"""Beside the report: what remains of the latest story that failed."""
RUN_TIMEOUT_S = 3.0
"""How long a user waits for an answer before he asks again."""


def run(work: Coroutine[object, object, int], *, interrupted: int = EXIT_INTERRUPTED) -> int:
    """Run a command to its end, or to its clean-up when a signal ends it; return the exit code."""
    return asyncio.run(_until_signal(work, interrupted))


async def up(console: Console, state_file: Path, users: int) -> int:
    """Bring the stack up with its traffic and show it until a signal comes."""
    with Narrator(console) as narrator:
        try:
            async with Stack(progress=narrator.doing, state_file=state_file) as stack:
                narrator.doing(f"signing {users} users in")
                population = Population(stack.urls.chat, users=users, requests_per_s=REQUESTS_PER_S, run_timeout_s=RUN_TIMEOUT_S)
                async with population:
                    narrator.done("the stack is up")
                    with narrator.silent():
                        await status.show(stack, population, console)
        except (DemoError, *UNREACHABLE) as error:
            narrator.failed(str(error))
    # `show` ends only by a signal, which passes through here as a cancellation.
    return EXIT_FAILED


async def once(console: Console, report_file: Path, *, repeat: int = 1, users: int = 30, clean_s: float = CLEAN_S) -> int:
    """Tell the story `repeat` times, each on a stack of its own; write the report of each, and succeed if all held."""
    reports: list[Report] = []
    for number in range(1, repeat + 1):
        if repeat > 1:
            console.rule(f"story {number} of {repeat}")
        told = await _tell(console, users, clean_s, report_file.parent / FAILED_FOLDER)
        told.write(report_file)
        if repeat > 1:
            told.write(report_file.with_name(f"{report_file.stem}-{number}{report_file.suffix}"))
        reports.append(told)
        if told.faults:
            console.print(report.table(told.faults))
        verdict = "[bold green]every step held[/]" if told.ok else f"[bold red]failed[/]: {told.failed}"
        console.print(f"{verdict} ({told.duration_s:.0f} s); {report_file}", highlight=False, soft_wrap=True)
    if repeat > 1:
        held = sum(told.ok for told in reports)
        console.print(f"{held} of {repeat} stories held\n{report.spread(reports)}", highlight=False)
    return EXIT_OK if all(told.ok for told in reports) else EXIT_FAILED


async def inject(console: Console, state_file: Path, fault: str) -> int:
    """Switch a fault of the running demonstration on."""
    state = StackState.read(state_file)
    async with connect(state.urls, state.read_token()) as parts:
        await parts.chat.inject(fault)
    console.print(f"{fault} is on in every worker; watch the status, and end it with: isomon demo heal", highlight=False)
    return EXIT_OK


async def heal(console: Console, state_file: Path) -> int:
    """Switch every fault of the running demonstration off."""
    state = StackState.read(state_file)
    async with connect(state.urls, state.read_token()) as parts:
        await parts.chat.heal()
    console.print("every fault is off; the score looks back one minute", highlight=False)
    return EXIT_OK


async def numbers(state_file: Path) -> status.Numbers:
    """Return the numbers of the running demonstration."""
    state = StackState.read(state_file)
    async with connect(state.urls, state.read_token()) as parts:
        return await status.look(parts, since=state.folder.stat().st_ctime)


async def _tell(console: Console, users: int, clean_s: float, failed_folder: Path) -> Report:
    told = Report()
    started = time.monotonic()
    with Narrator(console) as narrator:
        try:
            async with Stack(progress=narrator.doing) as stack:
                narrator.done(f"the stack is up: {stack.urls.chat} with two workers, collector, Prometheus, Alertmanager")
                narrator.doing(f"signing {users} users in")
                population = Population(stack.urls.chat, users=users, requests_per_s=REQUESTS_PER_S, run_timeout_s=RUN_TIMEOUT_S)
                async with population:
                    try:
                        await Story(stack, population, narrator, told, clean_s=clean_s).tell()
                    except (DemoError, *UNREACHABLE):
                        await leftovers.keep(stack, failed_folder)
                        narrator.done(f"logs and violations of the failed story are kept in {failed_folder}")
                        raise
        except (DemoError, *UNREACHABLE) as error:
            told.failed = str(error) or type(error).__name__
            narrator.failed(told.failed)
    told.duration_s = time.monotonic() - started
    return told


async def _until_signal(work: Coroutine[object, object, int], interrupted: int) -> int:
    task = asyncio.ensure_future(work)
    asked = False

    def end() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        return interrupted
    finally:
        for number in ENDING_SIGNALS:
            loop.remove_signal_handler(number)
