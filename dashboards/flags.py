"""The dashboard `flags`: who is served by which variant, how each fares, and does every worker know the rules?

The gate's own view of a rollout, with evidence and decisions, is another dashboard; this one shows what services measured.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import FLAGS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import NEUTRAL, Panel, Query, counts, graph, none_allowed, tile
from isolation_monitor.telemetry import names


def build(_t: Thresholds, links: Links) -> models.Dashboard:
    """Who gets what, and does it do them good?"""
    return dashboard(
        uid=FLAGS_UID,
        description="Who is served by which variant, how does each fare, and does every worker know the rules?",
        links=links,
        rows=[
            Row("Who gets what", [with_the_variant(), violations_now(), undecided_now(), stale_now(), share(), traffic()]),
            Row("How each variant fares", [errors(), slowest(), half(), violations()]),
            Row("The rules", [reasons(), fetches(), stale()]),
        ],
    )


# --- who gets what ----------------------------------------------------------------------------------------------------


def with_the_variant() -> Panel:
    return tile(
        "Served by the variant",
        Query(queries.rate(names.GATE_REQUESTS, arm="on")),
        unit="reqps",
        decimals=1,
        steps=NEUTRAL,
        no_value="no rollout",
        trend=True,
        width=6,
        description=(
            "Requests a second that were given `on` by some rollout. Following the stage is good. Above zero after a rollback: some "
            "worker does not know of it, or a connection lives on with what it was given; look at the rules below."
        ),
    )


def violations_now() -> Panel:
    return none_allowed(
        "Violations with the variant",
        queries.grown(names.GATE_VIOLATIONS, queries.RANGE, arm="on", grade=queries.ONE_OF_SCORED),
        no_value="no rollout",
        width=6,
        description=(
            "Violations in the chosen time that touched a request which was given `on`. 0 is the only good number. Above: the gate has "
            "rolled back already where it may; else do so, then read the evidence."
        ),
    )


def undecided_now() -> Panel:
    return tile(
        "Without an arm",
        Query(queries.rate(names.GATE_REQUESTS, arm="none")),
        unit="reqps",
        decimals=1,
        steps=NEUTRAL,
        no_value="no rollout",
        trend=True,
        width=6,
        description=(
            "Requests a second whose evaluation failed or fell back to the code's default. Zero is good. Above: they count for neither "
            "arm; the reasons below say why."
        ),
    )


def stale_now() -> Panel:
    return none_allowed(
        "Workers out of touch",
        queries.out_of_touch(),
        width=6,
        alerts=["FlagsStale"],
        description=(
            "Workers that have heard nothing of the rules for a minute. 0 is good. Above: users keep what they have there, and a "
            "rollback does not arrive; after five minutes more, FlagsStale. Look at the collector and the way to it."
        ),
    )


def share() -> Panel:
    return graph(
        "Share of requests with the variant",
        Query(queries.share_with_variant("service", "rollout"), "{{service}} {{rollout}}"),
        unit="percentunit",
        maximum=1,
        width=12,
        no_value="no rollout",
        description=(
            "Of the requests that were given an arm, the share with `on`. Near the stage's percentage is good; users differ in how "
            "much they ask, so it wanders. Far off for long: evaluations fail for one kind of users."
        ),
    )


def traffic() -> Panel:
    return graph(
        "Requests, by rollout and arm",
        Query(queries.rate(names.GATE_REQUESTS, "rollout", "arm"), "{{rollout}} {{arm}}"),
        unit="reqps",
        stacked=True,
        width=12,
        no_value="no rollout",
        description=(
            "What each arm serves. Steps at each change of stage are good. An arm that falls to zero between changes: its users left, or "
            "something answers instead of the service."
        ),
    )


# --- how each fares ---------------------------------------------------------------------------------------------------


def errors() -> Panel:
    return graph(
        "Failed requests, by arm",
        Query(queries.error_share_of_arms(), "{{rollout}} {{arm}}"),
        unit="percentunit",
        no_value="no rollout",
        description=(
            "Share of each arm's requests that failed on the server's side. Both alike is good. `on` above `off` for minutes: the gate "
            "is counting it; a single spike is not yet evidence."
        ),
    )


def slowest() -> Panel:
    return graph(
        "Slowest 5 %, by arm",
        Query(queries.quantile(0.95, names.GATE_DURATION, "rollout", "arm"), "{{rollout}} {{arm}}"),
        unit="s",
        no_value="no rollout",
        description=(
            "What the slowest twentieth of requests and messages takes, to within a tenth. Both alike is good. `on` a tenth above "
            "`off`, and staying there: that is what the gate rolls back for."
        ),
    )


def half() -> Panel:
    return graph(
        "Half of all, by arm",
        Query(queries.quantile(0.5, names.GATE_DURATION, "rollout", "arm"), "{{rollout}} {{arm}}"),
        unit="s",
        no_value="no rollout",
        description=(
            "What a usual request takes. Both alike is good. `on` above `off` here and in the slowest alike: everything got slower; here "
            "alone: the many cheap ones did."
        ),
    )


def violations() -> Panel:
    return counts(
        "Violations, by arm and grade",
        Query(queries.grown(names.GATE_VIOLATIONS, queries.STEP, "rollout", "arm", "grade"), "{{rollout}} {{arm}}, {{grade}}"),
        width=24,
        description=(
            "Violations that touched a request of a rollout; `on` where either side had it. None is good. In `off` too: the fault is "
            "older than the rollout, and rolling back will not mend it."
        ),
    )


# --- the rules --------------------------------------------------------------------------------------------------------


def reasons() -> Panel:
    return graph(
        "Evaluations, by reason",
        Query(queries.rate(names.FLAG_EVALUATIONS, "reason"), "{{reason}}"),
        unit="cps",
        stacked=True,
        no_value="no rollout",
        description=(
            "Why flags had the value that they had. Split and static are good. Error: no targeting key, an unknown flag, or rules that "
            "never arrived; default: another provider answers."
        ),
    )


def fetches() -> Panel:
    return graph(
        "Questions to the collector",
        Query(queries.rate(names.FLAG_FETCHES_TOTAL, "result"), "{{result}}"),
        unit="cps",
        no_value="nobody asks",
        description=(
            "How workers learn the rules. One answer each 25 s and worker is good. Failed for long: the collector is away, or refuses "
            "the token; users keep what they have."
        ),
    )


def stale() -> Panel:
    return counts(
        "Workers out of touch, by service",
        Query(queries.out_of_touch("service"), "{{service}}"),
        alerts=["FlagsStale"],
        description=(
            "Workers that have heard nothing of the rules for a minute. None is good. All of one service, and FlagsStale: its token or its "
            "way to the collector; all services: the collector."
        ),
    )
