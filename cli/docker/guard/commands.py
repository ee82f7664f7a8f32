"""`isomon docker stop`, `restart`, `rm`, `kill`, `prune` and `journal`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import signal as signal_module
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.collector_client import TOKEN_FILE_ENV, URL_ENV, UsageError, seconds
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.docker.guard.journal import PATH_ENV, Journal, journal_path
from isolation_monitor.cli.printable import printable

if TYPE_CHECKING:
    from isolation_monitor.cli.docker.guard.action import Action
    from isolation_monitor.cli.docker.guard.guard import Guard
    from isolation_monitor.cli.docker.guard.session import Setup

SCHEMA: Final = "docker-actions/1"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3

EPILOG = """Exit codes: 0 all is done; 3 something was refused, with the reason; 1 something failed (no such container, no engine); 2 usage.

Destructive requests of all guards of this host are half a second apart on each engine. Every action and refusal is in the journal, and goes
to the collector where ISOMON_COLLECTOR and ISOMON_TOKEN_FILE (a token that may ingest) name one. The engine is found as Docker finds it.

Examples:

  isomon docker stop web worker --time 30s

  isomon docker rm --stop web

  isomon docker stop web --allow-kill

  isomon docker prune --label ci.job=4711 --older-than 1h

  isomon docker journal --json | jq 'select(.forced)'
"""

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Containers, by name or id.")]
Time = Annotated[str, typer.Option("--time", "-t", help="How long a container may take to end, such as 30s.")]
AllowKill = Annotated[bool, typer.Option("--allow-kill", help="SIGKILL what has not ended by then; it is recorded as forced.")]
Host = Annotated[str | None, typer.Option("--host", "-H", envvar="DOCKER_HOST", help="Address of the engine, as Docker takes it.")]
Actor = Annotated[str | None, typer.Option(envvar="ISOMON_ACTOR", help="Who asks, for the record. Default: CI's user, or your account.")]
JournalFile = Annotated[Path | None, typer.Option("--journal", envvar=PATH_ENV, help="File of the journal.")]
Collector = Annotated[str | None, typer.Option("--url", "--collector", envvar=URL_ENV, help="Collector that is told; without, nobody is.")]
TokenFile = Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may ingest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the actions as JSON and nothing else.")]


def stop(
    names: Names, time: Time = "10s", allow_kill: AllowKill = False, host: Host = None, actor: Actor = None,
    journal: JournalFile = None, collector: Collector = None, token_file: TokenFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Stop containers: their stop signal (SIGTERM), then patience. SIGKILL follows only with --allow-kill."""
    grace_s = _seconds("--time", time)

    async def do(guard: Guard) -> list[Action]:
        return [await guard.stop(name, grace_s=grace_s, allow_kill=allow_kill) for name in names]

    _run(do, _setup(host, journal, actor, collector, token_file), as_json)


def restart(
    names: Names, time: Time = "10s", allow_kill: AllowKill = False, host: Host = None, actor: Actor = None,
    journal: JournalFile = None, collector: Collector = None, token_file: TokenFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Stop containers as `stop` does, and start them again; what does not end is not started."""
    grace_s = _seconds("--time", time)

    async def do(guard: Guard) -> list[Action]:
        return [await guard.restart(name, grace_s=grace_s, allow_kill=allow_kill) for name in names]

    _run(do, _setup(host, journal, actor, collector, token_file), as_json)


def rm(
    names: Names,
    stop_first: Annotated[bool, typer.Option("--stop", help="Stop a running container first, gracefully.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="Remove its anonymous volumes, too.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Always refused; here so that the refusal is recorded.")] = False,
    time: Time = "10s", allow_kill: AllowKill = False, host: Host = None, actor: Actor = None,
    journal: JournalFile = None, collector: Collector = None, token_file: TokenFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Remove containers without force. One that runs is refused, or stopped first with --stop."""
    grace_s = _seconds("--time", time)

    async def do(guard: Guard) -> list[Action]:
        return [
            await guard.remove(name, stop=stop_first, grace_s=grace_s, allow_kill=allow_kill, volumes=volumes, force=force)
            for name in names
        ]

    _run(do, _setup(host, journal, actor, collector, token_file), as_json)


def kill(
    names: Names,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Signal to send.")] = "SIGKILL",
    allow_kill: Annotated[bool, typer.Option("--allow-kill", help="Allow SIGKILL; it is recorded as forced.")] = False,
    host: Host = None, actor: Actor = None,
    journal: JournalFile = None, collector: Collector = None, token_file: TokenFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Send a signal to containers. SIGKILL, the default as in Docker, is refused without --allow-kill."""

    async def do(guard: Guard) -> list[Action]:
        return [await guard.kill(name, signal=signal, allow_kill=allow_kill) for name in names]

    _run(do, _setup(host, journal, actor, collector, token_file), as_json)


def prune(
    label: Annotated[str | None, typer.Option(help="Only containers with this label, KEY or KEY=VALUE; without one it is refused.")] = None,
    older_than: Annotated[str, typer.Option(help="Only those that ended so long ago, such as 1h.")] = "0s",
    force: Annotated[bool, typer.Option("--force", "-f", help="Always refused; here so that the refusal is recorded.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    host: Host = None, actor: Actor = None,
    journal: JournalFile = None, collector: Collector = None, token_file: TokenFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Remove your own stopped containers: those with a label, none that runs, no volume, image or network."""
    age = timedelta(seconds=_seconds("--older-than", older_than))

    async def do(guard: Guard) -> list[Action]:
        from isolation_monitor.cli.docker.guard.guard import PruneLimits

        limits = None if label is None else PruneLimits(label, age)
        return await guard.prune(limits, force=force, dry_run=dry_run)

    _run(do, _setup(host, journal, actor, collector, token_file), as_json)


def journal(
    file: Annotated[Path | None, typer.Option("--journal", envvar=PATH_ENV, help="File of the journal.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one action a line as JSON and nothing else.")] = False,
) -> None:
    """Show what the guard did and refused on this machine under this account, oldest first."""
    entries = Journal(file or journal_path()).entries()[-limit:]
    if as_json:
        for entry in entries:
            print(json.dumps(entry, ensure_ascii=False))
        return
    console = stdout_console(highlight=False, unfolded=True)
    if not entries:
        console.print("nothing is in the journal")
        return
    table = Table("time", "who", "action", "container", "result", "why", box=None, pad_edge=False)
    for entry in entries:
        shown = (
            entry.get("time"),
            entry.get("actor"),
            _deed(entry),
            entry.get("container") or "-",
            entry.get("result"),
            entry.get("reason"),
        )
        table.add_row(*(Text(printable(str(cell))) for cell in shown))
    console.print(table)


def _run(do: Callable[[Guard], Awaitable[list[Action]]], setup: Setup, as_json: bool) -> None:
    from isolation_monitor.cli.docker.guard.engine import EngineError
    from isolation_monitor.cli.docker.guard.session import guard_session

    async def run() -> list[Action]:
        task = asyncio.current_task()
        if task is not None:
            # CI calls a job off by SIGTERM: recorded and told as after Ctrl-C. Windows' loops know no such handler.
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(signal_module.SIGTERM, task.cancel)
        async with guard_session(setup) as guard:
            return await do(guard)

    try:
        actions = asyncio.run(run())
    except EngineError as error:
        _leave(f"isomon docker: {error}", EXIT_FAILED)
    except asyncio.CancelledError:
        _leave("isomon docker: broken off; signals that were sent stay sent", 128 + signal_module.SIGTERM)
    except KeyboardInterrupt:
        _leave("isomon docker: broken off; signals that were sent stay sent", 130)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "actions": [action.as_json() for action in actions]}, ensure_ascii=False))
    else:
        for action in actions:
            told = f"{_deed(action.as_json())} {action.container or ''}".strip()
            where = sys.stdout if action.result == "done" else sys.stderr
            print(printable(f"{told}: {action.result}: {action.reason}"), file=where)
        if not actions:
            print("there is nothing to remove")
    for problem in setup.problems:
        print(f"isomon docker: {printable(problem)}", file=sys.stderr)
    results = {action.result for action in actions}
    if results - {"done"}:
        raise typer.Exit(EXIT_FAILED if "failed" in results else EXIT_REFUSED)


def _setup(host: str | None, journal: Path | None, actor: str | None, collector: str | None, token_file: Path | None) -> Setup:
    try:
        importlib.import_module("aiodocker")
    except ModuleNotFoundError as error:
        _leave(f"isomon docker needs {error.name}: install 'isolation-monitor[docker]'", EXIT_USAGE)
    from isolation_monitor.cli.docker.guard.session import Setup

    return Setup(host=host, journal=journal, actor=actor, collector=collector, token_file=token_file)


def _seconds(option: str, text: str) -> float:
    try:
        return seconds(text)
    except UsageError as error:
        _leave(f"isomon docker: {option}: {error}", EXIT_USAGE)


def _deed(entry: dict[str, Any]) -> str:  # Any: JSON
    signal = f" ({entry['signal']})" if entry.get("signal") else ""
    return f"{entry.get('action')}{' by force' if entry.get('forced') else ''}{signal}"


def _leave(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(code)
