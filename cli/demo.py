"""`isomon demo`: the whole product on this machine, live or as a scripted story, and the switches for a second terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.demonstration import STATE_ENV
from isolation_monitor.demo import layout, session, state, status
from isolation_monitor.demo.errors import DemoError

app = typer.Typer(no_args_is_help=True, epilog="Exit codes: 0 it worked, 1 it did not, 2 wrong usage, 130 interrupted.")

Users = Annotated[int, typer.Option("--users", min=2, max=500, help="How many users chat.")]
StateFile = Annotated[
    Path | None,
    typer.Option("--state-file", envvar=STATE_ENV, help="Where the stack is announced. [default: build/demo/stack.json]"),
]


@app.command()
def up(users: Users = 30, state_file: StateFile = None) -> None:
    """Bring everything up with traffic and a live status; Ctrl-C ends it and leaves nothing behind.

    Needs Prometheus and Alertmanager; `make demo` installs them where it may.
    """
    with _explained():
        # Ctrl-C is how a demonstration ends: no failure.
        raise typer.Exit(session.run(session.up(stdout_console(), state_file or state.default_file(), users), interrupted=session.EXIT_OK))


@app.command()
def once(
    repeat: Annotated[int, typer.Option("--repeat", min=1, max=100, help="Tell the story so many times, each on a new stack.")] = 1,
    report: Annotated[Path | None, typer.Option("--report", help="Where the report goes. [default: build/demo/report.json]")] = None,
    users: Users = 30,
    clean_seconds: Annotated[float, typer.Option("--clean-seconds", min=1, help="Length of the clean part before the faults.")] = 60.0,
) -> None:
    """The same stack as a scripted story: a clean minute, six faults, each proven, paged and gated. Exit 0 only if every step held.

    Example: isomon demo once --repeat 5
    """
    with _explained():
        file = report or layout.checkout() / "build" / "demo" / "report.json"
        raise typer.Exit(session.run(session.once(stdout_console(), file, repeat=repeat, users=users, clean_s=clean_seconds)))


@app.command()
def inject(
    fault: Annotated[str, typer.Argument(help="shared-agent, wrong-socket, inherited-context, session-leak, slow-factory or lost-event.")],
    state_file: StateFile = None,
) -> None:
    """Switch a real defect on inside the running chat service.

    Example: isomon demo inject wrong-socket
    """
    with _explained():
        raise typer.Exit(asyncio.run(session.inject(stdout_console(), state_file or state.default_file(), fault)))


@app.command()
def heal(state_file: StateFile = None) -> None:
    """Switch every defect of the running chat service off."""
    with _explained():
        raise typer.Exit(asyncio.run(session.heal(stdout_console(), state_file or state.default_file())))


@app.command("status")
def show_status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, schema demo-status/1.")] = False, state_file: StateFile = None
) -> None:
    """Print score, coverage, exposure, violations and pages of the running demonstration."""
    with _explained():
        numbers = asyncio.run(session.numbers(state_file or state.default_file()))
        print(json.dumps(numbers.as_json()) if as_json else status.line(numbers))


@contextmanager
def _explained() -> Iterator[None]:
    """Print an error that is made for people instead of a traceback, and exit with 1."""
    try:
        yield
    except DemoError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(session.EXIT_FAILED) from None
    except httpx2.HTTPError as error:
        print(f"the demonstration does not answer: {type(error).__name__} {error}", file=sys.stderr)
        raise typer.Exit(session.EXIT_FAILED) from None
