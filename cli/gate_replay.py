"""`isomon gate replay`: judge a stored decision again, from its own inputs, and compare byte for byte."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
)
from isolation_monitor.collector.gates.replay import NotADecision
from isolation_monitor.collector.gates.replay import replay as replayed
from isolation_monitor.collector.rollouts.spec import NAME

EXIT_SAME: Final = 0
EXIT_DIFFERS: Final = 1
EXIT_USAGE: Final = 2

EPILOG: Final = """Exit codes: 0 the same verdict, byte for byte; 1 another one; 2 no decision, or it was changed since.

Examples:

  isomon gate replay decision.json

  isomon gate replay checkout-v2/3f0c5e0b6c0d4c0f8f5b8d8a2f6c7e1d --token-file read.token

  curl ... | isomon gate replay -
"""


def replay(
    decision: Annotated[str, typer.Argument(help="A file, - for standard input, or ROLLOUT/ID to ask the collector.")],
    collector: Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
) -> None:
    """Judge DECISION again from what it was judged by, and print the verdict with its reasons as canonical JSON."""
    try:
        found = replayed(_decision(decision, collector, token_file))
    except (NotADecision, UsageError, NoAnswer) as error:
        print(f"isomon gate: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    print(found.replayed)
    if found.same:
        print(f"decision {found.decision_id}: {found.verdict}, the same byte for byte", file=sys.stderr)
        raise typer.Exit(EXIT_SAME)
    print(f"decision {found.decision_id}: differs from what was stored, which is:\n{found.stored}", file=sys.stderr)
    raise typer.Exit(EXIT_DIFFERS)


def _decision(decision: str, collector: str, token_file: Path | None) -> dict[str, Any]:  # Any: JSON
    at_collector = re.fullmatch(rf"({NAME})/([0-9a-f]{{32}})", decision)
    if at_collector is not None and not Path(decision).exists():
        with CollectorClient(collector, read_token(token_file)) as client:
            return client.request("GET", f"/v1/gates/{quote(at_collector[1], safe='')}/decisions/{at_collector[2]}")
    try:
        text = sys.stdin.read() if decision == "-" else Path(decision).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{decision} cannot be read ({type(error).__name__}): give a file, -, or ROLLOUT/ID") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise NotADecision(f"{decision} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise NotADecision(f"{decision} holds no JSON object")
    return value
