"""The dashboard `event-delivery`: does every run's every event reach its user, and only its user?

Events climb rungs: emitted by the application, enqueued, sent, acknowledged by the kernel, by a pong, by the client. An event
is delivered when it reached the highest rung that its connection supports; the ladder's panels say which that was.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import delivery_ladder as ladder
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import DELIVERY_UID, Row, dashboard
from isolation_monitor.dashboards.panels import GREEN, NEUTRAL, ORANGE, Panel, Query, Step, counts, good_from, graph, none_allowed, tile
from isolation_monitor.telemetry import names

_RUNG: Final = (
    "Delivered means acknowledged on the highest rung that the connection supports: by the client, by a pong, by the kernel, or only sent."
)


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Does every run reach its user with all of its events, in order, on the right socket?"""
    return dashboard(
        uid=DELIVERY_UID,
        description=f"Does every event of every run reach its user, and only its user? {_RUNG}",
        links=links,
        rows=[
            Row("Do users get what their runs owe them?", [rate_now(t), lost(), unfinished(), wrong_sockets(), active_runs(), run_p95()]),
            Row("Delivery", [delivery_rate(t), settled(), outcomes()]),
            Row("How far events got", [ladder.rung_rates(), ladder.highest_rungs(), ladder.outcomes()]),
            Row("What is not known, and who came back", [ladder.floor_and_ceiling(t), ladder.resumes(), ladder.client_reports()]),
            Row(
                "What waits for users",
                [
                    *(ladder.oldest_event(), ladder.longest_queue(), ladder.largest_queue()),
                    *(ladder.queue_ages(), ladder.queue_depths(), ladder.queue_sizes(), ladder.dropped()),
                ],
            ),
            Row("Events of runs", [emitted(), sent(), gap(), anomalies()]),
            Row("WebSockets", [connections(), handshakes(), messages(), foreign_sockets()]),
            Row("Runs", [durations(), runs_open()]),
        ],
    )


# --- do users get what their runs owe them ----------------------------------------------------------------------------


def _delivery_steps(t: Thresholds) -> tuple[Step, ...]:
    return good_from((t.delivery.rollback_below_percent, ORANGE), (t.delivery.page_below_percent, GREEN))


def rate_now(t: Thresholds) -> Panel:
    return tile(
        "Delivery rate",
        Query(queries.lowest_delivery_rate()),
        unit="percent",
        decimals=2,
        steps=_delivery_steps(t),
        no_value="no events",
        trend=True,
        alerts=["EventDeliveryBelow99", "EventDeliveryBelow95"],
        description=(
            f"Share of the events owed in the last {t.delivery.window} that were delivered, lowest of the chosen services, rounded "
            f"down. {_RUNG} 100 is good; below {t.delivery.page_below_percent} pages, below {t.delivery.rollback_below_percent} rolls "
            "back. Then look which event is missing below."
        ),
    )


def lost() -> Panel:
    return none_allowed(
        "Events lost",
        queries.grown(names.EVENT_DELIVERIES, queries.RANGE, result="lost"),
        alerts=["RunIncomplete", "EventDeliveryBelow99"],
        description=(
            "Events owed in the chosen time that never left, or were dropped by a limit before their user came back. 0 is good. Above: "
            "users watch runs that stand still; the evidence of their runs says which event is missing."
        ),
    )


def unfinished() -> Panel:
    return none_allowed(
        "Runs incomplete",
        queries.grown(names.RUNS, queries.RANGE, outcome="incomplete"),
        alerts=["RunIncomplete"],
        description=(
            "Runs in the chosen time that ended, or whose task died, without all of their events. 0 is good. Above: find the exception "
            "or the cancelled task in the evidence."
        ),
    )


def wrong_sockets() -> Panel:
    return none_allowed(
        "Events on a wrong socket",
        queries.grown(names.VIOLATIONS, queries.RANGE, kind=names.WRONG_SOCKET, synthetic="false"),
        no_value="blind",
        alerts=["WebSocketIsolationViolation"],
        description=(
            "Events of one user that were sent on another user's WebSocket in the chosen time. 0 is the only good number. Above: roll "
            "back first; the evidence names both connections."
        ),
    )


def active_runs() -> Panel:
    return tile(
        "Runs under way",
        Query(f"sum({queries.scraped(names.RUN_ACTIVE)})"),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        description=(
            "Runs started and not ended, now. Following the traffic is good. Rising without more traffic: runs hang; compare with the "
            "slowest durations."
        ),
    )


def run_p95() -> Panel:
    return tile(
        "Run duration, slowest 5 %",
        Query(queries.quantile(0.95, names.RUN_DURATION)),
        unit="s",
        decimals=1,
        steps=NEUTRAL,
        no_value="no runs ended",
        trend=True,
        description=(
            "What the slowest twentieth of users waits for a whole answer. Steady is good. Rising: tools or the model behind the agent "
            "are slow, or instances take long to create."
        ),
    )


# --- delivery ---------------------------------------------------------------------------------------------------------


def delivery_rate(t: Thresholds) -> Panel:
    return graph(
        "Delivery rate",
        Query(queries.recorded(names.EVENT_DELIVERY_RATE), "{{service}}"),
        unit="percent",
        decimals=2,
        steps=_delivery_steps(t),
        minimum=None,
        maximum=100,
        no_value="no runs ended",
        alerts=["EventDeliveryBelow99", "EventDeliveryBelow95"],
        description=(
            f"Delivery by service over the last {t.delivery.window}. {_RUNG} A flat line at 100 is good; a gap: no events. "
            "The dashed lines are where it pages and where it rolls back."
        ),
    )


def settled() -> Panel:
    return graph(
        "Events owed: delivered, lost, unknown",
        Query(queries.rate(names.EVENT_DELIVERIES, "result"), "{{result}}"),
        unit="cps",
        stacked=True,
        alerts=["EventDeliveryBelow99"],
        description=(
            "Nothing lost is good. Lost in steps: one code path. Lost everywhere: connections close before the run ends. Unknown: see "
            "what became of events below."
        ),
    )


def outcomes() -> Panel:
    return graph(
        "Runs by outcome",
        Query(queries.rate(names.RUNS, "outcome"), "{{outcome}}"),
        unit="cps",
        stacked=True,
        alerts=["RunIncomplete"],
        description=(
            "Mostly complete is good. Incomplete: owed events never left. Failed: the agent said so, which is honest. Abandoned: the "
            "user had gone. Cancelled: somebody stopped it."
        ),
    )


# --- events, rung by rung ---------------------------------------------------------------------------------------------


def emitted() -> Panel:
    return graph(
        "Emitted, by event",
        Query(queries.rate(names.EVENTS, "event", stage="emitted"), "{{event}}"),
        unit="cps",
        width=6,
        alerts=["RunIncomplete"],
        description=(
            "First rung: what the application said it would send. Started and completed should run together; a completed line below "
            "the started line means runs that never finish."
        ),
    )


def sent() -> Panel:
    return graph(
        "Sent, by event",
        Query(queries.rate(names.EVENTS, "event", stage="sent"), "{{event}}"),
        unit="cps",
        width=6,
        alerts=["EventDeliveryBelow99"],
        description="Second rung: what went out on a connection. The same shape as emitted is good. Lower: see the gap beside.",
    )


def gap() -> Panel:
    return graph(
        "Emitted and not sent, by event",
        Query(queries.gap_by_event(), "{{event}}"),
        unit="cps",
        minimum=None,
        width=6,
        alerts=["EventDeliveryBelow99", "EventDeliveryBelow95"],
        description=(
            "The distance between the rungs. Around zero is good, with small waves for events on their way. Lasting above zero: that "
            "event is emitted and lost before the socket."
        ),
    )


def anomalies() -> Panel:
    return counts(
        "Anomalies of runs",
        Query(queries.grown(names.EVENT_ANOMALIES_TOTAL, queries.STEP, "anomaly"), "{{anomaly}}"),
        width=6,
        alerts=["RunIncomplete", "WebSocketIsolationViolation"],
        description=(
            "Events missing, out of order, twice, after the end, or of another owner. Zero is good. wrong_owner is a leak: roll back. "
            "The others are ordering defects of the run's own code."
        ),
    )


# --- websockets -------------------------------------------------------------------------------------------------------


def connections() -> Panel:
    return counts(
        "WebSocket connections open",
        Query(f"sum by (service) ({queries.scraped(names.WEBSOCKET_ACTIVE)})", "{{service}}"),
        stacked=False,
        width=6,
        description=(
            "Following the number of users is good. A cliff: a deploy or a crash, users reconnect. A slow rise that never falls: "
            "connections are not closed."
        ),
    )


def handshakes() -> Panel:
    return graph(
        "Handshakes, by outcome",
        Query(queries.rate(names.WEBSOCKET_CONNECTIONS, "outcome"), "{{outcome}}"),
        unit="cps",
        width=6,
        description=(
            "Accepted is good. Refused: bad or expired tokens, or a client that loops. Error: the handshake itself failed; see the "
            "service's log."
        ),
    )


def messages() -> Panel:
    return graph(
        "WebSocket messages, by direction",
        Query(queries.rate(names.WEBSOCKET_MESSAGES, "direction"), "{{direction}}"),
        unit="cps",
        width=6,
        description=(
            "Sent above received is normal: one question, several events. Received without sent: runs start and nothing comes back."
        ),
    )


def foreign_sockets() -> Panel:
    return counts(
        "Events on a wrong socket",
        Query(queries.recorded(names.WEBSOCKET_ISOLATION_VIOLATIONS), "{{service}}, since start"),
        Query(queries.grown(names.VIOLATIONS, queries.STEP, "service", kind=names.WRONG_SOCKET, synthetic="false"), "{{service}}, new"),
        stacked=False,
        width=6,
        alerts=["WebSocketIsolationViolation"],
        description=(
            "Zero is the only good line. Any step: data of one user was shown to another; roll back, then read the evidence of that minute."
        ),
    )


# --- runs -------------------------------------------------------------------------------------------------------------


def durations() -> Panel:
    return graph(
        "Run durations",
        Query(queries.quantile(0.5, names.RUN_DURATION), "half of all"),
        Query(queries.quantile(0.95, names.RUN_DURATION), "slowest 5 %"),
        Query(queries.quantile(0.99, names.RUN_DURATION), "slowest 1 %"),
        unit="s",
        no_value="no runs ended",
        width=12,
        description=(
            "From a run's start to its end. Three steady lines are good. Only the top one rises: single users wait. All rise: the "
            "agent or what it calls is slow."
        ),
    )


def runs_open() -> Panel:
    return counts(
        "Runs under way",
        Query(f"sum by (service) ({queries.scraped(names.RUN_ACTIVE)})", "{{service}}"),
        stacked=False,
        width=12,
        alerts=["RunIncomplete"],
        description="Returning to zero when traffic stops is good. A floor that stays: runs hang and their users wait for ever.",
    )
