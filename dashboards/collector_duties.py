"""The row of `monitor-health` on the collector's own duties: to forget in time, and to let in only whom its keys name now."""

from __future__ import annotations

from isolation_monitor.alerts.collector_alerts import KEYS_STALE, LAST_ROUND, ROUND_INTERVAL
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import health_queries as queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, RED, Panel, Query, Words, counts, graph, states


def row(t: Thresholds) -> Row:
    """Expiry, room, sums, keys."""
    return Row("Does the collector keep house?", [last_round(t), forgotten(), room(), summed_up(), keys(), key_reloads()])


def last_round(t: Thresholds) -> Panel:
    remembered = queries.of_collector(LAST_ROUND, window=t.collector.rounds_remembered)
    return graph(
        "Collector: time since the last round of expiry",
        Query(f"time() - (max(max_over_time({remembered})) > 0)", "since the last whole round"),
        Query(f"{t.collector.max_missed_rounds} * max({queries.of_collector(ROUND_INTERVAL)})", "too late from here"),
        unit="s",
        no_value="no round yet",
        alerts=["IsolationRetentionStale"],
        description=(
            "Saw teeth of one interval are good. Rising above the second line: no replica forgets any more; evidence is kept for longer "
            "than was promised and the store grows. The leader's log says why."
        ),
    )


def forgotten() -> Panel:
    return counts(
        "Collector: forgotten by age and size",
        Query(queries.collector_grown("isolation_collector_expired_rows_total", "table"), "{{table}}"),
        Query(queries.collector_grown("isolation_collector_partitions_dropped_total"), "days dropped whole"),
        alerts=["IsolationRetentionStale"],
        description=(
            "Rows of each table that were older than they are kept; on PostgreSQL whole days go at once. Some each day is normal once the "
            "store is as old as it keeps. Much at once: the store was over COLLECTOR_KEEP_BYTES."
        ),
    )


def room() -> Panel:
    return graph(
        "Collector: bytes of evidence",
        Query(f"max({queries.of_collector('isolation_collector_store_bytes')})", "evidence"),
        unit="bytes",
        no_value="no round yet",
        alerts=["IsolationRetentionStale", "IsolationEvidenceRefused"],
        description=(
            "What the leading replica last found. Level once the store is as old as it keeps is good. Growing on: more arrives each day, "
            "or nothing is forgotten; look at the panels beside it, then at which service sends."
        ),
    )


def summed_up() -> Panel:
    return counts(
        "Collector: rounds of summing up",
        Query(queries.collector_grown("isolation_collector_rollup_rounds_total", "result"), "{{result}}"),
        colors={"ok": GREEN, "failed": RED},
        alerts=["IsolationRollupsFailing"],
        description=(
            "One a minute, in the replica that leads. Only ok is good. Failed at each round: a day or an hour is too much for the store, "
            "or it is away; the leader's log says which. Answers stay right, but those over many days get slow."
        ),
    )


def keys() -> Panel:
    return states(
        "Collector: keys as their files say",
        Query(f"max by (instance) ({queries.of_collector(KEYS_STALE)})", "{{instance}}"),
        words={0: Words("current", GREEN), 1: Words("STALE", RED)},
        alerts=["IsolationKeysStale"],
        description=(
            "Whether each replica could read its files of keys when they last changed. Current is good. Stale: new keys do not open it, "
            "revoked ones still do; mend the file, it is read again within a second."
        ),
    )


def key_reloads() -> Panel:
    return counts(
        "Collector: keys read again, requests refused",
        Query(queries.collector_grown("isolation_collector_key_reloads_total", "result"), "reload {{result}}"),
        Query(queries.collector_grown("isolation_collector_requests_refused_total", "reason"), "refused: {{reason}}"),
        alerts=["IsolationKeysStale"],
        description=(
            "Reloads should be as rare as changes of keys. Refusals for unknown or expired tokens after one: somebody still has the old "
            "key. Refusals for requests, records or bytes: a key goes faster than it may."
        ),
    )
