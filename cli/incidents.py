"""`isomon incidents`: what happened, one line an incident, or the story of one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

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
    ago,
    read_token,
)
from isolation_monitor.cli.console import stdout_console

Json = dict[str, Any]  # Any: JSON

EXIT_UNREACHABLE: Final = 1
EXIT_USAGE: Final = 2

EPILOG = """Exit codes: 0 the collector answered, 1 it cannot be reached, 2 usage, or no such incident.

Examples:

  isomon incidents --since 24h

  isomon incidents --open --json | jq -r '.items[].id'

  isomon incidents 20260101T120000.000Z~chat
"""


def incidents(
    incident: Annotated[str | None, typer.Argument(help="Id of an incident: tell this one.")] = None,
    service: Annotated[str | None, typer.Option(help="Only this service.")] = None,
    since: Annotated[str | None, typer.Option(help="Only with a sign of the last 90s, 15m, 24h.")] = None,
    is_open: Annotated[bool, typer.Option("--open", help="Only those that go on.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many lines.")] = 20,
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may read; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's answer and nothing else.")] = False,
) -> None:
    """List incidents, or tell one: alerts, violations and rollbacks in the order of time, and whom it touched."""
    try:
        if incident is None:
            asked = {
                "service": service,
                "limit": str(limit),
                "state": "open" if is_open else None,
                "since": ago(since),
            }
            path = f"/v1/incidents?{urlencode({name: value for name, value in asked.items() if value is not None})}"
        else:
            path = f"/v1/incidents/{quote(incident, safe='')}"
        with CollectorClient(collector, token or read_token(token_file)) as client:
            answer = client.request("GET", path)
        if not isinstance(answer.get("items" if incident is None else "story"), list):
            raise NotACollector
    except (UsageError, NoAnswer) as error:
        print(f"isomon incidents: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNREACHABLE) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    elif incident is None:
        _list(answer["items"], stdout_console(highlight=False))
    else:
        _tell(answer, stdout_console(highlight=False))


def _list(items: list[Json], console: Console) -> None:
    if not items:
        console.print("no incidents")
        return
    table = Table("since", "service", "state", "alerts", "violations", "rollbacks", "id", box=None, pad_edge=False)
    for one in items:
        cells = (
            str(one.get("started_at", ""))[:19],
            str(one.get("service", "")),
            str(one.get("state", "")),
            ", ".join(map(str, one.get("alerts") or ())) or "-",
            str(one.get("violations", "")),
            ", ".join(map(str, one.get("rollbacks") or ())) or "-",
            str(one.get("id", "")),
        )
        # Text, not markup: what a service is called must not style the terminal.
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _tell(answer: Json, console: Console) -> None:
    affected = answer.get("affected") or {}
    more = "at least " if affected.get("at_least") else ""
    head = f"{answer.get('service')}: {answer.get('state')}, {answer.get('violations')} violations, "
    console.print(Text(head + f"{more}{affected.get('users')} users and {len(affected.get('runs') or ())} runs touched", style="bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for step in answer["story"]:
        table.add_row(*(Text(str(step.get(name, ""))) for name in ("time", "what", "text")))
    console.print(table)
