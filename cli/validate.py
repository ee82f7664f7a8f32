"""`isomon validate`: a service in staging under load, planted faults, drills and its gate, for a day; a report at the end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli import validation_report
from isolation_monitor.cli.collector_client import (
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    UsageError,
    read_token,
    seconds,
)
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.demonstration import Stack, stack
from isolation_monitor.cli.termination import ended_politely
from isolation_monitor.cli.validation_journal import Journal, Plan, open_journal
from isolation_monitor.cli.validation_run import Validation
from isolation_monitor.cli.verdicts import COLOURS, EXIT_CODES

EXIT_USAGE: Final = 2
_NEVER: Final = "never"

Json = dict[str, Any]  # Any: JSON

EPILOG = """Exit codes: 0 pass, 10 fail, 20 inconclusive, 30 error (could not look), 2 usage. A restart with the same options goes on.

Examples:

  isomon validate --for 5m                                        the running demonstration

  isomon validate --for 24h --service shop --load "k6 run staging.js" --prometheus http://prometheus:9090
--collector http://collector:8400 --token-file secrets/read_token --folder deploy/drills --key staging.pem

  isomon validate --verify validation.json --public-key staging.pub
"""


def validate(
    for_: Annotated[str, typer.Option("--for", help="How long the service must have been in sight: 5m, 24h.")] = "24h",
    service: Annotated[str, typer.Option(help="The service, as in its metrics.")] = "chat",
    load: Annotated[str | None, typer.Option(help="Command that makes traffic; kept running. [default: somebody else does]")] = None,
    prometheus: Annotated[str | None, typer.Option(help="Address of Prometheus. [default: of the running demonstration]")] = None,
    collector: Annotated[str | None, typer.Option(envvar=URL_ENV, help="Address of the collector.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    folder: Annotated[Path | None, typer.Option(help="For drills: the folder of targets that Prometheus watches.")] = None,
    drill_every: Annotated[str, typer.Option(help=f"How often all alerts are caused: 1h, 15m, or {_NEVER}.")] = "1h",
    drill_option: Annotated[
        list[str] | None, typer.Option(help="Option for isomon drill, such as '--alert SessionLeak'; may be given again.")
    ] = None,
    look_every: Annotated[str, typer.Option(help="How often the gate is asked.")] = "30s",
    min_exposed_requests: Annotated[int, typer.Option(min=1, help="Clean exposed requests before the gate may pass.")] = 300,
    min_owed_events: Annotated[int, typer.Option(min=0, help="Owed events before it may pass; 0 for a service without runs.")] = 100,
    journal: Annotated[Path, typer.Option(help="What was seen so far; a restart goes on from it.")] = Path("validation.jsonl"),
    report: Annotated[Path, typer.Option(help="Where the report (validation/1) goes.")] = Path("validation.json"),
    key: Annotated[Path | None, typer.Option(help="Private key (Ed25519, PEM) that signs the report.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Only check this report's hash and signature.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="With --verify: whose signature it must be (PEM).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report and nothing else.")] = False,
) -> None:
    """Watch a service for a time and say whether it may go on: load, planted faults, drills and its gate, in one signed report."""
    try:
        if verify is not None:
            _verify(verify, public_key)
        if key is not None:
            validation_report.private_key(key)
        plan = Plan(
            service=service,
            for_s=seconds(for_),
            look_every_s=max(seconds(look_every), 0.2),
            drill_every_s=None if drill_every == _NEVER else seconds(drill_every),
            load=load,
            min_exposed_requests=min_exposed_requests,
            min_owed_events=min_owed_events,
        )
        parts = stack(
            prometheus,
            collector,
            # Without drills nobody reads the folder: any stands for it.
            folder or (Path() if plan.drill_every_s is None else None),
            token_file=token_file,
            instead="pass --prometheus, --collector and --folder (or --drill-every never)",
        )
        token = read_token(parts.token_file)
        kept, goes_on = open_journal(journal, plan)
        if goes_on:
            kept.add("resumed")
        drill = [] if plan.drill_every_s is None else _drill_command(service, parts, drill_option or [])
        with CollectorClient(parts.collector, token) as client:
            _watch(Validation(kept, client, parts.prometheus, drill, _progress(kept, as_json=as_json)), kept)
        found = validation_report.sealed(validation_report.report_of(kept), key)
    except UsageError as error:
        _refuse(str(error))
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(found))
    else:
        _print_report(found, report)
    raise typer.Exit(EXIT_CODES[found["verdict"]])


def _watch(validation: Validation, journal: Journal) -> None:
    try:
        # The load and a drill run in sessions of their own: nobody else would end them.
        with ended_politely():
            validation.run()
    except KeyboardInterrupt:
        _refuse(f"interrupted after {journal.observed_s:.0f} s; the same command goes on from {journal.path}")


def _drill_command(service: str, parts: Stack, options: list[str]) -> list[str]:
    command = [sys.executable, "-m", "isolation_monitor.cli", "drill", "--json", "--service", service]
    command += ["--prometheus", parts.prometheus, "--collector", parts.collector, "--folder", str(parts.folder)]
    if parts.token_file is not None:
        command += ["--token-file", str(parts.token_file)]
    return [*command, *(word for option in options for word in shlex.split(option))]


def _verify(file: Path, public: Path | None) -> NoReturn:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("schema") != validation_report.SCHEMA:
            raise UsageError(f"{file} is no report of a validation ({validation_report.SCHEMA})")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    wrong = validation_report.problems_of(report, public)
    for problem in wrong:
        print(f"{file}: {problem}", file=sys.stderr)
    if not wrong:
        signed = "signed" if "signature" in report else "not signed"
        print(f"{file}: whole, {signed}; {report['service']} {report['verdict']}, seen for {report['observed_s']:.0f} s")
    raise typer.Exit(1 if wrong else 0)


def _refuse(why: str) -> NoReturn:
    print(f"isomon validate: {why}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


# --- for people -------------------------------------------------------------------------------------------------------


def _progress(journal: Journal, *, as_json: bool) -> Callable[[], None]:
    """Return what says how far it is: on a terminal and in a log a line when the verdict changes and at each twentieth."""
    told: tuple[int, str] | None = None
    for_s = journal.plan.for_s

    def look() -> None:
        nonlocal told
        gate = next(entry for entry in reversed(journal.entries) if entry["kind"] == "gate")
        reached = int(20 * journal.observed_s / max(for_s, 1e-9)), gate["verdict"]
        if not as_json and reached != told:
            told = reached
            why = f": {gate['why']}" if gate["why"] else ""
            print(f"{journal.observed_s:6.0f} s of {for_s:.0f} s, gate {gate['verdict']}{why}", file=sys.stderr, flush=True)

    return look


def _print_report(found: Json, file: Path) -> None:
    console = stdout_console(highlight=False)
    verdict = found["verdict"]
    console.print(Text.assemble(f"{found['service']}: ", (verdict, f"bold {COLOURS[verdict]}"), f"  seen for {found['observed_s']:.0f} s"))
    if found["reasons"]:
        table = Table("about", "verdict", "why", box=None, pad_edge=False)
        for reason in found["reasons"]:
            table.add_row(*(Text(reason[key]) for key in ("about", "verdict", "detail")))
        console.print(table)
    gate, faults, drills = found["gate"], found["planted_faults"], found["drills"]
    console.print(f"gate     {gate['looks']} looks: " + ", ".join(f"{n} {one}" for one, n in gate["by_verdict"].items() if n))
    seen, missed = (sum(counts.get(one, 0) for counts in faults.values()) for one in ("seen", "missed"))
    console.print(f"faults   {seen} planted faults of {len(faults)} detectors were seen, {missed} missed")
    console.print(f"drills   {len(drills)}: {sum(one['arrived'] or 0 for one in drills)} notifications arrived in time")
    signed = " and signed" if "signature" in found else ""
    console.print(f"report   {file}, SHA-256 {found['content_sha256'][:16]}…{signed}")
