"""The one home of every name that leaves the process: metrics, labels, label values, detectors, kinds and grades.

Units are base units (seconds, bytes, ratios 0-1) except in the six public recorded series, whose names and units
are fixed by the people who already query them. Every label has a closed set of values, or a cap with the overflow
value `other`. Metric names are OpenTelemetry names under `UnderscoreEscapingWithSuffixes`, so a dashboard works
whether the numbers came by scrape or by OTLP. Label sets and bucket ladders come from the catalogue that
`docs/metrics.md` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

OTHER: Final = "other"
"""Value of a label whose cap is reached; each overflow counts in `isolation_monitor_dropped_total{reason="label_cap"}`."""

UNMATCHED: Final = "unmatched"
"""Route label of every request whose path matched no route template."""

DRILL_PREFIX: Final = "drill:"
"""Services of this prefix exist only for drills of alerts: nobody is woken for them, and no page lists them."""

# --- words ------------------------------------------------------------------------------------------------------------

VERDICTS: Final = ("isolated", "violated", "unverified")
GRADES: Final = ("crossed", "reachable", "hygiene")
TRANSPORTS: Final = ("http", "websocket")
ARMS: Final = ("on", "off", "none")
VARIANTS: Final = ("on", "off")
"""The arms that a rollout compares."""
BOOLEANS: Final = ("false", "true")
CHECK_RESULTS: Final = ("pass", "violation", "error", "skipped")

# Detectors: one class of check each, one file each; a violation's kind is its detector's name.
INHERITED_CONTEXT: Final = "inherited_context"
FOREIGN_CONTEXT: Final = "foreign_context"
INSTANCE_REUSE: Final = "instance_reuse"
SHARED_STATE: Final = "shared_state"
WRONG_SOCKET: Final = "wrong_socket"
FOREIGN_IDENTITY: Final = "foreign_identity"
FOREIGN_CONTENT: Final = "foreign_content"
CANARY: Final = "canary"
FOREIGN_CREDENTIAL: Final = "foreign_credential"
SHARED_CONNECTION: Final = "shared_connection"
DIRTY_HANDOVER: Final = "dirty_handover"
UNSCOPED_ACCESS: Final = "unscoped_access"
CACHE_OWNER: Final = "cache_owner"
FOREIGN_TASK: Final = "foreign_task"
TASK_LEAK: Final = "task_leak"
SESSION_LEAK: Final = "session_leak"
SLOW_CREATION: Final = "slow_creation"
INCOMPLETE_RUN: Final = "incomplete_run"
STUCK_RUN: Final = "stuck_run"
BAD_HANDSHAKE: Final = "bad_handshake"
UNROUTED_EVENT: Final = "unrouted_event"
LOOP_STALL: Final = "loop_stall"
STARVATION: Final = "starvation"
RESOURCE_TREND: Final = "resource_trend"
ID_RESOLUTION: Final = "id_resolution"

KIND_GRADES: Final[dict[str, tuple[str, ...]]] = {
    # Context of an earlier request of another principal was there at entry.
    INHERITED_CONTEXT: ("reachable", "crossed"),
    # A context variable or thread-local of a request names another principal than the request's own.
    FOREIGN_CONTEXT: ("reachable", "crossed"),
    # A factory declared to give a fresh instance gave one that another request had. Of the same principal: hygiene.
    INSTANCE_REUSE: ("hygiene", "reachable", "crossed"),
    # Mutable state that all requests reach holds what belongs to single principals, under no key of theirs.
    SHARED_STATE: ("reachable", "crossed"),
    # An event of one principal's run was sent on another principal's connection.
    WRONG_SOCKET: ("crossed",),
    # A declared identity field in an answer names another principal.
    FOREIGN_IDENTITY: ("crossed",),
    # A private value of one principal left in another's answer or frame; reachable: it was handed to another's store.
    FOREIGN_CONTENT: ("reachable", "crossed"),
    # A planted value was seen outside of the tenant it was planted for.
    CANARY: ("crossed",),
    # An outgoing call made for one principal carried another's credential or cookie.
    FOREIGN_CREDENTIAL: ("crossed",),
    # One session or connection was used by two owners at a time, or an answer on it was read by another than who asked.
    SHARED_CONNECTION: ("reachable", "crossed"),
    # A pooled connection was handed over with state of its previous owner: open transaction, SET, unread replies.
    DIRTY_HANDOVER: ("reachable", "crossed"),
    # A declared owned model was read without its owner in the query, or a row of another owner was loaded.
    UNSCOPED_ACCESS: ("reachable", "crossed"),
    # A cached value enveloped with its owner was read by another principal.
    CACHE_OWNER: ("reachable", "crossed"),
    # A task, job or generator that was started for one principal went on with the work of another.
    FOREIGN_TASK: ("reachable", "crossed"),
    # A task, thread or generator was still there after its request and the grace time.
    TASK_LEAK: ("hygiene",),
    # A database connection was still out after its request and the grace time.
    SESSION_LEAK: ("hygiene",),
    # A factory took longer than its budget (10 ms, requirement R3).
    SLOW_CREATION: ("hygiene",),
    # A run ended, or its task died, without the events it owed.
    INCOMPLETE_RUN: ("hygiene",),
    # A run that has not ended, and has neither emitted nor sent anything for too long.
    STUCK_RUN: ("hygiene",),
    # A WebSocket was let in for nobody, or for somebody else than it says.
    BAD_HANDSHAKE: ("hygiene",),
    # An event was emitted for a user without a connection, or sent of a run that nobody knows.
    UNROUTED_EVENT: ("hygiene",),
    # The event loop stood still, blamed on the request whose code held it.
    LOOP_STALL: ("hygiene",),
    # Requests waited for a lock, queue or pool that a request of another principal held, or failed because that one failed.
    STARVATION: ("hygiene",),
    # Memory, file handles, threads, children or tasks grew steadily.
    RESOURCE_TREND: ("hygiene",),
    # A run's id led to two threads (reachable), to another user's thread that was served (crossed), or to none (hygiene).
    ID_RESOLUTION: ("hygiene", "reachable", "crossed"),
}
DETECTORS: Final = tuple(KIND_GRADES)
GRADED_KINDS: Final = tuple((kind, grade) for kind, grades in KIND_GRADES.items() for grade in grades)

ALWAYS_AT_WORK: Final = (
    INHERITED_CONTEXT,
    INSTANCE_REUSE,
    WRONG_SOCKET,
    FOREIGN_IDENTITY,
    FOREIGN_CONTENT,
    FOREIGN_CONTEXT,
    SESSION_LEAK,
    SLOW_CREATION,
    INCOMPLETE_RUN,
    STUCK_RUN,
    ID_RESOLUTION,
)
"""Detectors that the reference service gives work to in every minute: the story fails when one of them checked nothing."""
"""Kinds of violation and the grades each can have. A violation whose grade rises counts once in each grade it reached."""

RUN_EVENTS: Final = (
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
    "agent_error",
    "agent_cancelled",
)
"""Default names of a run's events; a service can configure its own (at most 12)."""

PLANT_RESULTS: Final = ("seen", "missed")
DETECTOR_STATES: Final = ("proven", "grey", "untested", "off")
EVENT_ANOMALIES: Final = ("missing", "out_of_order", "duplicate", "wrong_owner", "after_end")
FAILURE_OUTCOMES: Final = ("contained", "escaped", "common_cause")
PROCESS_RESOURCE_NAMES: Final = ("memory", "fds", "threads", "children", "tasks")
RUN_OUTCOMES: Final = ("complete", "incomplete", "failed", "cancelled", "abandoned")
HANDSHAKE_OUTCOMES: Final = ("accepted", "refused", "timed_out", "no_principal", "principal_disagrees", "error")
CLOSED_BY: Final = ("client", "server", "nobody")
CLOSE_REASONS: Final = (
    "normal", "going_away", "no_status", "abnormal", "protocol", "policy", "error", "restart", "application", OTHER,
)  # fmt: skip
CONNECTION_STATES: Final = ("busy", "idle", "dead")
RUN_ROUTES: Final = ("connection", "answer", "none")
UNROUTED_REASONS: Final = ("no_connection", "unknown_run")
RUN_VERDICTS: Final = ("complete_in_order", "no_end", "gap", "disorder", "duplicate", "wrong_owner", "undeliverable")
ID_SOURCES: Final = ("registry", "orchestrator", "connection", "pattern")
"""Who is asked which thread a run belongs to, in this order."""
ID_RESULTS: Final = (*ID_SOURCES, "error")
ID_ASKED: Final = (*ID_SOURCES, "owner")
"""Who is asked at all: `owner` is the application's function that tells whose a thread is."""
ID_ANSWERS: Final = ("hit", "miss", "invalid", "timeout", "failed", "skipped")
"""invalid: an answer that is no thread; skipped: not asked, because it failed again and again or cannot be asked from here."""
ID_PATTERNS: Final = ("own", "declared", "embedded", "numbered", "separated", "uuid", "unconfirmed", "ambiguous", "damaged", "none")
ID_OUTCOMES: Final = (
    "own", "shared", "created", "unowned", "foreign_denied", "foreign_served", "run_thread_mismatch", "defaulted", "conflict", "unknown",
    "invalid",
)  # fmt: skip
"""What became of a resolution. unowned: whose the thread is, or who asks, is not known."""
ID_REGISTRATIONS: Final = ("created", "orchestrator", "connection", "pattern")
ID_STORED: Final = ("stored", "known", "conflict", "failed")
HTTP_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "_OTHER")

RUNGS: Final = ("emitted", "enqueued", "sent", "kernel_acked", "pong_acked", "client_acked")
"""How far an event got; `delivery/ladder.py`."""
HIGHEST_RUNGS: Final = ("sent", "kernel_acked", "pong_acked", "client_acked")
"""The highest rung that an event's connection supports."""
EVENT_OUTCOMES: Final = ("acknowledged", "replayed", "expired", "unknown")
EVENT_DROP_REASONS: Final = ("number", "bytes", "age")
RESUME_OUTCOMES: Final = ("resumed", "unknown", "refused")
CLIENT_REPORT_KINDS: Final = ("gaps", "duplicates", "disorder")

ROLLOUT_LIMIT: Final = 20
"""Rollouts that metrics tell apart in the life of a process."""
REQUEST_OUTCOMES: Final = ("ok", "error")
FLAG_REASONS: Final = ("static", "targeting_match", "split", "disabled", "default", "stale", "error", OTHER)
"""Why a flag had the value that it had, in OpenFeature's words; by default, stale and error a request has no arm."""
FLAG_FETCHES: Final = ("changed", "unchanged", "failed")

DROP_REASONS: Final = (
    "queue_full", "spool_full", "rejected", "corrupt", "expired", "label_cap", "series_cap", "rate_limited", "shutdown",
)  # fmt: skip
HOOKS: Final = (
    "middleware", "factory", "run", "sqlalchemy", "redis", "asyncpg", "psycopg", "http_client", "asyncio", "detector", "self_test",
    "housekeeper", "delivery", "exporter", "render", "principal", "resolution", "flags", "lifecycle",
)  # fmt: skip
"""Where in the monitor an error of its own happened."""
PHASE_LIMIT: Final = 20
"""Phases of a start-up that metrics tell apart."""
PHASE_RESULTS: Final = ("done", "failed")
LEFT_RESOURCES: Final = ("tasks", "threads", "children", "zombies", "files", "sockets", "temporary_files")
"""What a process can leave behind after its clean-up."""
RECORD_STATES: Final = ("queued", "spooled", "unspooled", "sent", "failed")

# --- bucket ladders (upper bounds, seconds) ---------------------------------------------------------------------------

FAST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
RESOLUTION_BUCKETS: Final = (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""A registry in memory answers in microseconds, a database in milliseconds, a source that hangs at its timeout."""
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets that OpenTelemetry's semantic conventions advise for `http.server.request.duration`."""
POOL_WAIT_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""The semantic conventions' database ladder plus 2 ms, the acquisition budget of requirement R6."""
HELD_BUCKETS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
DEPTH_BUCKETS: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1000.0, 10_000.0)
"""Items that wait in a queue."""
FIRST_EVENT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Each bound can be a promise of an SLO file: a share within a bound is counted, not estimated."""
RUN_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
STALL_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
QUEUE_EVENTS_BUCKETS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0)
QUEUE_BYTES_BUCKETS: Final = (1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0)
QUEUE_AGE_BUCKETS: Final = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
GATE_BUCKETS: Final = tuple(float(f"{0.005 * 1.1**n:.4g}") for n in range(81))
"""5 ms to 10 s in steps of 10 %: the gate's question is whether a percentile rose by 10 %, and a bucket wider than that cannot tell.
84 series an arm, so 168 a rollout: as many as three routes cost in the ladder of the semantic conventions."""
PHASE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CLEANUP_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BLAST_BUCKETS: Final = (1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Principals that one failure touched."""


# --- the catalogue ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """One exposed metric family.

    `name` is the exposed sample name (counters end in `_total`, histograms are the base name). `labels` maps each
    label to its closed set of values, or to an `int`: the cap on values learned at run time, above which `other`
    stands. `service` is on every series and therefore not listed. `endpoint` says which page carries it: `isolation`
    is small and scraped each second, `main` is the rest.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: dict[str, tuple[str, ...] | int]
    endpoint: Literal["isolation", "main"] = "main"
    buckets: tuple[float, ...] = ()
    unit: str = ""
    possible: Callable[[dict[str, str]], bool] = lambda labels: True
    """Which combinations of closed labels can occur at all: the others are not exposed."""


REQUESTS = Metric(
    "isolation_requests_total",
    "counter",
    "Requests judged, by verdict. Exposed means the request overlapped, or reused something of, another principal.",
    {"transport": TRANSPORTS, "verdict": VERDICTS, "exposed": BOOLEANS, "arm": ARMS},
    "isolation",
    unit="{request}",
)
RECLASSIFIED = Metric(
    "isolation_requests_reclassified_total",
    "counter",
    "Requests first counted isolated whose violation was found after they had ended; they count again, as violated or unverified.",
    {"exposed": BOOLEANS, "arm": ARMS},
    "isolation",
    unit="{request}",
)
VIOLATIONS = Metric(
    "isolation_violations_total",
    "counter",
    "Proven violations of isolation. crossed: foreign data left; reachable: shared state that could cross; hygiene: leaks.",
    {"kind": tuple(KIND_GRADES), "grade": GRADES, "arm": ARMS, "synthetic": BOOLEANS},
    "isolation",
    unit="{violation}",
    possible=lambda labels: labels["grade"] in KIND_GRADES[labels["kind"]],
)
CHECKS = Metric(
    "isolation_checks_total",
    "counter",
    "Checks done, by detector and result. A detector whose checks stand still is blind.",
    {"detector": DETECTORS, "result": CHECK_RESULTS},
    "isolation",
    unit="{check}",
)
VIOLATIONS_SUPPRESSED = Metric(
    "isolation_violations_suppressed_total",
    "counter",
    "Violations that an entry of the suppressions file accepts for now: recorded, not counted; their requests are unverified.",
    {"kind": tuple(KIND_GRADES)},
    "isolation",
    unit="{violation}",
)
PLANTED_FAULTS = Metric(
    "isolation_planted_faults_total",
    "counter",
    "Faults planted on synthetic principals to prove a detector, by whether it saw them within 5 seconds.",
    {"detector": DETECTORS, "result": PLANT_RESULTS},
    unit="{fault}",
)
DETECTOR_POWER = Metric(
    "isolation_detector_power",
    "gauge",
    "Lower bound (Clopper-Pearson, 95 %) of a detector's recall over its last 20 planted faults; the least of all workers, -1 untested.",
    {"detector": DETECTORS},
)
DETECTOR_STATE = Metric(
    "isolation_detector_state",
    "gauge",
    "Workers in which a detector is proven, grey (its planted fault was missed, or none came), untested or off.",
    {"detector": DETECTORS, "state": DETECTOR_STATES},
    unit="{process}",
)
SESSION_LEAKS = Metric(
    "isolation_session_leaks_total",
    "counter",
    "Database connections still out after their request and the grace time.",
    {"arm": ARMS},
    "isolation",
    unit="{leak}",
)
SESSION_LEAKS_RETRACTED = Metric(
    "isolation_session_leaks_retracted_total",
    "counter",
    "Database connections counted as leaked that came back later.",
    {"arm": ARMS},
    "isolation",
    unit="{leak}",
)
FAILURES = Metric(
    "isolation_failures_total",
    "counter",
    "Requests and runs that failed on the server's side. contained: no other principal was touched by the failure.",
    {"outcome": FAILURE_OUTCOMES, "arm": ARMS},
    "isolation",
    unit="{failure}",
)
FAILURE_PRINCIPALS = Metric(
    "isolation_failure_principals",
    "histogram",
    "Principals that one failure had touched, the one it began with included, counted again each time it touches another.",
    {},
    "isolation",
    BLAST_BUCKETS,
    unit="{principal}",
)
CASCADES = Metric(
    "isolation_cascades_total",
    "counter",
    "Failures that reached two other principals or more; each counts once.",
    {},
    "isolation",
    unit="{failure}",
)
WORKER_DEATHS = Metric(
    "isolation_worker_deaths_total",
    "counter",
    "Worker processes that vanished without closing, counted by the workers that remain.",
    {},
    "isolation",
    unit="{process}",
)
PRINCIPALS_ACTIVE = Metric(
    "isolation_principals_active",
    "gauge",
    "Principals with a live request or connection, as of the last second.",
    {},
    "isolation",
    unit="{principal}",
)
LOOP_STALL_DURATION = Metric(
    "isolation_loop_stall_seconds",
    "histogram",
    "Stretches during which the event loop stood still, without those of the garbage collector and of a machine that was late itself.",
    {},
    "isolation",
    STALL_BUCKETS,
    unit="s",
)
EVENT_DELIVERIES = Metric(
    "isolation_event_deliveries_total",
    "counter",
    "Events owed to users. delivered: acknowledged on the highest rung that the connection supports; lost: they did not; unknown: no word.",
    {"result": ("delivered", "lost", "unknown"), "arm": ARMS},
    "isolation",
    unit="{event}",
)
RUNS = Metric(
    "isolation_runs_total",
    "counter",
    "Runs that ended, by outcome. incomplete: an owed event never left; abandoned: the user's connection had closed.",
    {"outcome": RUN_OUTCOMES, "arm": ARMS},
    "isolation",
    unit="{run}",
)
RUNS_STARTED = Metric(
    "isolation_runs_started_total",
    "counter",
    "Runs started, by how their events can reach their user then: over a connection, within the answer of a request, or not at all.",
    {"route": RUN_ROUTES},
    "isolation",
    unit="{run}",
)
EVENTS_UNROUTED = Metric(
    "isolation_events_unrouted_total",
    "counter",
    "Events with nowhere to go: emitted for a user who has no connection, or sent of a run that was never started here.",
    {"reason": UNROUTED_REASONS},
    "isolation",
    unit="{event}",
)
RUN_VERDICTS_TOTAL = Metric(
    "isolation_run_verdicts_total",
    "counter",
    "Runs that ended, by what their user saw: all events once and in order (an honest error or cancellation included), or the worst that "
    "was wrong with them. undeliverable: the user had gone.",
    {"verdict": RUN_VERDICTS, "arm": ARMS},
    "isolation",
    unit="{run}",
)
RUN_ACTIVE = Metric("isolation_run_active", "gauge", "Runs started and not ended.", {}, "isolation", unit="{run}")
RUN_STUCK = Metric(
    "isolation_run_stuck",
    "gauge",
    "Runs that have not ended and made no progress for `stuck_after_s`, now.",
    {},
    "isolation",
    unit="{run}",
)
ID_RESOLUTIONS = Metric(
    "isolation_id_resolutions_total",
    "counter",
    "Ids of runs that were to be resolved to their thread, by the source that did; error: none did, or two disagreed.",
    {"source": ID_RESULTS},
    "isolation",
    unit="{resolution}",
)
INSTANCE_CREATE = Metric(
    "isolation_instance_create_duration_seconds",
    "histogram",
    "Time a declared factory took to create an instance.",
    {"component": 20},
    "isolation",
    FAST_BUCKETS,
    unit="s",
)
INSTANCE_RESET = Metric(
    "isolation_instance_reset_duration_seconds",
    "histogram",
    "Time a declared factory's reset took to clear an instance's state.",
    {"component": 20},
    "isolation",
    FAST_BUCKETS,
    unit="s",
)
INSTANCE_SHARED = Metric(
    "isolation_instance_shared_total",
    "counter",
    "Instances declared fresh per request that a second request received.",
    {"component": 20},
    "isolation",
    unit="{instance}",
)
GATE_REQUESTS = Metric(
    "isolation_gate_requests_total",
    "counter",
    "Requests that evaluated the flag of a rollout, by the arm that they were given. error: they failed on the server's side; none: they "
    "were given no arm (error, default or stale state). Synthetic ones are left out.",
    {"rollout": ROLLOUT_LIMIT, "arm": ARMS, "outcome": REQUEST_OUTCOMES},
    "isolation",
    unit="{request}",
)
GATE_VIOLATIONS = Metric(
    "isolation_gate_violations_total",
    "counter",
    "Violations one side of which was a request that had evaluated the flag of a rollout; `on` where either side had it. No synthetic "
    "ones.",
    {"rollout": ROLLOUT_LIMIT, "arm": ARMS, "grade": GRADES},
    "isolation",
    unit="{violation}",
)
MONITOR_INFO = Metric(
    "isolation_monitor_info",
    "gauge",
    "Always 1; version and mode of the monitor.",
    {"version": 4, "mode": ("off", "monitor", "block")},
    "isolation",
)
MONITOR_ERRORS = Metric(
    "isolation_monitor_errors_total",
    "counter",
    "Errors inside the monitor itself, swallowed so that the application never sees them.",
    {"hook": HOOKS},
    "isolation",
    unit="{error}",
)
MONITOR_DROPPED = Metric(
    "isolation_monitor_dropped_total",
    "counter",
    "Records, series and labels dropped by the monitor's own limits.",
    {"reason": DROP_REASONS},
    "isolation",
    unit="{item}",
)
MONITOR_LAST_CHECK = Metric(
    "isolation_monitor_last_check_timestamp_seconds",
    "gauge",
    "Unix time at which the last request was judged; the newest of all workers.",
    {},
    "isolation",
    unit="s",
)
HTTP_DURATION = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Duration of HTTP server requests.",
    {"http_route": 60, "http_request_method": HTTP_METHODS, "http_response_status_code": 20},
    "main",
    HTTP_BUCKETS,
    unit="s",
)
GATE_DURATION = Metric(
    "isolation_gate_request_duration_seconds",
    "histogram",
    "Duration of the requests and messages that evaluated the flag of a rollout, by arm, in buckets of 10 %. No synthetic ones.",
    {"rollout": ROLLOUT_LIMIT, "arm": VARIANTS},
    "main",
    GATE_BUCKETS,
    unit="s",
)
FLAG_EVALUATIONS = Metric(
    "isolation_flag_evaluations_total",
    "counter",
    "Evaluations of flags within requests, by reason. After default, stale and error the request has no arm of that rollout.",
    {"rollout": ROLLOUT_LIMIT, "reason": FLAG_REASONS},
    unit="{evaluation}",
)
FLAG_FETCHES_TOTAL = Metric(
    "isolation_flag_fetches_total",
    "counter",
    "Times that a worker asked the collector for the rules of the flags, by what came of it.",
    {"result": FLAG_FETCHES},
    unit="{request}",
)
FLAG_STALE = Metric(
    "isolation_flag_stale",
    "gauge",
    "Workers that have heard nothing of the flags' rules for a minute: users keep what they have, and changes do not arrive.",
    {},
    unit="{process}",
)
WEBSOCKET_ACTIVE = Metric("isolation_websocket_connection_active", "gauge", "WebSocket connections open now.", {}, unit="{connection}")
WEBSOCKET_CONNECTIONS = Metric(
    "isolation_websocket_connections_total",
    "counter",
    "WebSocket handshakes, by outcome. no_principal: let in for nobody where others are somebody; principal_disagrees: let in for "
    "somebody else than it says; error: the application failed: an exception, no answer, a close code 1011-1014 or a status of 5xx.",
    {"outcome": HANDSHAKE_OUTCOMES},
    unit="{connection}",
)
WEBSOCKET_CLOSES = Metric(
    "isolation_websocket_closes_total",
    "counter",
    "WebSocket connections that closed, by who closed (nobody: the handler ended without) and by the class of the close code.",
    {"by": CLOSED_BY, "reason": CLOSE_REASONS},
    unit="{connection}",
)
WEBSOCKET_STATE = Metric(
    "isolation_websocket_connection_state",
    "gauge",
    "WebSocket connections open now. idle: nothing either way for a minute; dead: sent to, and silent for a minute though it answers.",
    {"state": CONNECTION_STATES},
    unit="{connection}",
)
WEBSOCKET_ID_REUSE = Metric(
    "isolation_websocket_id_reuse_total",
    "counter",
    "Connection ids that came again: of the same user while his first connection was open, or of another user.",
    {"by": ("same_user", "another_user")},
    unit="{connection}",
)
QUEUE_DEPTH = Metric(
    "isolation_queue_depth",
    "histogram",
    "Items that wait in a queue that feeds a WebSocket, or that was declared: each queue once a second.",
    {"queue": 8},
    "main",
    DEPTH_BUCKETS,
    unit="{item}",
)
QUEUE_DEPTH_MAX = Metric(
    "isolation_queue_depth_max",
    "gauge",
    "Items in the deepest queue of a name, as of the last second.",
    {"queue": 8},
    unit="{item}",
)
WEBSOCKET_MESSAGES = Metric(
    "isolation_websocket_messages_total",
    "counter",
    "WebSocket messages, by direction.",
    {"direction": ("received", "sent")},
    unit="{message}",
)
EVENTS = Metric(
    "isolation_events_total",
    "counter",
    "Events of runs, by rung of delivery: emitted by the application, sent on a connection.",
    {"event": 12, "stage": ("emitted", "sent")},
    unit="{event}",
)
EVENT_RUNGS = Metric(
    "isolation_event_rungs_total",
    "counter",
    "Events on WebSockets, by the rung of delivery that they reached and by the highest one that their connection supports.",
    {"rung": RUNGS, "highest": HIGHEST_RUNGS},
    unit="{event}",
    possible=lambda labels: labels["rung"] not in RUNGS[3:] or RUNGS.index(labels["rung"]) <= RUNGS.index(labels["highest"]),
)
EVENTS_SETTLED = Metric(
    "isolation_events_settled_total",
    "counter",
    "Events by what became of them, each once. replayed: acknowledged after it was sent again; unknown: no word before the deadline.",
    {"outcome": EVENT_OUTCOMES, "highest": HIGHEST_RUNGS},
    unit="{event}",
)
EVENTS_DROPPED = Metric(
    "isolation_events_dropped_total",
    "counter",
    "Events that will not be sent again to a user who comes back, by the limit that they met.",
    {"reason": EVENT_DROP_REASONS},
    unit="{event}",
)
RESUMES = Metric(
    "isolation_delivery_resumes_total",
    "counter",
    "Clients that came back for what they had missed. unknown: this worker does not know their stream; refused: it is somebody else's.",
    {"outcome": RESUME_OUTCOMES},
    unit="{resume}",
)
CLIENT_REPORTS = Metric(
    "isolation_client_reports_total",
    "counter",
    "Gaps, duplicates and disorder that clients saw in the numbers of their events.",
    {"report": CLIENT_REPORT_KINDS},
    unit="{event}",
)
QUEUE_EVENTS = Metric(
    "isolation_user_queue_events",
    "histogram",
    "Events that wait for a user to acknowledge them; each user with any is looked at once a second.",
    {},
    "main",
    QUEUE_EVENTS_BUCKETS,
    unit="{event}",
)
QUEUE_BYTES = Metric(
    "isolation_user_queue_bytes",
    "histogram",
    "Text of the events that wait for a user; each user with any is looked at once a second.",
    {},
    "main",
    QUEUE_BYTES_BUCKETS,
    unit="By",
)
QUEUE_AGE = Metric(
    "isolation_user_queue_age_seconds",
    "histogram",
    "How long a user's oldest event has waited; each user with any is looked at once a second.",
    {},
    "main",
    QUEUE_AGE_BUCKETS,
    unit="s",
)
QUEUE_EVENTS_MAX = Metric("isolation_user_queue_events_max", "gauge", "Events that wait for the one user with most.", {}, unit="{event}")
QUEUE_BYTES_MAX = Metric("isolation_user_queue_bytes_max", "gauge", "Text that waits for the one user with most.", {}, unit="By")
QUEUE_AGE_MAX = Metric("isolation_user_queue_age_max_seconds", "gauge", "How long the oldest of all events has waited.", {}, unit="s")
EVENT_ANOMALIES_TOTAL = Metric(
    "isolation_event_anomalies_total",
    "counter",
    "Events of runs that were missing, out of order, duplicated, after the end, or of another owner.",
    {"anomaly": EVENT_ANOMALIES},
    unit="{event}",
)
RUN_DURATION = Metric(
    "isolation_run_duration_seconds", "histogram", "Time from a run's start to its end.", {}, "main", RUN_BUCKETS, unit="s"
)
ID_RESOLUTION_DURATION = Metric(
    "isolation_id_resolution_duration_seconds",
    "histogram",
    "Time to resolve the id of a run, all sources together, by the source that did.",
    {"source": ID_RESULTS},
    "main",
    RESOLUTION_BUCKETS,
    unit="s",
)
ID_SOURCE_ANSWERS = Metric(
    "isolation_id_source_answers_total",
    "counter",
    "What each source answered when it was asked for the thread of a run; owner: for the owner of a thread.",
    {"source": ID_ASKED, "answer": ID_ANSWERS},
    unit="{answer}",
)
ID_PATTERN_READS = Metric(
    "isolation_id_pattern_reads_total",
    "counter",
    "Ids whose text was read for their thread, by the algorithm that found it, or why none did.",
    {"algorithm": ID_PATTERNS},
    unit="{id}",
)
ID_OUTCOMES_TOTAL = Metric(
    "isolation_id_outcomes_total",
    "counter",
    "What became of resolutions: whose thread it was beside who asked. foreign_served: another user's thread was shown.",
    {"outcome": ID_OUTCOMES},
    unit="{resolution}",
)
ID_REGISTRATIONS_TOTAL = Metric(
    "isolation_id_registrations_total",
    "counter",
    "Runs put into the registry: created by the application, or filled in from a later source. known: it had them already.",
    {"source": ID_REGISTRATIONS, "result": ID_STORED},
    unit="{run}",
)
ID_CIRCUIT_OPEN = Metric(
    "isolation_id_circuit_open",
    "gauge",
    "Workers that leave a source alone for now because it failed again and again.",
    {"source": ID_ASKED},
    unit="{process}",
)
RUN_FIRST_EVENT = Metric(
    "isolation_run_time_to_first_event_seconds",
    "histogram",
    "Time from a run's start until its first event was sent to its user.",
    {},
    "main",
    FIRST_EVENT_BUCKETS,
    unit="s",
)
DB_CONNECTION_COUNT = Metric(
    "db_client_connection_count",
    "gauge",
    "Connections of the pool now, by state.",
    {"db_client_connection_pool_name": 8, "db_client_connection_state": ("idle", "used")},
    unit="{connection}",
)
DB_CONNECTION_MAX = Metric(
    "db_client_connection_max",
    "gauge",
    "Connections that the pools of all workers may open together.",
    {"db_client_connection_pool_name": 8},
    unit="{connection}",
)
DB_CONNECTION_WAIT = Metric(
    "db_client_connection_wait_time_seconds",
    "histogram",
    "Time to get a connection from the pool.",
    {"db_client_connection_pool_name": 8},
    "main",
    POOL_WAIT_BUCKETS,
    unit="s",
)
DB_CONNECTION_USE = Metric(
    "db_client_connection_use_time_seconds",
    "histogram",
    "Time between taking a connection from the pool and giving it back.",
    {"db_client_connection_pool_name": 8},
    "main",
    HELD_BUCKETS,
    unit="s",
)
PROCESS_RESOURCES = Metric(
    "isolation_process_resources",
    "gauge",
    "What the process holds, every 10 seconds: bytes of resident memory, or the number of open files, threads, children, tasks.",
    {"resource": PROCESS_RESOURCE_NAMES},
)
RECORDS = Metric(
    "isolation_records_total",
    "counter",
    "Records for the collector. queued: accepted for sending; spooled: on the local disk; unspooled: in memory only, because the disk "
    "refused them; sent: acknowledged; failed: an attempt that failed.",
    {"state": RECORD_STATES},
    unit="{record}",
)
RECORD_QUEUE_DEPTH = Metric("isolation_record_queue_depth", "gauge", "Records waiting to be sent.", {}, unit="{record}")
RECORD_SPOOL_BYTES = Metric("isolation_record_spool_bytes", "gauge", "Records on the local disk that wait to be sent.", {}, unit="By")
STARTUP_PHASE_DURATION = Metric(
    "isolation_startup_phase_duration_seconds",
    "histogram",
    "Time that a phase of the start-up took, without what it waited for before it began.",
    {"isolation_phase": PHASE_LIMIT, "isolation_result": PHASE_RESULTS},
    "main",
    PHASE_BUCKETS,
    unit="s",
)
STARTUP_PHASE_HANGING = Metric(
    "isolation_startup_phase_hanging",
    "gauge",
    "Workers in which a phase of the start-up has not ended after `startup_hang_s`, now.",
    {"isolation_phase": PHASE_LIMIT},
    "isolation",
    unit="{process}",
)
STARTUP_DURATION = Metric(
    "isolation_startup_duration_seconds",
    "gauge",
    "Time that the start-up took, or has taken so far; of the slowest worker that lives.",
    {},
    unit="s",
)
STARTUP_READY = Metric(
    "isolation_startup_ready_timestamp_seconds",
    "gauge",
    "Unix time at which the start-up was over; of the worker that was latest, 0 before the first.",
    {},
    unit="s",
)
CLEANUP_DURATION = Metric(
    "isolation_cleanup_duration_seconds",
    "histogram",
    "Time that the clean-up took, all steps and the look at what is left together.",
    {},
    "main",
    CLEANUP_BUCKETS,
    unit="s",
)
CLEANUP_LEFT = Metric(
    "isolation_cleanup_left_total",
    "counter",
    "What processes held after their clean-up that they had not held before their start-up.",
    {"isolation_resource": LEFT_RESOURCES},
    unit="{item}",
)
CLEANUP_FORCED = Metric(
    "isolation_cleanup_steps_forced_total",
    "counter",
    "Steps of clean-ups that did not end in time: forced where they have a way to, else given up.",
    {},
    unit="{step}",
)
MONITOR_SERIES = Metric("isolation_monitor_series", "gauge", "Series that this monitor keeps in all workers.", {}, unit="{series}")

CATALOGUE: Final[tuple[Metric, ...]] = (
    REQUESTS,
    RECLASSIFIED,
    VIOLATIONS,
    VIOLATIONS_SUPPRESSED,
    CHECKS,
    SESSION_LEAKS,
    SESSION_LEAKS_RETRACTED,
    FAILURES,
    FAILURE_PRINCIPALS,
    CASCADES,
    WORKER_DEATHS,
    PRINCIPALS_ACTIVE,
    LOOP_STALL_DURATION,
    EVENT_DELIVERIES,
    RUNS,
    RUNS_STARTED,
    EVENTS_UNROUTED,
    RUN_VERDICTS_TOTAL,
    RUN_ACTIVE,
    RUN_STUCK,
    ID_RESOLUTIONS,
    INSTANCE_CREATE,
    INSTANCE_RESET,
    INSTANCE_SHARED,
    GATE_REQUESTS,
    GATE_VIOLATIONS,
    MONITOR_INFO,
    MONITOR_ERRORS,
    MONITOR_DROPPED,
    MONITOR_LAST_CHECK,
    HTTP_DURATION,
    GATE_DURATION,
    FLAG_EVALUATIONS,
    FLAG_FETCHES_TOTAL,
    FLAG_STALE,
    WEBSOCKET_ACTIVE,
    WEBSOCKET_CONNECTIONS,
    WEBSOCKET_CLOSES,
    WEBSOCKET_STATE,
    WEBSOCKET_ID_REUSE,
    QUEUE_DEPTH,
    QUEUE_DEPTH_MAX,
    WEBSOCKET_MESSAGES,
    EVENTS,
    EVENT_RUNGS,
    EVENTS_SETTLED,
    EVENTS_DROPPED,
    RESUMES,
    CLIENT_REPORTS,
    QUEUE_EVENTS,
    QUEUE_BYTES,
    QUEUE_AGE,
    QUEUE_EVENTS_MAX,
    QUEUE_BYTES_MAX,
    QUEUE_AGE_MAX,
    EVENT_ANOMALIES_TOTAL,
    RUN_DURATION,
    ID_RESOLUTION_DURATION,
    ID_SOURCE_ANSWERS,
    ID_PATTERN_READS,
    ID_OUTCOMES_TOTAL,
    ID_REGISTRATIONS_TOTAL,
    ID_CIRCUIT_OPEN,
    RUN_FIRST_EVENT,
    DB_CONNECTION_COUNT,
    DB_CONNECTION_MAX,
    DB_CONNECTION_WAIT,
    DB_CONNECTION_USE,
    PROCESS_RESOURCES,
    RECORDS,
    RECORD_QUEUE_DEPTH,
    RECORD_SPOOL_BYTES,
    PLANTED_FAULTS,
    DETECTOR_POWER,
    DETECTOR_STATE,
    STARTUP_PHASE_DURATION,
    STARTUP_PHASE_HANGING,
    STARTUP_DURATION,
    STARTUP_READY,
    CLEANUP_DURATION,
    CLEANUP_LEFT,
    CLEANUP_FORCED,
    MONITOR_SERIES,
)

# --- recorded by the Prometheus rules, never exposed by the service ---------------------------------------------------

ISOLATION_SCORE: Final = "isolation_score"
ISOLATION_SCORE_STATE: Final = "isolation_score_state"
SCORE_STATES: Final = ("measured", "not_measurable", "blind")
FAILURE_CONTAINMENT_RATE: Final = "failure_containment_rate"
INSTANCE_CREATION_TIME_MS: Final = "instance_creation_time_ms"
EVENT_DELIVERY_RATE: Final = "event_delivery_rate"
WEBSOCKET_ISOLATION_VIOLATIONS: Final = "websocket_isolation_violations"
SESSION_LEAK_COUNT: Final = "session_leak_count"

PUBLIC_SERIES: Final[dict[str, str]] = {
    ISOLATION_SCORE: "Share of exposed requests of the last minute that were isolated, 0-100; no sample when not measurable.",
    FAILURE_CONTAINMENT_RATE: "Share of failures of the last 5 minutes that touched no other principal, 0-100.",
    INSTANCE_CREATION_TIME_MS: "95th percentile of instance creation over the last minute, in milliseconds.",
    EVENT_DELIVERY_RATE: "Share of events of the last minute with a known end that reached the highest rung of their connection, 0-100.",
    WEBSOCKET_ISOLATION_VIOLATIONS: "Events of one user that reached another user's WebSocket, cumulative.",
    SESSION_LEAK_COUNT: "Database sessions leaked and not given back later, cumulative.",
}
"""The six names that this product's users already query, recorded by `service`."""
