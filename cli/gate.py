"""`isomon gate`: ask a rollout's gate, wait for evidence, leave with the verdict as exit code; say in words why."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli import gate_backtest, gate_explain, gate_replay, gate_summary, verdicts
from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
    seconds,
)
from isolation_monitor.cli.console import stdout_console

Json = dict[str, Any]  # Any: JSON

EXIT_USAGE: Final = 2
_POLL_S: Final = 1.0
_PATIENT_POLL_S: Final = 5.0
_PATIENT_AFTER_S: Final = 60.0
"""Who waits for an hour need not ask each second."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("backtest", epilog=gate_backtest.EPILOG)(gate_backtest.backtest)
app.command("replay", epilog=gate_replay.EPILOG)(gate_replay.replay)


@app.callback()
def _group() -> None:
    """Gates of rollouts."""


app.command("explain", epilog=gate_explain.EPILOG)(gate_explain.explain)

_EPILOG = """Exit codes: 0 pass, 10 fail (roll back), 20 inconclusive (hold), 30 error (could not look), 2 usage.

With --exit-map binary there are two: 0 and 10; inconclusive and error leave with what --on-inconclusive says.

In GitHub Actions the verdict is also written to the step's outputs (verdict, exit_code, rollback, reason, decision_id,
decision_url) and to its summary.

Examples:

  isomon gate check canary-42

  isomon gate check canary-42 --wait 5m || ./decide.sh $?

  isomon gate check canary-42 --wait 90s --json --token-file read.token

  isomon gate check canary-42 --stage canary10 --wait 90m --exit-map binary --on-inconclusive fail
"""


@app.command(epilog=_EPILOG)
def check(
    rollout: Annotated[str, typer.Argument(help="Name of the rollout, as given to 'isomon rollout start'.")],
    collector: Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    wait: Annotated[
        str, typer.Option(help="How long to wait for pass or fail: 90s, 5m, 1h. Meanwhile inconclusive and error are not final.")
    ] = "0s",
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's answer (gate/v1) and nothing else.")] = False,
    stage: Annotated[str, typer.Option(help="Stage of the rollout that is meant, such as canary10.")] = "",
    exit_map: Annotated[
        Literal["verdict", "binary"], typer.Option(help="verdict: a code for each; binary: only 0 and 10, for callers that know no third.")
    ] = "verdict",
    on_inconclusive: Annotated[
        Literal["fail", "pass"] | None, typer.Option(help="With --exit-map binary: what inconclusive and error leave as. Default: fail.")
    ] = None,
) -> None:
    """Ask whether ROLLOUT may go on. With --wait, ask again until it passes or fails."""
    try:
        if on_inconclusive is not None and exit_map != "binary":
            raise UsageError("--on-inconclusive folds two codes into one: it needs --exit-map binary")
        deadline = time.monotonic() + seconds(wait)
        with CollectorClient(collector, read_token(token_file)) as client:
            answer = _ask_until(client, rollout, stage, deadline)
    except UsageError as error:
        print(f"isomon gate: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    else:
        _print_table(answer)
    code = exit_code(answer["verdict"], exit_map, on_inconclusive or "fail")
    for problem in gate_summary.write(answer, code, os.environ):
        print(f"isomon gate: {problem}", file=sys.stderr)
    raise typer.Exit(code)


def exit_code(verdict: str, exit_map: Literal["verdict", "binary"], on_inconclusive: Literal["fail", "pass"]) -> int:
    """Return the exit code of a verdict. `binary` knows only those of pass and fail."""
    if exit_map == "binary" and verdict in ("inconclusive", "error"):
        verdict = on_inconclusive
    return verdicts.EXIT_CODES[verdict]


def _ask_until(client: CollectorClient, rollout: str, stage: str, deadline: float) -> Json:
    """Return the first answer that is final, or the last one before `deadline` (monotonic seconds)."""
    progress = Console(stderr=True)
    last_said = ""
    began = time.monotonic()
    # On a terminal one line that changes; in a log of CI one line for each change.
    with progress.status(f"asking the gate of {rollout}") as status:
        while True:
            answer = _ask(client, rollout, stage)
            left = deadline - time.monotonic()
            if answer["verdict"] in ("pass", "fail") or left <= 0:
                return answer
            said = _in_short(answer)
            if progress.is_terminal:
                status.update(Text(f"{said}; waiting, {left:.0f} s left"))
            elif said != last_said:
                print(f"{said}; waiting", file=sys.stderr, flush=True)
            last_said = said
            pause = _POLL_S if time.monotonic() - began < _PATIENT_AFTER_S else _PATIENT_POLL_S
            time.sleep(min(pause, max(left, 0.0)))


def _ask(client: CollectorClient, rollout: str, stage: str) -> Json:
    """Return one answer; where there is none, one of our own that says so."""
    try:
        asked = f"?stage={quote(stage, safe='')}" if stage else ""
        return verdicts.judged(client.request("GET", f"/v1/gates/{quote(rollout, safe='')}{asked}"))
    except NoAnswer as error:
        reason = {"trigger": "source", "state": "error", "code": "no_answer", "detail": str(error)}
        return {
            "schema": verdicts.SCHEMA,
            "rollout": rollout,
            "stage": stage,
            "verdict": "error",
            "verdict_code": -2,
            "ok": False,
            "rollback": False,
            "hold": True,
            "reasons": [reason],
            "metrics": {},
        }


def _in_short(answer: Json) -> str:
    return f"{answer['verdict']}: {verdicts.gravest_reason(answer) or 'no reason given'}"


def _print_table(answer: Json) -> None:
    console = stdout_console(unfolded=True)
    verdict = answer["verdict"]
    console.print(
        Text.assemble(
            f"{answer['rollout']}: ",
            (verdict, f"bold {verdicts.COLOURS[verdict]}"),
            "  (it failed before)" if answer.get("latched") else "",
        )
    )
    if answer.get("reasons"):
        table = Table("trigger", "state", "code", "have", "need", "why", box=None, pad_edge=False)
        for reason in answer["reasons"]:
            cells = (str(reason.get(key, "")) for key in ("trigger", "state", "code", "have", "need", "detail"))
            # Text, not markup: evidence in a reason must not style the terminal.
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    numbers = answer.get("metrics") or {}
    if numbers:
        console.print(Text("  ".join(f"{name} {value}" for name, value in numbers.items()), style="dim"))
    if "decision_id" in answer:
        console.print(Text(f"decision {answer['decision_id']} as of {answer.get('as_of', '?')}", style="dim"))
