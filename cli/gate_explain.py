"""`isomon gate explain ROLLOUT`: why the gate says what it says, in words, and what to do now."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from isolation_monitor.cli import gate_words
from isolation_monitor.cli.collector_client import DEFAULT_URL, TOKEN_FILE_ENV, URL_ENV, CollectorClient, NoAnswer, UsageError, read_token
from isolation_monitor.cli.verdicts import SCHEMA, NotAGate

Json = dict[str, Any]  # Any: JSON

EXIT_USAGE: Final = 2
EXIT_NO_ANSWER: Final = 30

EPILOG = """Exit codes: 0 explained, whatever the verdict; 2 usage, or no such rollout or decision; 30 no answer.

Examples:

  isomon gate explain canary-42

  isomon gate explain canary-42 --decision 5f0c8a7de0014c7a9a551f0c5a7de001
"""


def explain(
    rollout: Annotated[str, typer.Argument(help="Name of the rollout.")],
    decision: Annotated[str, typer.Option(help="An earlier decision, by its id from a page or the history. Default: ask now.")] = "",
    collector: Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole decision, queries and counts included, and nothing else.")
    ] = False,
) -> None:
    """Say why the gate of ROLLOUT decides as it does: values, thresholds, bounds, what is missing and for how long."""
    try:
        with CollectorClient(collector, read_token(token_file)) as client:
            found = _decision(client, rollout, decision)
    except (UsageError, NoAnswer) as error:
        print(f"isomon gate explain: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_NO_ANSWER) from None
    if as_json:
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return
    Console(soft_wrap=True).print(Text("\n".join(gate_words.explained(found["answer"], found.get("config") or {}))))


def _decision(client: CollectorClient, rollout: str, decision: str) -> Json:
    """Return the stored decision with all that went in; the newest one is made now."""
    path = f"/v1/gates/{quote(rollout, safe='')}"
    answer: Json = {}
    if not decision:
        answer = client.request("GET", path)
        # A verdict of a newer collector is explained as far as it is known.
        if answer.get("schema") != SCHEMA:
            raise NotAGate
        decision = str(answer.get("decision_id", ""))
    found = client.request("GET", f"{path}/decisions/{quote(decision, safe='')}")
    if found.get("schema") != "gate-decision/1" or not isinstance(found.get("answer"), dict):
        raise NotAGate
    # The answer of now says more than the stored one: that it is latched, and under which address it is kept.
    return found | {"answer": found["answer"] | answer}
