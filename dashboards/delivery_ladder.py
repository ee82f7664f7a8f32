"""Panels of the dashboard `event-delivery`: how far events got, what became of them, and what waits for users."""

from __future__ import annotations

from isolation_monitor.alerts.recording import DELIVERY_CEILING, DELIVERY_FLOOR
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.panels import NEUTRAL, Panel, Query, counts, graph, tile
from isolation_monitor.telemetry import names

_ALERTS = ("EventDeliveryBelow99", "EventDeliveryBelow95")


def highest_rungs() -> Panel:
    """Which rung "delivered" means, for how many of the events."""
    return graph(
        "Events, by the highest rung of their connection",
        Query(queries.rate(names.EVENTS_SETTLED, "highest"), "{{highest}}"),
        unit="cps",
        stacked=True,
        no_value="no events",
        description=(
            "What delivered means for them. client_acked is good: the page's own code said so. "
            "pong_acked: the browser's network stack had it. kernel_acked: the next hop's "
            "kernel, behind a proxy the proxy's. sent: handed to the server, which proves nothing. Let pages ask for the envelope."
        ),
    )


def floor_and_ceiling(t: Thresholds) -> Panel:
    return graph(
        "Delivery rate between floor and ceiling",
        Query(queries.recorded(DELIVERY_CEILING), "{{service}}, at most"),
        Query(queries.recorded(names.EVENT_DELIVERY_RATE), "{{service}}"),
        Query(queries.recorded(DELIVERY_FLOOR), "{{service}}, at least"),
        unit="percent",
        decimals=2,
        minimum=None,
        maximum=100,
        no_value="no events",
        alerts=("EventDeliveryUnknown",),
        description=(
            f"Over {t.delivery.window}. The floor counts every event without an answer as lost, the ceiling as delivered; the rate leaves "
            "them out. Close together is good. Far apart: clients go away or fall silent, and nobody can say what they got."
        ),
    )


def outcomes() -> Panel:
    return graph(
        "What became of events",
        Query(queries.rate(names.EVENTS_SETTLED, "outcome"), "{{outcome}}"),
        unit="cps",
        stacked=True,
        no_value="no events",
        alerts=("EventDeliveryUnknown",),
        description=(
            "Each event once. Acknowledged is good. Replayed: it took a second sending, after a lost connection. Expired: nobody came "
            "back for it. Unknown: no answer before the deadline, or its worker died."
        ),
    )


def rung_rates() -> Panel:
    """Each rung against the events that could reach it."""
    reachable = {rung: names.HIGHEST_RUNGS[names.HIGHEST_RUNGS.index(rung) :] for rung in names.HIGHEST_RUNGS}
    return graph(
        "Share of events that reached each rung",
        *(
            Query(queries.share_of_rung(rung, highest), rung)
            for rung, highest in (("enqueued", ("client_acked",)), *((rung, reachable[rung]) for rung in names.HIGHEST_RUNGS))
        ),
        unit="percentunit",
        minimum=None,
        no_value="no events",
        alerts=_ALERTS,
        description=(
            "Each rung of the events whose connection supports it. All near 100 % is good; a rung trails by what is on its way. "
            "sent below emitted: the server refuses. kernel below sent: the network. pong below kernel: frozen clients. client below "
            "pong: the page's code."
        ),
    )


def dropped() -> Panel:
    return counts(
        "Events that will not be sent again",
        Query(queries.grown(names.EVENTS_DROPPED, queries.STEP, "reason"), "{{reason}}"),
        width=6,
        alerts=_ALERTS,
        description=(
            "Forgotten by the limits of a user's queue. Zero is good. number or bytes: a client takes events and acknowledges too slowly; "
            "raise `delivery_events` only if users miss something. age: nobody came back."
        ),
    )


def resumes() -> Panel:
    return graph(
        "Clients that came back",
        Query(queries.rate(names.RESUMES, "outcome"), "{{outcome}}"),
        unit="cps",
        description=(
            "resumed is good: they got what they had missed. unknown: they came to another worker, or too late; make connections sticky. "
            "refused: somebody named another user's stream; read the service's access log."
        ),
    )


def client_reports() -> Panel:
    return counts(
        "What clients saw in the numbers",
        Query(queries.grown(names.CLIENT_REPORTS, queries.STEP, "report"), "{{report}}"),
        description=(
            "Gaps, duplicates and disorder within one connection. Zero is the only good number: a WebSocket keeps its order, so a proxy "
            "or a client library between drops, repeats or mixes frames."
        ),
    )


def oldest_event() -> Panel:
    return tile(
        "Oldest event without an answer",
        Query(f"max({queries.scraped(names.QUEUE_AGE_MAX)})"),
        unit="s",
        decimals=1,
        steps=NEUTRAL,
        trend=True,
        width=8,
        description=(
            "How long one user has been waiting at most. A second or two is good. Rising: one client does not keep up or is gone and not "
            "noticed yet; the depths beside show how many, `isomon queues` whose."
        ),
    )


def longest_queue() -> Panel:
    return tile(
        "Longest queue of a user",
        Query(f"max({queries.scraped(names.QUEUE_EVENTS_MAX)})"),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        width=8,
        description=(
            "Events that wait for the one user with most. A few are normal. It ends at `delivery_events`: from there on the oldest are "
            "forgotten. `isomon queues` names the deepest, by hash, and says whether they are connected."
        ),
    )


def largest_queue() -> Panel:
    return tile(
        "Largest queue of a user",
        Query(f"max({queries.scraped(names.QUEUE_BYTES_MAX)})"),
        unit="bytes",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        width=8,
        description=(
            "Text that waits for the one user with most. A few kilobytes are normal. It ends at `delivery_bytes`; memory follows, a moment "
            "later."
        ),
    )


def queue_depths() -> Panel:
    return graph(
        "Events waiting, by user",
        Query(queries.quantile(0.5, names.QUEUE_EVENTS), "half of those who wait"),
        Query(queries.quantile(0.99, names.QUEUE_EVENTS), "slowest 1 %"),
        unit="none",
        no_value="nobody waits",
        width=6,
        description=(
            "Of the users for whom something waits, looked at each second. Small is good. Only the top line rises: single slow clients. "
            "Both rise: the service sends faster than its users read."
        ),
    )


def queue_sizes() -> Panel:
    return graph(
        "Text waiting, by user",
        Query(queries.quantile(0.5, names.QUEUE_BYTES), "half of those who wait"),
        Query(queries.quantile(0.99, names.QUEUE_BYTES), "slowest 1 %"),
        unit="bytes",
        no_value="nobody waits",
        width=6,
        description="As the events beside: small is good. Rising without more events: the frames got larger.",
    )


def queue_ages() -> Panel:
    return graph(
        "Age of the oldest waiting event, by user",
        Query(queries.quantile(0.5, names.QUEUE_AGE), "half of those who wait"),
        Query(queries.quantile(0.99, names.QUEUE_AGE), "slowest 1 %"),
        unit="s",
        no_value="nobody waits",
        width=6,
        description=(
            "Depth can hide behind a fast sender; age cannot. Below a second is good. At `delivery_wait_s` events are given up as unknown "
            "or expired."
        ),
    )
