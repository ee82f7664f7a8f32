"""`isomon slo`: what an SLO file promises and when its alerts speak (`check`), and how much of each budget is left (`show`)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx2
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.alerts import slo
from isolation_monitor.alerts.slo import BurnAlert, Objective, SloError, Slos
from isolation_monitor.alerts.slo_rules import budget_left, burn_rate
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.prometheus_client import PrometheusAccess, why_unanswered

EXIT_OK, EXIT_SPENT, EXIT_USAGE = 0, 1, 2
_TIMEOUT_S: Final = 10.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Json = dict[str, Any]  # Any: JSON
_FileArgument = Annotated[Path, typer.Argument(help="The SLO file.", show_default="the product's own")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command(
    epilog="Exit codes: 0 the file can be used, 2 it cannot; the text says where. Rules of a file of your own:\n\n"
    "  python -m isolation_monitor.alerts.build --slo FILE --out FOLDER"
)
def check(file: _FileArgument = slo.SLO_FILE, as_json: _AsJson = False) -> None:
    """Check an SLO file and print what it means: budgets in time and events, and when its alerts speak."""
    slos = _loaded(file)
    if as_json:
        print(json.dumps(_meaning(slos)))
        return
    console = stdout_console(highlight=False)
    for objective in slos.objectives:
        _print_objective(console, slos, objective)


@app.command(
    epilog="Exit codes: 0 every budget has something left, 1 one is spent, 2 usage, or Prometheus does not answer or has no numbers."
)
def show(
    prometheus: Annotated[str, typer.Option(envvar="ISOMON_PROMETHEUS_URL", help="Address of Prometheus.")],
    file: _FileArgument = slo.SLO_FILE,
    service: Annotated[str | None, typer.Option(help="Only this service. [default: all but drills]")] = None,
    as_json: _AsJson = False,
) -> None:
    """Ask Prometheus how much of each budget is left and how fast it goes."""
    slos = _loaded(file)
    try:
        standings = _standings(slos, prometheus.rstrip("/"), service)
    except UsageError as error:
        _refuse(str(error))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, KeyError, TypeError) as error:
        _refuse(f"Prometheus at {prometheus} does not answer as one ({why_unanswered(error, prometheus)})")
    if not standings:
        _refuse("Prometheus has no numbers of these objectives: does it load the rules of this file, and were there events?")
    if as_json:
        print(json.dumps({"schema": "slo/1", "window": slos.window, "standings": [one.as_json() for one in standings]}))
    else:
        _print_standings(slos, standings)
    raise typer.Exit(EXIT_SPENT if any(one.left <= 0 for one in standings) else EXIT_OK)


def _loaded(file: Path) -> Slos:
    try:
        return slo.load(file)
    except SloError as error:
        _refuse(str(error))


def _refuse(why: str) -> NoReturn:
    print(f"isomon slo: {why}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


# --- what a file means ------------------------------------------------------------------------------------------------


def budget_minutes(slos: Slos, objective: Objective) -> float:
    """Return for how many minutes of the window everything may fail, at even traffic.

    For 99.99 % of 30 days: 4.32.
    """
    return round(slos.window.seconds * objective.budget / 60, 6)


def _meaning(slos: Slos) -> Json:
    return {
        "schema": "slo-check/1",
        "window": slos.window,
        "min_bad_events": slos.min_bad_events,
        "objectives": [
            {
                "name": one.name,
                "promise": one.promise,
                "indicator": one.indicator,
                "objective_percent": one.objective_percent,
                "budget_ratio": one.budget,
                "budget_minutes": budget_minutes(slos, one),
                "alerts": [_alert_meaning(slos, one, alert) for alert in slos.burn_alerts],
            }
            for one in slos.objectives
        ],
    }


def _alert_meaning(slos: Slos, objective: Objective, alert: BurnAlert) -> Json:
    rate = alert.burn_rate(slos.window)
    share = rate * objective.budget
    return {
        "action": alert.action,
        "long": alert.long,
        "short": alert.short,
        "budget_share": alert.budget_share,
        "burn_rate": rate,
        # Above this share of bad events; 1 or more cannot happen.
        "bad_share": share if share < 1 else None,
        "total_outage_s": round(share * alert.long.seconds, 3) if share < 1 else None,
        "events_below_which_the_least_number_rules": round(slos.min_bad_events / share) if share < 1 else None,
    }


def _print_objective(console: Console, slos: Slos, objective: Objective) -> None:
    minutes, budget = budget_minutes(slos, objective), objective.budget
    console.print(Text(objective.name, "bold"), f"{objective.objective_percent:g} % over {slos.window}")
    console.print(f"  {objective.promise}", soft_wrap=True)
    console.print(f"  counted: {_counted(objective)}", soft_wrap=True)
    console.print(
        f"  budget: {budget * 100:g} % of events, 1 of {1 / budget:,.0f}; at even traffic {_span(minutes * 60)} of everything failing"
    )
    table = Table("action", "burn rate", "windows", "bad events above", "of the budget", "total outage", "events", box=None, pad_edge=False)
    for alert in slos.burn_alerts:
        found = _alert_meaning(slos, objective, alert)
        never = found["bad_share"] is None
        table.add_row(
            alert.action,
            f"{found['burn_rate']:g}",
            f"{alert.long} and {alert.short}",
            "never" if never else f"{found['bad_share'] * 100:.4g} %",
            f"{alert.budget_share * 100:g} % in {alert.long}",
            "-" if never else f"after {_span(found['total_outage_s'])}",
            "-" if never else f"{found['events_below_which_the_least_number_rules']:,}",
        )
    console.print(table)
    if any(_alert_meaning(slos, objective, alert)["bad_share"] is None for alert in slos.burn_alerts):
        console.print("  never: even if all events were bad, this budget would not burn so fast. Those alerts cannot speak for it.")
    console.print(
        f"  events: with fewer in the long window, the share alone decides nothing; {slos.min_bad_events} bad events are needed\n",
        soft_wrap=True,
    )


def _counted(objective: Objective) -> str:
    routes = ""
    if objective.routes or objective.routes_except:
        besides = f", but not {objective.routes_except}" if objective.routes_except else ""
        routes = f" (routes {objective.routes or 'of all kinds'}{besides})"
    what = {
        "availability": ", ".join(source + (routes if source == "requests" else "") for source in objective.of),
        "answers": f"answers within {objective.within_s * 1000:g} ms{routes}",
        "first_event": f"first events within {objective.within_s * 1000:g} ms of their run's start",
    }[objective.indicator]
    return what + (f", of services {objective.services}" if objective.services else "")


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


# --- how it stands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """How one objective of one service stands. `left` is the share of the budget, 1 for all; `burns` by window."""

    service: str
    objective: Objective
    left: float
    left_minutes: float
    burns: dict[Duration, float]

    def as_json(self) -> Json:
        return {
            "service": self.service,
            "slo": self.objective.name,
            "objective_percent": self.objective.objective_percent,
            "budget_left_ratio": self.left,
            "budget_left_minutes": self.left_minutes,
            "burn_rates": dict(self.burns),
        }


def _standings(slos: Slos, prometheus: str, service: str | None) -> list[Standing]:
    """Ask for the recorded series; raises httpx2.HTTPError, or ValueError, KeyError, TypeError for an answer of another shape."""
    by_name = {one.name: one for one in slos.objectives}
    longs = [alert.long for alert in slos.burn_alerts]
    with PrometheusAccess.from_env().client(_TIMEOUT_S) as client:

        def ask(series: str) -> dict[tuple[str, str], float]:
            # A service whose name holds a colon exists only in a drill.
            answer = client.get(f"{prometheus}/api/v1/query", params={"query": f'{series}{{service!~"drill:.+"}}'})
            found = answer.raise_for_status().json()["data"]["result"]
            return {(one["metric"]["service"], one["metric"]["slo"]): float(one["value"][1]) for one in found}

        left = ask(budget_left(slos))
        burns = {window: ask(burn_rate(window)) for window in longs}
    return [
        Standing(
            of,
            by_name[name],
            ratio,
            round(ratio * budget_minutes(slos, by_name[name]), 3),
            {window: rates[of, name] for window, rates in burns.items() if (of, name) in rates},
        )
        for (of, name), ratio in sorted(left.items())
        if name in by_name and service in (None, of)
    ]


def _print_standings(slos: Slos, standings: list[Standing]) -> None:
    longs = [alert.long for alert in slos.burn_alerts]
    table = Table(
        "service", "objective", "promised", "budget left", "in time", *(f"burn {window}" for window in longs), box=None, pad_edge=False
    )
    for one in standings:
        color = "red" if one.left <= 0 else "green"
        table.add_row(
            Text(one.service),
            one.objective.name,
            f"{one.objective.objective_percent:g} %",
            Text(f"{one.left * 100:.1f} %", color),
            f"{one.left_minutes:.3g} min",
            *(f"{one.burns[window]:.2f}" if window in one.burns else "-" for window in longs),
        )
    stdout_console(highlight=False).print(table)
