"""`isomon queues`: the users for whom most events wait now, over all workers, as the collector was told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    NotACollector,
    UsageError,
    read_token,
)
from isolation_monitor.cli.console import stdout_console

Json = dict[str, Any]  # Any: JSON

SCHEMA: Final = "queues/1"
EXIT_UNREACHABLE: Final = 1
EXIT_USAGE: Final = 2

EPILOG = """Exit codes: 0 the collector answered, 1 it cannot be reached, 2 usage.

Examples:

  isomon queues

  isomon queues --service chat --limit 5

  isomon queues --json | jq -r '.items[] | select(.connections == 0) | .principal'
"""


def queues(
    service: Annotated[str | None, typer.Option(help="Only this service.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many users.")] = 20,
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may read; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's answer and nothing else.")] = False,
) -> None:
    """List the users with the deepest queues, by the hash under which evidence names them too."""
    try:
        asked = {"limit": str(limit)} | ({} if service is None else {"service": service})
        with CollectorClient(collector, token or read_token(token_file)) as client:
            answer = client.request("GET", f"/v1/queues?{urlencode(asked)}")
        if answer.get("schema") != SCHEMA or not isinstance(answer.get("items"), list):
            raise NotACollector
    except (UsageError, NoAnswer) as error:
        print(f"isomon queues: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNREACHABLE) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    else:
        _print(answer, stdout_console(highlight=False))


def _print(answer: Json, console: Console) -> None:
    if not answer["items"]:
        console.print("nobody waits")
        return
    table = Table("service", "user", box=None, pad_edge=False)
    for name in ("events", "bytes", "oldest", "connections", "workers"):
        table.add_column(name, justify="right")
    for one in answer["items"]:
        more = "+" if one.get("at_least") else ""
        cells = (
            str(one.get("service", "")),
            str(one.get("principal", "")),
            f"{one.get('events', '')}{more}",
            f"{one.get('bytes', '')}{more}",
            f"{float(one.get('age_s') or 0):.0f} s",
            str(one.get("connections") or "none"),
            str(len(one.get("instances") or ())),
        )
        # Text, not markup: what a service is called must not style the terminal.
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for one in answer.get("services") or ():
        told = f"{one.get('service')}: {one.get('events')} events, {one.get('bytes')} bytes wait for {one.get('users')} users"
        console.print(Text(f"{told} in {one.get('workers')} workers", style="dim"))
