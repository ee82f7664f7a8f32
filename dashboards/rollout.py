"""The dashboard `rollout`: may it go on? The arms side by side, evidence against what is needed, and each decision."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import rollout_queries as queries
from isolation_monitor.dashboards.layout import ROLLOUT_UID, Row, chosen, dashboard, decisions, told
from isolation_monitor.dashboards.panels import (
    GREEN,
    NEUTRAL,
    RED,
    YELLOW,
    Column,
    Panel,
    Query,
    Words,
    bad_from,
    counts,
    graph,
    listing,
    none_allowed,
    states,
    tile,
)

_VERDICTS: Final = {1: Words("pass", GREEN), 0: Words("inconclusive", YELLOW), -1: Words("fail", RED), -2: Words("error", "purple")}
_LEGEND: Final = "{{rollout}} {{arm}}"


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """May this rollout go on? If not, why not, and how long until that is known?"""
    return dashboard(
        uid=ROLLOUT_UID,
        description="May this rollout go on? If not, why not, and how long until that is known?",
        links=links,
        rows=[
            Row("May it go on?", [failed(), blind(), least_evidence(), longest_wait(t), violations_on(), share_now()]),
            Row("Verdict and evidence", [verdicts(), evidence(), waits(t)]),
            Row("The arms side by side", [requests(), failures(), slowest(), violations()]),
            Row("What the triggers see", [error_excess(t), latency_excess(t), share()]),
            Row("What the gates count, and what they hold it to", [values(), thresholds()], collapsed=True),
        ],
        marks=[decisions(queries.decided()), told()],
        variables=[chosen("rollout", "Rollout", queries.ROLLOUTS)],
    )


# --- may it go on -----------------------------------------------------------------------------------------------------


def failed() -> Panel:
    return none_allowed(
        "Gates that failed",
        queries.gates_failed(),
        no_value="no rollout",
        description=(
            "Rollouts that must go back. 0 is good. Above: it is being taken back already where the collector may, else do it: "
            "`isomon rollout rollback NAME`. A failed gate stays failed until a person re-arms the rollout."
        ),
    )


def blind() -> Panel:
    return none_allowed(
        "Gates that cannot look",
        queries.gates_blind(),
        no_value="no rollout",
        alerts=["GateError"],
        description=(
            "Gates without a verdict because they cannot read what they judge by. 0 is good. Above, GateError: `isomon gate explain NAME` "
            "names the source that is away. The rollout waits meanwhile."
        ),
    )


def least_evidence() -> Panel:
    return tile(
        "Evidence so far",
        Query(queries.least_evidence()),
        unit="percentunit",
        decimals=0,
        steps=NEUTRAL,
        no_value="no rollout",
        trend=True,
        alerts=["RolloutStuck"],
        description=(
            "Of the evidence that is needed, the share that is there, of the gate that lacks most. Growing is good. Standing still, and "
            "RolloutStuck in the end: nobody gets the new version, or the service is idle."
        ),
    )


def longest_wait(t: Thresholds) -> Panel:
    return tile(
        "Longest wait",
        Query(queries.longest_wait()),
        unit="s",
        decimals=0,
        steps=bad_from((t.rollouts.max_waiting_s, YELLOW)),
        no_value="no rollout",
        alerts=["RolloutStuck"],
        description=(
            "Age of the evidence of the gate that waits longest. As long as the stage's soak and evidence take is good. Six hours, "
            "RolloutStuck: more traffic, less evidence, or back."
        ),
    )


def violations_on() -> Panel:
    return none_allowed(
        "Violations with it",
        queries.violations_in_range(),
        no_value="no rollout",
        description=(
            "Violations in the chosen time that touched requests of a rollout, either arm. 0 is the only good number. Above: read the "
            "evidence; those of `off` alone are older than the rollout."
        ),
    )


def share_now() -> Panel:
    return tile(
        "Share that has it",
        Query(f"max({queries.share_on()})"),
        unit="percentunit",
        decimals=1,
        steps=NEUTRAL,
        no_value="no rollout",
        trend=True,
        description=(
            "Of the requests with an arm, the share that has the new version, of the rollout that is farthest. Near its stage's "
            "percentage is good. Above zero after a rollback: some worker has not heard of it."
        ),
    )


# --- verdict and evidence ---------------------------------------------------------------------------------------------


def verdicts() -> Panel:
    return states(
        "Verdict of each gate",
        Query(queries.verdicts(), "{{service}} {{rollout}}"),
        words=_VERDICTS,
        no_value="no rollout",
        alerts=["GateError"],
        description=(
            "Pass is good: it may go on. Inconclusive: it waits for evidence. Fail: back. Error, GateError after a minute: it cannot look, "
            "and waits. A gap: nobody asks the gate any more."
        ),
    )


def evidence() -> Panel:
    return graph(
        "Evidence against what is needed",
        Query(queries.evidence(), "{{service}} {{rollout}}"),
        unit="percentunit",
        maximum=1,
        no_value="no rollout",
        alerts=["RolloutStuck"],
        description=(
            "1 is enough to pass. A straight way up is good; its slope says when. Flat for hours, RolloutStuck: what is missing does "
            "not come. It begins anew with each stage."
        ),
    )


def waits(t: Thresholds) -> Panel:
    return graph(
        "Waiting for a verdict",
        Query(queries.waits(), "{{service}} {{rollout}}"),
        unit="s",
        steps=bad_from((t.rollouts.max_waiting_s, YELLOW)),
        no_value="no rollout",
        alerts=["RolloutStuck"],
        description=(
            "Age of the evidence while a gate is inconclusive or in error; 0 with pass and fail. Short is good. At the line, "
            "RolloutStuck: decide what to do with it."
        ),
    )


# --- the arms side by side --------------------------------------------------------------------------------------------


def requests() -> Panel:
    return graph(
        "Requests of each arm",
        Query(queries.requests(), _LEGEND),
        unit="reqps",
        width=6,
        no_value="no rollout",
        description=(
            "What each arm serves. Steps at the changes of stage are good. `on` falls to zero after a rollback within seconds; `none` are "
            "requests whose flag could not be evaluated, and count for neither."
        ),
    )


def failures() -> Panel:
    return graph(
        "Failed requests of each arm",
        Query(queries.failed_share(), _LEGEND),
        unit="percentunit",
        width=6,
        no_value="no rollout",
        alerts=["RolloutErrors"],
        description=(
            "Share of each arm's requests that failed. Both alike is good, also where both are high. `on` above `off` for minutes: "
            "RolloutErrors; one spike alone proves nothing."
        ),
    )


def slowest() -> Panel:
    return graph(
        "Slowest requests of each arm",
        Query(queries.slowest(), _LEGEND),
        unit="s",
        width=6,
        no_value="no rollout",
        alerts=["RolloutLatency"],
        description=(
            "What the slowest 5 % take, to within a tenth. Both alike is good. `on` a tenth above `off`, and staying there: "
            "RolloutLatency. With little traffic it jumps without meaning anything."
        ),
    )


def violations() -> Panel:
    return counts(
        "Violations of each arm",
        Query(queries.violations(), _LEGEND),
        width=6,
        description=(
            "Violations that touched a request of a rollout. None is good, and one is enough to roll back. In `off` too: the fault "
            "is older than the rollout."
        ),
    )


# --- what the triggers see --------------------------------------------------------------------------------------------


def error_excess(t: Thresholds) -> Panel:
    return graph(
        "Errors of the new version beyond the old",
        Query(queries.error_excess(), "{{rollout}}"),
        unit="percent",
        minimum=None,
        steps=bad_from((t.rollouts.max_error_percent, RED)),
        no_value="no rollout",
        alerts=["RolloutErrors"],
        description=(
            "Percentage points in each minute. Around zero is good, however wide. The mean above the line, and surely above zero over "
            "ten minutes or more: RolloutErrors."
        ),
    )


def latency_excess(t: Thresholds) -> Panel:
    return graph(
        "Slowness of the new version beyond the old",
        Query(queries.latency_excess(), "{{rollout}}"),
        unit="percent",
        minimum=None,
        steps=bad_from((t.rollouts.max_slower_percent, RED)),
        no_value="no rollout",
        alerts=["RolloutLatency"],
        description=(
            "By how much the slowest 5 % are slower, in each minute with enough requests. Around zero is good. The mean above the "
            "line, and surely above zero: RolloutLatency."
        ),
    )


def share() -> Panel:
    return graph(
        "Share that has it, over time",
        Query(queries.share_on(), "{{rollout}}"),
        unit="percentunit",
        maximum=1,
        no_value="no rollout",
        description=(
            "The stage as users meet it. Near the stage's percentage is good; users differ in how much they ask. Far off for long: "
            "the two arms do not get the users that they should, and cannot be compared."
        ),
    )


# --- what the gates count ---------------------------------------------------------------------------------------------


def values() -> Panel:
    return listing(
        "Counted",
        Column("Rollout", "rollout"),
        Column("What", "name"),
        Column("Value", expr=queries.values(), decimals=4),
        rows=queries.values(),
        no_value="no rollout",
        description=(
            "The numbers of each gate's last answer, by the names that `isomon gate explain` explains. Growing is good. A number that "
            "is missing could not be counted."
        ),
    )


def thresholds() -> Panel:
    return listing(
        "Held to",
        Column("Rollout", "rollout"),
        Column("What", "name"),
        Column("Value", expr=queries.thresholds(), decimals=4),
        rows=queries.thresholds(),
        no_value="no rollout",
        description=(
            "What each gate asks for. As its owner wrote it is good. Another number than in the file: the file was not applied, "
            "or to another collector."
        ),
    )
