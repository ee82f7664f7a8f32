"""A service that lives: real registries of telemetry and the collector, served over HTTP, with numbers that keep growing.

Every metric of the catalogue grows as a healthy, busy service's would, or, once `break_down()` was called, as every
fault together would. The pages are rendered by the product's own code.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from isolation_monitor.alerts import ci_alerts as ci
from isolation_monitor.collector.ci_metrics import SuiteNumbers
from isolation_monitor.collector.container_metrics import Shown
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.probe_metrics import ProbeShown
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics.registry import MetricRegistry

SERVICE = "chat"
TICK_S = 0.2
POOL = "main"
COMPONENT = "agent"
ROUTES = ("/api/me", "/api/threads/{id}/messages")
RESOURCES = {"memory": 120e6, "fds": 40.0, "threads": 8.0, "children": 1.0, "tasks": 30.0}
_FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")


GATE = {
    "service": SERVICE,
    "metrics": {"requests": 2000, "error_diff_pp": 0.2},
    "thresholds": {"min_exposed_requests": 300},
    "started_at": "2026-01-01T12:00:00.000Z",
    "as_of": "2026-01-01T13:00:00.000Z",
}
"""What a gate answers, without its rollout and verdict."""


class LivingService:
    """Serves `/metrics/isolation` and `/metrics` of a service, and `/collector/metrics` of a collector, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.registry = MetricRegistry(SERVICE, folder, strict=True)
        self.collector = CollectorMetrics()
        for metric in names.CATALOGUE:
            self.registry.declare(metric)
        self._stop = threading.Event()
        self._faults: set[str] = set()
        passing = GATE | {"verdict": "pass", "verdict_code": 1, "reasons": []}
        self.gates: dict[str, dict[str, Any]] = {name: passing | {"rollout": name} for name in ("canary-42", "canary-43")}
        self.grown = 0.0
        """How much more than at first the process holds of each resource."""
        service = self

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = {
                    "/metrics/isolation": lambda: service.registry.render("isolation"),
                    "/metrics": lambda: service.registry.render("main"),
                    "/collector/metrics": service.collector.render,
                }[self.path]()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self._threads = [threading.Thread(target=self._server.serve_forever), threading.Thread(target=self._live)]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LivingService:
        self._tick()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        self.registry.close()

    def switch_on(self, *faults: str) -> None:
        """Let the numbers grow as these faults make them grow, from now on."""
        self._faults |= set(faults)

    def _live(self) -> None:
        while not self._stop.wait(TICK_S):
            self._tick()

    def _tick(self) -> None:
        self._requests()
        self._runs()
        self._resolutions()
        self._flags()
        self._process()
        self._health()
        for fault in tuple(self._faults):
            FAULTS[fault](self)

    def count(self, metric: names.Metric, amount: float = 1, **labels: str) -> None:
        self.registry.counter(metric, **labels).inc(amount)

    def _requests(self) -> None:
        self.count(names.REQUESTS, 8, transport="http", verdict="isolated", exposed="true", arm="none")
        self.count(names.REQUESTS, 2, transport="websocket", verdict="isolated", exposed="false", arm="none")
        self.count(names.REQUESTS, 1, transport="http", verdict="unverified", exposed="false", arm="none")
        for route in ROUTES:
            self.registry.histogram(
                names.HTTP_DURATION, http_route=route, http_request_method="GET", http_response_status_code="200"
            ).observe(0.03)
        for detector in names.DETECTORS:
            self.count(names.CHECKS, 11, detector=detector, result="pass")
        self.count(names.WEBSOCKET_MESSAGES, 2, direction="received")
        self.count(names.WEBSOCKET_MESSAGES, 10, direction="sent")
        self.count(names.WEBSOCKET_CONNECTIONS, 1, outcome="accepted")
        depth = 400 if "slow-readers" in self._faults else 1
        self.registry.histogram(names.QUEUE_DEPTH, queue="socket").observe(depth)
        self.registry.gauge(names.QUEUE_DEPTH_MAX, queue="socket").set(depth)
        self.count(names.WEBSOCKET_CLOSES, 1, by="client", reason="normal")
        self.registry.gauge(names.WEBSOCKET_ACTIVE).set(30)
        for state, number in {"busy": 20, "idle": 10, "dead": 5 if "nobody-connects" in self._faults else 0}.items():
            self.registry.gauge(names.WEBSOCKET_STATE, state=state).set(number)
        self.registry.histogram(names.INSTANCE_CREATE, component=COMPONENT).observe(0.0015)
        self.registry.histogram(names.INSTANCE_RESET, component=COMPONENT).observe(0.0004)
        self.count(names.INSTANCE_SHARED, 0, component=COMPONENT)
        self.registry.histogram(names.DB_CONNECTION_WAIT, db_client_connection_pool_name=POOL).observe(0.0004)
        self.registry.histogram(names.DB_CONNECTION_USE, db_client_connection_pool_name=POOL).observe(0.007)
        for state, number in (("used", 4), ("idle", 6)):
            self.registry.gauge(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=POOL, db_client_connection_state=state).set(
                number
            )
        self.registry.gauge(names.DB_CONNECTION_MAX, db_client_connection_pool_name=POOL).set(30)

    def _runs(self) -> None:
        self.count(names.RUNS, 2, outcome="complete", arm="none")
        self.count(names.RUNS, 0.1, outcome="failed", arm="none")
        self.count(names.RUNS_STARTED, 2.1, route="connection")
        self.count(names.RUN_VERDICTS_TOTAL, 2.1, verdict="complete_in_order", arm="none")
        self.count(names.FAILURES, 0.1, outcome="contained", arm="none")
        self.count(names.EVENT_DELIVERIES, 10, result="delivered", arm="none")
        for rung in names.RUNGS:
            self.count(names.EVENT_RUNGS, 10, rung=rung, highest="client_acked")
        self.count(names.EVENTS_SETTLED, 10, outcome="acknowledged", highest="client_acked")
        for histogram, maximum, amount in (
            (names.QUEUE_EVENTS, names.QUEUE_EVENTS_MAX, 2.0),
            (names.QUEUE_BYTES, names.QUEUE_BYTES_MAX, 3_000.0),
            (names.QUEUE_AGE, names.QUEUE_AGE_MAX, 0.3),
        ):
            self.registry.histogram(histogram).observe(amount)
            self.registry.gauge(maximum).set(amount)
        for event in _FIVE:
            for stage in ("emitted", "sent"):
                self.count(names.EVENTS, 2, event=event, stage=stage)
        self.registry.histogram(names.RUN_DURATION).observe(0.6)
        self.registry.histogram(names.RUN_FIRST_EVENT).observe(0.06)
        self.registry.gauge(names.RUN_ACTIVE).set(3)
        self.registry.gauge(names.RUN_STUCK).set(2 if "stuck-run" in self._faults else 0)

    def _resolutions(self) -> None:
        self.count(names.ID_RESOLUTIONS, 20, source="registry")
        self.count(names.ID_RESOLUTIONS, 1, source="orchestrator")
        self.registry.histogram(names.ID_RESOLUTION_DURATION, source="registry").observe(0.00002)
        self.registry.histogram(names.ID_RESOLUTION_DURATION, source="orchestrator").observe(0.004)
        self.count(names.ID_SOURCE_ANSWERS, 20, source="registry", answer="hit")
        self.count(names.ID_SOURCE_ANSWERS, 1, source="registry", answer="miss")
        self.count(names.ID_SOURCE_ANSWERS, 1, source="orchestrator", answer="hit")
        self.count(names.ID_PATTERN_READS, 20, algorithm="own")
        self.count(names.ID_OUTCOMES_TOTAL, 21, outcome="own")
        self.count(names.ID_REGISTRATIONS_TOTAL, 2, source="created", result="stored")
        self.count(names.ID_REGISTRATIONS_TOTAL, 1, source="orchestrator", result="stored")
        self.registry.gauge(names.ID_CIRCUIT_OPEN, source="orchestrator").set("orchestrator-down" in self._faults)

    def _flags(self) -> None:
        for arm, seconds in (("on", 0.03), ("off", 0.04)):
            self.count(names.GATE_REQUESTS, 2, rollout="checkout-v2", arm=arm, outcome="ok")
            self.count(names.GATE_REQUESTS, 0.1, rollout="checkout-v2", arm=arm, outcome="error")
            self.registry.histogram(names.GATE_DURATION, rollout="checkout-v2", arm=arm).observe(seconds)
            for grade in names.GRADES:
                self.count(names.GATE_VIOLATIONS, 0, rollout="checkout-v2", arm=arm, grade=grade)
        self.count(names.GATE_REQUESTS, 0.1, rollout="checkout-v2", arm="none", outcome="ok")
        self.count(names.FLAG_EVALUATIONS, 4, rollout="checkout-v2", reason="split")
        self.count(names.FLAG_FETCHES_TOTAL, 0.1, result="unchanged")
        self.registry.gauge(names.FLAG_STALE).set(0)

    def _process(self) -> None:
        self.registry.histogram(names.FAILURE_PRINCIPALS).observe(1)
        self.registry.gauge(names.PRINCIPALS_ACTIVE).set(12)
        self.registry.histogram(names.LOOP_STALL_DURATION).observe(0.06)
        for resource, amount in RESOURCES.items():
            self.registry.gauge(names.PROCESS_RESOURCES, resource=resource).set(amount + self.grown)

        self.registry.histogram(names.STARTUP_PHASE_DURATION, isolation_phase="database", isolation_result="done").observe(0.4)
        self.count(names.CLEANUP_LEFT, 0, isolation_resource="tasks")
        self.registry.gauge(names.STARTUP_DURATION).set(1.2)
        self.registry.gauge(names.STARTUP_READY).set(time.time() - 60)
        self.registry.histogram(names.CLEANUP_DURATION).observe(0.2)

    def _health(self) -> None:
        self.registry.gauge(names.MONITOR_INFO, version="1", mode="monitor").set(1)
        self.registry.gauge(names.MONITOR_LAST_CHECK).set(time.time())
        self.registry.gauge(names.MONITOR_SERIES).set(500)
        self.registry.gauge(names.RECORD_QUEUE_DEPTH).set(1)
        for state in ("queued", "sent"):
            self.count(names.RECORDS, 2, state=state)
        for detector in names.DETECTORS:
            self.count(names.PLANTED_FAULTS, 0.1, detector=detector, result="seen")
            self.registry.gauge(names.DETECTOR_POWER, detector=detector).set(0.83)
            is_grey = detector == names.WRONG_SOCKET and "blind-detector" in self._faults
            for state in names.DETECTOR_STATES:
                self.registry.gauge(names.DETECTOR_STATE, detector=detector, state=state).set(state == ("grey" if is_grey else "proven"))
        self.collector.batch_stored(2, 0, 0, 0.004)
        self.collector.service_sent("key", SERVICE, 2)
        self.collector.alert_received("DeadMansSwitch", "firing")
        self.collector.violations_paged("told")
        self.collector.keeps_house_every(600)
        self.collector.leading(True)
        self.collector.rolled_up("ok")
        if "collector-forgets-nothing" not in self._faults:
            self.collector.house_kept({"violations": 1}, 0, time.time(), 5_000_000)
        for name, answer in self.gates.items():
            self.collector.gate_evaluated(name, answer["verdict"], time.time(), 0.02)
            self.collector.gate_answered(answer)

        self._containers()
        self._suites()
        self.collector.probes.checked("login", ProbeShown(SERVICE, True, 0.1, 1.0, time.time(), 60.0, 200, time.time() + 30 * 86_400))

    def _suites(self) -> None:
        """A suite that has run, with a failure more from time to time."""
        self._failed_tests += 1
        now = {ci.PASS_RATIO: 0.99, ci.FLAKY_RATIO: 0.01, ci.DURATION: 300.0, ci.TREND: 1.1, ci.MEMORY: 5e8, ci.LAST_RUN: time.time() - 600}
        self.collector.ci.show([SuiteNumbers("unit", {"pass": 99, "fail": self._failed_tests}, now)])

    def _containers(self) -> None:
        """Two containers: one fares as its faults have it, the other one works."""
        containers, is_bad = self.collector.containers, "containers-die" in self._faults
        made, limit = time.time() - 86_400, 64 << 20
        self._cpu_s += 0.5
        shown = [
            Shown("web", "running", "unhealthy" if is_bad else "healthy", made, (60 if is_bad else 20) << 20, limit, self._cpu_s, 2.0),
            Shown("worker", "restarting" if is_bad else "running", "none", made, None if is_bad else 10 << 20, limit, self._cpu_s, 2.0),
        ]
        left = int(is_bad)
        containers.show("docker", shown, orphans=left, expired=left, dangling_volumes=left, orphan_volumes=left)
        # Somewhere a job is always started again, and ended as it should be.
        containers.restarted("worker", 1)
        containers.exited("worker", "clean")
        containers.removed("graceful")
        if is_bad:
            containers.exited("worker", "oom_killed")
            containers.removed("forced")
            containers.stormed()
            containers.stop_needed_sigkill()
            containers.killed("worker")
            containers.survived_oom("web")

    _cpu_s = 0.0
    _failed_tests = 0

    def violate(self, kind: str, grade: str) -> None:
        self.count(names.VIOLATIONS, 1, kind=kind, grade=grade, arm="none", synthetic="false")
        self.count(names.CHECKS, 1, detector=kind, result="violation")
        if grade != "hygiene":
            self.count(names.REQUESTS, 1, transport="http", verdict="violated", exposed="true", arm="none")


def _shared_agent(service: LivingService) -> None:
    service.violate(names.INSTANCE_REUSE, "crossed")
    service.count(names.INSTANCE_SHARED, 1, component=COMPONENT)


def _wrong_socket(service: LivingService) -> None:
    service.violate(names.WRONG_SOCKET, "crossed")


def _inherited_context(service: LivingService) -> None:
    service.violate(names.INHERITED_CONTEXT, "reachable")


def _session_leak(service: LivingService) -> None:
    service.violate(names.SESSION_LEAK, "hygiene")
    service.count(names.SESSION_LEAKS, 1, arm="none")


def _slow_factory(service: LivingService) -> None:
    service.violate(names.SLOW_CREATION, "hygiene")
    for _ in range(5):
        service.registry.histogram(names.INSTANCE_CREATE, component=COMPONENT).observe(0.04)


def _lost_event(service: LivingService) -> None:
    service.violate(names.INCOMPLETE_RUN, "hygiene")
    service.count(names.RUNS, 1, outcome="incomplete", arm="none")
    service.count(names.EVENT_DELIVERIES, 1, result="lost", arm="none")
    service.count(names.EVENT_ANOMALIES_TOTAL, 1, anomaly="missing")


def _disordered_run(service: LivingService) -> None:
    service.count(names.RUN_VERDICTS_TOTAL, 1, verdict="disorder", arm="none")


def _strangers(service: LivingService) -> None:
    service.violate(names.BAD_HANDSHAKE, "hygiene")
    service.count(names.WEBSOCKET_CONNECTIONS, 1, outcome="principal_disagrees")
    service.count(names.WEBSOCKET_ID_REUSE, 1, by="another_user")


def _nobody_connects(service: LivingService) -> None:
    service.count(names.WEBSOCKET_CONNECTIONS, 3, outcome="timed_out")
    service.count(names.WEBSOCKET_CLOSES, 1, by="nobody", reason="abnormal")


def _lonely_runs(service: LivingService) -> None:
    service.violate(names.UNROUTED_EVENT, "hygiene")
    service.count(names.RUNS_STARTED, 1, route="none")
    service.count(names.EVENTS_UNROUTED, 5, reason="no_connection")


def _slow_readers(service: LivingService) -> None:
    """The numbers of the queues follow from the fault being on."""


def _stuck_run(service: LivingService) -> None:
    service.violate(names.STUCK_RUN, "hygiene")


def _cascade(service: LivingService) -> None:
    service.count(names.FAILURES, 1, outcome="escaped", arm="none")
    service.count(names.CASCADES)
    service.registry.histogram(names.FAILURE_PRINCIPALS).observe(5)
    service.violate(names.STARVATION, "hygiene")


def _stalled_loop(service: LivingService) -> None:
    service.violate(names.LOOP_STALL, "hygiene")
    service.registry.histogram(names.LOOP_STALL_DURATION).observe(0.9)


def _dead_worker(service: LivingService) -> None:
    service.count(names.WORKER_DEATHS)
    service.registry.gauge(names.PRINCIPALS_ACTIVE).set(4)


def _growing_process(service: LivingService) -> None:
    service.grown += 1
    service.violate(names.RESOURCE_TREND, "hygiene")
    service.violate(names.TASK_LEAK, "hygiene")


def _endless_start(service: LivingService) -> None:
    service.registry.gauge(names.STARTUP_PHASE_HANGING, isolation_phase="database").set(1)
    service.registry.histogram(names.STARTUP_PHASE_DURATION, isolation_phase="database", isolation_result="failed").observe(9)
    service.registry.gauge(names.STARTUP_DURATION).set(45)
    service.registry.gauge(names.STARTUP_READY).set(time.time())


def _untidy_end(service: LivingService) -> None:
    service.count(names.CLEANUP_LEFT, 1, isolation_resource="children")
    service.count(names.CLEANUP_FORCED, 1)
    for _ in range(5):
        service.registry.histogram(names.CLEANUP_DURATION).observe(7)


def _dirty_pool(service: LivingService) -> None:
    service.violate(names.DIRTY_HANDOVER, "reachable")
    service.violate(names.SHARED_CONNECTION, "crossed")
    service.violate(names.UNSCOPED_ACCESS, "crossed")


def _starved_pool(service: LivingService) -> None:
    service.registry.histogram(names.DB_CONNECTION_WAIT, db_client_connection_pool_name=POOL).observe(0.3)
    service.registry.histogram(names.DB_CONNECTION_USE, db_client_connection_pool_name=POOL).observe(3)
    service.registry.gauge(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=POOL, db_client_connection_state="used").set(29)


def _slow_reset(service: LivingService) -> None:
    service.registry.histogram(names.INSTANCE_RESET, component=COMPONENT).observe(0.04)


def _shared_state(service: LivingService) -> None:
    service.violate(names.SHARED_STATE, "reachable")


def _answers(service: LivingService, status: str, seconds: float) -> None:
    labels = {"http_route": ROUTES[0], "http_request_method": "GET", "http_response_status_code": status}
    for _ in range(5):
        service.registry.histogram(names.HTTP_DURATION, **labels).observe(seconds)


def _failing_endpoint(service: LivingService) -> None:
    _answers(service, "500", 0.03)


def _slow_endpoint(service: LivingService) -> None:
    _answers(service, "200", 0.9)


def _late_first_event(service: LivingService) -> None:
    for _ in range(5):
        service.registry.histogram(names.RUN_FIRST_EVENT).observe(4)


def _refused_handshakes(service: LivingService) -> None:
    service.count(names.WEBSOCKET_CONNECTIONS, 1, outcome="error")


def _blind_detector(service: LivingService) -> None:
    service.count(names.PLANTED_FAULTS, 1, detector=names.WRONG_SOCKET, result="missed")
    service.registry.gauge(names.DETECTOR_POWER, detector=names.WRONG_SOCKET).set(0.5)


def _orchestrator_down(service: LivingService) -> None:
    service.count(names.ID_RESOLUTIONS, 5, source="error")
    service.count(names.ID_SOURCE_ANSWERS, 5, source="orchestrator", answer="timeout")
    service.count(names.ID_OUTCOMES_TOTAL, 5, outcome="unknown")
    service.violate(names.ID_RESOLUTION, "hygiene")


def _ids_in_conflict(service: LivingService) -> None:
    service.violate(names.ID_RESOLUTION, "reachable")
    service.violate(names.ID_RESOLUTION, "crossed")
    service.count(names.ID_OUTCOMES_TOTAL, 1, outcome="foreign_denied")


def _every_kind(service: LivingService) -> None:
    for kind, grades in names.KIND_GRADES.items():
        service.violate(kind, grades[-1])


def _bad_variant(service: LivingService) -> None:
    service.count(names.GATE_VIOLATIONS, 1, rollout="checkout-v2", arm="on", grade="crossed")
    service.count(names.GATE_REQUESTS, 2, rollout="checkout-v2", arm="on", outcome="error")
    service.count(names.GATE_REQUESTS, 3, rollout="checkout-v2", arm="none", outcome="ok")
    service.count(names.FLAG_EVALUATIONS, 3, rollout="checkout-v2", reason="error")
    service.count(names.FLAG_FETCHES_TOTAL, 1, result="failed")
    service.registry.gauge(names.FLAG_STALE).set(2)
    for _ in range(5):
        service.registry.histogram(names.GATE_DURATION, rollout="checkout-v2", arm="on").observe(0.4)


def _harmful_rollout(service: LivingService) -> None:
    for arm in ("on", "off"):
        service.count(names.GATE_VIOLATIONS, 1, rollout="checkout-v2", arm=arm, grade="crossed")
    service.count(names.GATE_REQUESTS, 3, rollout="checkout-v2", arm="on", outcome="error")
    for _ in range(5):
        service.registry.histogram(names.GATE_DURATION, rollout="checkout-v2", arm="on").observe(0.4)
    missing = {"state": "inconclusive", "have": 100, "need": 400}
    service.gates["canary-42"] |= {"verdict": "inconclusive", "verdict_code": 0, "reasons": [missing], "metrics": {"requests": 100}}


def _failed_gate(service: LivingService) -> None:
    service.gates["canary-43"] |= {"verdict": "fail", "verdict_code": -1, "thresholds": {"min_exposed_requests": 400}}


def _containers_die(_service: LivingService) -> None:
    """Shown with the rest of the service's health."""


def _forgets_nothing(service: LivingService) -> None:
    """The rounds of expiry stop: nothing grows and nothing changes, which is the fault."""


def _broken_keys(service: LivingService) -> None:
    service.collector.keys_reloaded(False)
    service.collector.request_refused("unknown_token")


FAULTS = {
    "containers-die": _containers_die,
    "collector-forgets-nothing": _forgets_nothing,
    "broken-keys": _broken_keys,
    "bad-variant": _bad_variant,
    "harmful-rollout": _harmful_rollout,
    "failed-gate": _failed_gate,
    "shared-agent": _shared_agent,
    "wrong-socket": _wrong_socket,
    "inherited-context": _inherited_context,
    "session-leak": _session_leak,
    "slow-factory": _slow_factory,
    "lost-event": _lost_event,
    "disordered-run": _disordered_run,
    "strangers-let-in": _strangers,
    "nobody-connects": _nobody_connects,
    "lonely-runs": _lonely_runs,
    "slow-readers": _slow_readers,
    "stuck-run": _stuck_run,
    "cascade": _cascade,
    "stalled-loop": _stalled_loop,
    "dead-worker": _dead_worker,
    "growing-process": _growing_process,
    "endless-start": _endless_start,
    "untidy-end": _untidy_end,
    "dirty-pool": _dirty_pool,
    "starved-pool": _starved_pool,
    "slow-reset": _slow_reset,
    "shared-state": _shared_state,
    "blind-detector": _blind_detector,
    "orchestrator-down": _orchestrator_down,
    "ids-in-conflict": _ids_in_conflict,
    "failing-endpoint": _failing_endpoint,
    "slow-endpoint": _slow_endpoint,
    "late-first-event": _late_first_event,
    "refused-handshakes": _refused_handshakes,
    "every-kind": _every_kind,
}
"""What each fault, of the demonstration and beyond it, does to the numbers, as telemetry counts it."""
