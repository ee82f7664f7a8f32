"""`isomon explain ID`: both sides of one violation, so that an engineer knows which line to change."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Final
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
    NotACollector,
    UsageError,
    read_token,
)
from isolation_monitor.telemetry import two_sided

EXIT_UNREACHABLE: Final = 1
EXIT_USAGE: Final = 2
_OWN_FRAME: Final = re.compile(r"^ +(at )? *> .*$", re.MULTILINE)
_HEAD: Final = re.compile(r"^(victim|offender|between)\b", re.MULTILINE)

EPILOG = """Exit codes: 0 found, 1 the collector cannot be reached, 2 usage, or no violation has this id.

Frames of the service's own code are marked with >. Run it in the folder of the service's code to see the source lines as well.

Examples:

  isomon explain 0197a3c2-5d0e-7c7a-9a55-1f0c5a7de001

  isomon explain 0197a3c2-5d0e-7c7a-9a55-1f0c5a7de001 --json
"""


def explain(
    violation_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the violation, from 'isomon violations', a page or the log.")],
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may read; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's answer (violation/1) and nothing else.")] = False,
) -> None:
    """Show both sides of the violation ID, what lay between them, and what to do first."""
    try:
        with CollectorClient(collector, token or read_token(token_file)) as client:
            found = client.request("GET", f"/v1/violations/{quote(violation_id, safe='')}")
        if found.get("schema") != "violation/1":
            raise NotACollector
    except (UsageError, NoAnswer) as error:
        print(f"isomon explain: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNREACHABLE) from None
    if as_json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return
    text = Text(two_sided.as_text(found, runbooks=collector))
    text.highlight_regex(_OWN_FRAME, "bold")
    text.highlight_regex(_HEAD, "bold cyan")
    # Not wrapped: a line of evidence is a line, in a terminal as in a pipe.
    Console(soft_wrap=True).print(text)
