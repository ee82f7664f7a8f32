"""`isomon violations`: what the collector has, one line a defect or one line a violation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
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

GRADES: Final = ("crossed", "reachable", "hygiene")
EXIT_UNREACHABLE: Final = 1
EXIT_USAGE: Final = 2
GROUPS_LIMIT: Final = 200
"""The most groups that the collector answers at once."""
_COLOURS: Final = {"crossed": "red", "reachable": "yellow", "hygiene": "cyan"}

EPILOG = """Exit codes: 0 the collector answered, 1 it cannot be reached, 2 usage.

Examples:

  isomon violations --since 1h

  isomon violations --service chat --grade crossed --all

  isomon violations --all --user a1b2c3d4e5f60718 --since 24h

  isomon violations --all --request 4242-17

  isomon violations --since 15m --json | jq -r '.items[].latest.id' | head -1 | xargs isomon explain
"""


def violations(
    service: Annotated[str | None, typer.Option(help="Only this service.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as shared_state.")] = None,
    grade: Annotated[str | None, typer.Option(help="Only this grade: crossed, reachable or hygiene.")] = None,
    detector: Annotated[str | None, typer.Option(help="Only what this detector found.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="Only this defect.")] = None,
    user: Annotated[str | None, typer.Option(help="Only with this user's hash on either side; needs --all.")] = None,
    run: Annotated[str | None, typer.Option(help="Only with this run id on either side; needs --all.")] = None,
    request: Annotated[str | None, typer.Option(help="Only with this request id on either side; needs --all.")] = None,
    since: Annotated[str | None, typer.Option(help="Only the last 90s, 15m, 1h.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many lines.")] = 50,
    each: Annotated[bool, typer.Option("--all", help="Each violation; without it, those of one defect are one line.")] = False,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Planted faults too: proofs that a detector works.")] = False,
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may read; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's answer and nothing else.")] = False,
) -> None:
    """List violations, newest first."""
    try:
        if grade is not None and grade not in GRADES:
            raise UsageError(f"--grade {grade!r} is no grade: use {', '.join(GRADES)}")
        asked = {
            "service": service,
            "kind": kind,
            "grade": grade,
            "since": ago(since),
            "limit": str(_at_most(limit, each)),
        }
        if (user or run or request) and not each:
            raise UsageError("--user, --run and --request choose among single violations: add --all")
        asked |= {"detector": detector, "fingerprint": fingerprint, "principal": user, "run_id": run, "request_id": request}
        asked["synthetic"] = None if synthetic else "false"
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        with CollectorClient(collector, token or read_token(token_file)) as client:
            answer = client.request("GET", f"/v1/{'violations' if each else 'violation-groups'}?{query}")
        if not isinstance(answer.get("items"), list):
            raise NotACollector
    except (UsageError, NoAnswer) as error:
        print(f"isomon violations: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNREACHABLE) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    else:
        _print_table(answer["items"], each)


def _at_most(limit: int, each: bool) -> int:
    return limit if each else min(limit, GROUPS_LIMIT)


def _print_table(items: list[Json], each: bool) -> None:
    console = stdout_console(unfolded=True)
    if not items:
        console.print("no violations")
        return
    wide = {"overflow": "fold", "ratio": 1 if console.is_terminal else None}
    table = Table("time", "service", "kind", "grade", box=None, pad_edge=False, expand=console.is_terminal)
    table.add_column("summary", **wide)  # type: ignore[arg-type]  # keyword arguments of two types
    for name in ("victim", "offender"):
        table.add_column(name, no_wrap=True)
    table.add_column("count", justify="right")
    if not each:
        table.add_column("users", justify="right")
    table.add_column("id", no_wrap=True)
    for item in items:
        one = item if each else item.get("latest") or {}
        grade = str(item.get("grade", ""))
        cells: list[str | Text] = [
            str(one.get("time", ""))[:19],
            str(one.get("service", "")),
            str(one.get("kind", "")),
            Text(grade, _COLOURS.get(grade, "")),
            str(one.get("summary", "")) + (" (retracted)" if one.get("retracted") else ""),
            _who(one.get("victim")),
            _who(one.get("offender")),
            str(item.get("count", "")),
            *([] if each else [_users(item.get("affected"))]),
            str(one.get("id", "")),
        ]
        # Text, not markup: evidence must not style the terminal.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    console.print(table)
    console.print(Text("isomon explain ID shows both sides of one", style="dim"))


def _who(side: object) -> str:
    return str(side.get("principal") or "unknown")[:8] if isinstance(side, dict) else "-"


def _users(affected: object) -> str:
    if not isinstance(affected, dict):
        return ""
    about, more = "~" if affected.get("estimated") else "", "+" if affected.get("at_least") else ""
    return f"{about}{affected.get('principals', '')}{more}/{affected.get('active', '')}"
