"""`isomon rollout start` and `show`: tell the collector that a rollout begins, and look at it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
)

EXIT_USAGE: Final = 2
EXIT_NO_ANSWER: Final = 30
_ROWS: Final = ("name", "service", "arm", "started_at", "min_exposed_requests", "min_owed_events", "failed_at")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Collector = Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")]
TokenFile = Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the collector's answer and nothing else.")]


@app.command(
    epilog="""Exit codes: 0 it is watched, 2 usage (also: the name is taken by another plan), 30 the collector gave no answer.

Examples:

  isomon rollout start canary-42 --service chat

  isomon rollout start canary-43 --service chat --arm on --min-exposed-requests 3000
"""
)
def start(
    name: Annotated[str, typer.Argument(help="A new name; a rollout never changes and never starts twice.")],
    service: Annotated[str, typer.Option(help="The service that is rolled out, as in its metrics.")],
    arm: Annotated[str | None, typer.Option(help="on, off or none: judge this flag variant alone. Default: all together.")] = None,
    min_exposed_requests: Annotated[int | None, typer.Option(min=1, help="Clean exposed requests before the gate may pass.")] = None,
    min_owed_events: Annotated[
        int | None, typer.Option(min=0, help="Owed events before the gate may pass; 0 for a service without runs.")
    ] = None,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Start watching rollout NAME from now on. Asking again with the same plan changes nothing."""
    body: dict[str, Any] = {"name": name, "service": service, "arm": arm}  # Any: JSON
    if min_exposed_requests is not None:
        body["min_exposed_requests"] = min_exposed_requests
    if min_owed_events is not None:
        body["min_owed_events"] = min_owed_events
    _call("POST", "/v1/rollouts", body, collector, token_file, as_json)


@app.command(
    epilog="""Exit codes: 0 shown, 2 usage (also: there is no such rollout), 30 the collector gave no answer.

Example:

  isomon rollout show canary-42 --json
"""
)
def show(
    name: Annotated[str, typer.Argument(help="Name of the rollout.")],
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the plan of rollout NAME, when it started, and whether its gate failed."""
    _call("GET", f"/v1/rollouts/{quote(name, safe='')}", None, collector, token_file, as_json)


def _call(method: str, path: str, body: dict[str, Any] | None, collector: str, token_file: Path | None, as_json: bool) -> None:
    try:
        with CollectorClient(collector, read_token(token_file)) as client:
            answer = client.request(method, path, body)
    except UsageError as error:
        print(f"isomon rollout: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except NoAnswer as error:
        print(f"isomon rollout: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_NO_ANSWER) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        return
    console = Console()
    for key in _ROWS:
        value = answer.get(key)
        console.print(Text(f"{key:<22}{('all' if key == 'arm' else '-') if value is None else value}"))
