"""`isomon drill`: causes every alert on an invented service and checks that its notification arrives at the drill receiver."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import httpx2
import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.alerts.drills import RECIPES, drilled, own_wait_s
from isolation_monitor.cli.collector_client import (
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
    seconds,
)
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.demonstration import stack
from isolation_monitor.cli.drill_page import DrillTarget, announced, serving
from isolation_monitor.cli.drill_rollout import DrillRollout
from isolation_monitor.cli.drill_watch import Drill, Watch
from isolation_monitor.cli.prometheus_client import why_unanswered
from isolation_monitor.cli.termination import ended_politely
from isolation_monitor.telemetry.names import DRILL_PREFIX

SCHEMA: Final = "drill/1"
EXIT_OK, EXIT_MISSED, EXIT_USAGE = 0, 1, 2
KNOWN_WITHIN_S: Final = 60.0
"""For Prometheus to find the targets and read their quietest page twice: it looks for files each 10 s, reads each 15 s."""
_POLL_S: Final = 0.5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, subcommand_metavar="")

_EPILOG = """Exit codes: 0 every alert arrived in time, 1 one did not, 2 usage. Nobody is paged: drills go to the receiver `drill`.

Examples:

  isomon drill                                       the running demonstration, all alerts

  isomon drill --alert IsolationViolation --alert SessionLeak --json

  isomon drill --service shop --prometheus http://localhost:9090 --collector http://localhost:8400 --token-file secrets/read_token
--folder deploy/drills --listen 0.0.0.0 --seen-as host.docker.internal      the stack in containers
"""


@app.callback(invoke_without_command=True, epilog=_EPILOG)
def cause(
    alert: Annotated[list[str] | None, typer.Option(help="Only this alert; may be given again. [default: all]")] = None,
    service: Annotated[str, typer.Option(help="In whose name: the invented services are called drill:SERVICE:….")] = "chat",
    prometheus: Annotated[str | None, typer.Option(help="Address of Prometheus. [default: of the running demonstration]")] = None,
    alertmanager: Annotated[str | None, typer.Option(help="Address of Alertmanager, to tell where an alert got stuck.")] = None,
    collector: Annotated[str | None, typer.Option(envvar=URL_ENV, help="Address of the collector, the drill receiver.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
    operate_token_file: Annotated[
        Path | None, typer.Option(help="File with a token that may operate, for RolloutRolledBack. [default: that of --token-file]")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="The folder of targets that Prometheus watches (drill_folder).")] = None,
    listen: Annotated[str, typer.Option(help="Address on which the invented services answer.")] = "127.0.0.1",
    seen_as: Annotated[str | None, typer.Option(help="Host by which Prometheus reaches them. [default: that of --listen]")] = None,
    within: Annotated[str, typer.Option(help="How long a notification may take beside the alert's own wait: 30s, 1m.")] = "30s",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report (drill/1) and nothing else.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
) -> None:
    """Cause every alert on invented services and check that Prometheus, its rules, Alertmanager and the collector deliver it."""
    try:
        chosen = _chosen(alert)
        limit_s = seconds(within)
        parts = stack(
            prometheus,
            collector,
            folder,
            token_file=token_file,
            alertmanager=alertmanager,
            instead="pass --prometheus, --collector and --folder of your own stack",
        )
        # The files that announce a drill must not stay.
        with ended_politely(), CollectorClient(parts.collector, read_token(parts.token_file)) as client:
            watch = Watch(client, parts.prometheus, parts.alertmanager)
            with CollectorClient(parts.collector, read_token(operate_token_file or parts.token_file)) as operating:
                rollout = DrillRollout(operating, service)
                found = _run(watch, chosen, service, rollout, parts.folder, listen, seen_as or listen, limit_s)
    except UsageError as error:
        print(f"isomon drill: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except (NoAnswer, httpx2.HTTPError, OSError) as error:
        print(f"isomon drill: {why_unanswered(error, prometheus or '')}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(found))
    else:
        _print_table(found)
    raise typer.Exit(EXIT_OK if found["ok"] else EXIT_MISSED)


def _chosen(names: Sequence[str] | None) -> list[str]:
    known = [alert.name for alert in drilled()]
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise UsageError(f"no such alert: {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def _run(
    watch: Watch, chosen: Sequence[str], service: str, rollout: DrillRollout, folder: Path, listen: str, seen_as: str, within_s: float
) -> dict[str, Any]:  # Any: JSON
    """Drill the chosen alerts at the same time and return the report."""
    run = secrets.token_hex(3)
    by_name = {alert.name: alert for alert in drilled()}
    drills = [
        Drill(
            by_name[name],
            DrillTarget(name, rollout.service if RECIPES[name].rolls_back else f"{DRILL_PREFIX}{service}:{name}:{run}", RECIPES[name]),
            own_wait_s(by_name[name]),
            within_s,
        )
        for name in chosen
    ]
    started = time.time()
    targets = [drill.target for drill in drills if drill.recipe.has_page]
    takes_back = any(drill.recipe.rolls_back for drill in drills)
    watch.require()
    with (
        rollout.started() if takes_back else nullcontext(),
        serving(targets, listen) as port,
        announced(targets, folder, f"{seen_as}:{port}", run),
    ):
        _wait_until_known(targets)
        watch.remember(drills)
        for one in drills:
            one.begin()
        try:
            if takes_back:
                rollout.take_back()
            while any(one.is_open for one in drills):
                watch.look(drills)
                time.sleep(_POLL_S)
        finally:
            for one in drills:
                one.heal()
    return {
        "schema": SCHEMA,
        "run": run,
        "service": service,
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "within_s": within_s,
        "alerts": [one.as_json() for one in drills],
        "ok": all(one.ok for one in drills),
    }


def _wait_until_known(targets: Sequence[DrillTarget]) -> None:
    """Return when Prometheus has read every target's page while all was well."""
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while unknown := [target.alert for target in targets if not target.is_known()]:
        if time.monotonic() > deadline:
            raise UsageError(
                f"Prometheus has not read the pages of {', '.join(unknown)} within {KNOWN_WITHIN_S:.0f} s: "
                "does it watch --folder, and does it reach this machine by --seen-as?"
            )
        time.sleep(0.1)


def _print_table(found: dict[str, Any]) -> None:  # Any: JSON
    table = Table("alert", "severity", "action", "arrived after", "own wait", "allowed", "result", box=None, pad_edge=False)
    for row in found["alerts"]:
        arrived = "-" if row["arrived_after_s"] is None else f"{row['arrived_after_s']:.1f} s"
        result = Text("arrived", "green") if row["ok"] else Text(f"MISSED: {row['stage']}", "bold red")
        cells = (row["alert"], row["severity"], row["action"], arrived, f"{row['own_wait_s']:.0f} s", f"{row['allowed_s']:.0f} s")
        table.add_row(*(Text(cell) for cell in cells), result)
    console = stdout_console()
    console.print(table)
    arrived = sum(row["ok"] for row in found["alerts"])
    console.print(f"{arrived} of {len(found['alerts'])} alerts arrived at the drill receiver; nobody was paged")
