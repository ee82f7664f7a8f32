"""Scenarios of the alerts on the monitor itself: what it looks like when nothing can be seen."""

from __future__ import annotations

from tests.real_parts.promtool import Firing, Scenario, ramp, series, steps

_PAGE = {"severity": "error", "action": "page"}


def _target(service: str, instance: str, up: str, info: str) -> dict[str, str]:
    return {
        series("up", {"job": "isolation", "instance": instance}): up,
        series("isolation_monitor_info", {"service": service, "instance": instance, "version": "1", "mode": "monitor"}): info,
    }


def _target_down() -> Scenario:
    inputs = {
        **_target("healthy", "a:1", "1x400", "1x400"),
        **_target("down", "b:1", "1x99 0x99 1x200", "1x99 stale _x99 1x200"),
        # Two instances, one scaled in: the service is still seen.
        **_target("scaled", "c:1", "1x400", "1x400"),
        **_target("scaled", "c:2", "1x99 stale", "1x99 stale"),
        # The only target left service discovery.
        **_target("gone", "d:1", "1x99 stale", "1x99 stale"),
        # Its counters fall to 0 at a restart that no scrape missed.
        **_target("restarted", "e:1", "1x400", "1x400"),
        series("up", {"job": "isolation", "instance": "never:1"}): "_x100 0x99 1x200",
        series("up", {"job": "isolation-main", "instance": "main:1"}): "0x400",
    }

    def firing(service: str, instance: str | None) -> Firing:
        return Firing(
            {"service": service, **({"instance": instance} if instance else {}), **_PAGE},
            f"{service}: its isolation metrics cannot be read",
            f"Prometheus has not read /metrics/isolation of {instance or 'any instance'} of service {service} for 30s. "
            "Violations there are invisible to scrapes; the score is blind, not good.",
        )

    every = [firing("down", "b:1"), firing("gone", None), firing("unknown", "never:1")]
    moments = {98: [], 128: [], 132: every, 198: every, 202: [firing("gone", None)]}
    return Scenario("IsolationTargetDown", inputs, "IsolationTargetDown", moments, every_s=2)


def _checks_silent() -> Scenario:
    def one(service: str, requests: str, checks: str, http: str = "0x700", route: str = "/chat") -> dict[str, str]:
        return {
            series("isolation_requests_total", {"service": service, "verdict": "isolated", "exposed": "true"}): requests,
            series("isolation_checks_total", {"service": service, "detector": "wrong_socket", "result": "pass"}): checks,
            series("http_server_request_duration_seconds_count", {"service": service, "http_route": route}): http,
        }

    inputs = {
        **one("healthy", ramp((700, 10)), ramp((700, 20))),
        # Checks stop at 200; their last growth leaves the two-minute window at 319.
        **one("silent", ramp((700, 10)), ramp((200, 20), (200, 0), (300, 20))),
        **one("unjudged", "0x700", "0x700", http=ramp((700, 10))),
        **one("slow", "0x199 1x500", "0x199 1x500"),
        **one("idle", "5x700", "5x700"),
        # One request is one too many.
        **one("single", "0x99 1x600", "0x700"),
        **one("once", "0x700", "0x700", http="0x99 1x600"),
        # One check in two minutes is not silence.
        **one("barely", ramp((700, 1)), "0x19 1x109 2x109 3x109 4x109 5x109 6x109 7x109"),
        **one("probed", "0x700", "0x700", http=ramp((700, 1)), route="/healthz"),
        **one("fresh", "_x500 " + ramp((200, 10), start=10), "_x500 0x200"),
        **one("restarted", ramp((200, 10)) + " " + ramp((500, 10)), ramp((200, 20)) + " " + ramp((500, 20))),
        # Checks that fail are no checks.
        series("isolation_checks_total", {"service": "silent", "detector": "wrong_socket", "result": "error"}): ramp((700, 1)),
    }

    def firing(service: str, number: int = 600) -> Firing:
        return Firing(
            {"service": service, **_PAGE},
            f"{service}: requests are served and none is checked",
            f"About {number} requests of {service} in the last 1m went by without one isolation check. "
            "Nothing would be seen; the score is blind, not good.",
        )

    unjudged = firing("unjudged")
    moments = {
        25: [],
        100: [unjudged],
        145: [unjudged, firing("single", 1), firing("once", 1)],
        340: [unjudged],
        360: [unjudged, firing("silent")],
        395: [unjudged, firing("silent")],
        410: [unjudged],
        525: [unjudged],
        600: [unjudged, firing("fresh")],
    }
    return Scenario("IsolationChecksSilent", inputs, "IsolationChecksSilent", moments, every_s=5)


def _detector_silent() -> Scenario:
    """A detector is silent only when it has worked before and there is work for it: no open socket is no blindness."""
    detectors = {
        "inherited_context": ("isolation_requests_total", {"verdict": "unverified"}),
        "instance_reuse": ("isolation_instance_create_duration_seconds_count", {"component": "agent"}),
        "wrong_socket": ("isolation_events_total", {"event": "agent_started", "stage": "sent"}),
        "foreign_identity": ("isolation_requests_total", {"verdict": "isolated"}),
        "foreign_context": ("isolation_requests_total", {"transport": "http", "verdict": "isolated"}),
        "foreign_content": ("isolation_requests_total", {"verdict": "violated"}),
        "session_leak": ("db_client_connection_use_time_seconds_count", {"db_client_connection_pool_name": "main"}),
        "slow_creation": ("isolation_instance_create_duration_seconds_count", {"component": "agent"}),
        "incomplete_run": ("isolation_runs_total", {"outcome": "complete"}),
        "bad_handshake": ("isolation_websocket_connections_total", {"outcome": "accepted"}),
        "unrouted_event": ("isolation_runs_total", {"outcome": "complete"}),
        "stuck_run": ("isolation_runs_total", {"outcome": "failed"}),
    }
    inputs: dict[str, str] = {}
    for detector, (metric, labels) in detectors.items():
        checks = {"detector": detector, "result": "pass"}
        # Checks stop at 600, work goes on: 20 acts in five minutes.
        inputs[series(metric, {"service": detector, **labels})] = steps(every_s=15, until_s=1620)
        inputs[series("isolation_checks_total", {"service": detector, **checks})] = ramp((600, 1), (1020, 0))
    work = {"verdict": "isolated"}
    checks = {"detector": "inherited_context", "result": "pass"}

    def also(service: str, acts: str, checked: str) -> None:
        inputs[series("isolation_requests_total", {"service": service, **work})] = acts
        inputs[series("isolation_checks_total", {"service": service, **checks})] = checked

    also("healthy", ramp((1620, 1)), ramp((1620, 1)))
    also("idle", ramp((600, 1), (1020, 0)), ramp((600, 1), (1020, 0)))
    also("few", steps(every_s=16, until_s=1620), ramp((600, 1), (1020, 0)))
    also("never", ramp((1620, 1)), "0x1620")
    also("fresh", "_x1200 " + ramp((420, 1), start=1), "_x1200 " + ramp((420, 1), start=1))
    also("restarted", ramp((900, 1)) + " " + ramp((720, 1)), ramp((900, 1)) + " " + ramp((720, 1)))
    also("healed", ramp((1620, 1)), ramp((600, 1), (600, 0), (420, 1)))

    also("rarely", ramp((1620, 1)), "0x299 1x1320")
    also("barely", ramp((1620, 1)), steps(every_s=290, until_s=1740))

    def firing(service: str, detector: str, number: int = 20) -> Firing:
        return Firing(
            {"service": service, "detector": detector, **_PAGE},
            f"{service}: detector {detector} sees nothing",
            f"Detector {detector} of {service} has stopped checking while there is work for it, or its checks fail: "
            f"about {number} chances to look went by unseen in up to 5m. Faults of that kind would stay hidden.",
        )

    silent = [firing(detector, detector) for detector in detectors]
    healed, rarely = firing("healed", "inherited_context", 300), firing("rarely", "inherited_context", 300)
    moments = {
        585: [],
        885: [rarely],
        930: [*silent, healed, rarely],
        1185: [*silent, healed, rarely],
        1470: [*silent, healed, rarely],
        1560: [*silent, rarely],
    }
    return Scenario("IsolationDetectorSilent", inputs, "IsolationDetectorSilent", moments, every_s=15)


def _detector_grey() -> Scenario:
    def one(service: str, grey: str, missed: str = "0x1500") -> dict[str, str]:
        labels = {"service": service, "detector": "canary"}
        return {
            series("isolation_detector_state", {**labels, "state": "grey"}): grey,
            series("isolation_planted_faults_total", {**labels, "result": "missed"}): missed,
        }

    inputs = {
        **one("healthy", "0x1500"),
        **one("blind", "0x299 1x300 0x900"),
        # Missed once, and proven at the second try.
        **one("once", "0x299 1x30 0x1170", "0x299 1x1200"),
        # Proven again after each of two misses; after each of three.
        **one("twice", "0x1500", "0x299 1x99 2x1100"),
        **one("flaky", "0x1500", "0x299 1x99 2x99 3x1000"),
        # A worker that lived for five scrapes: increase() makes exactly 2.5 of its two misses.
        **one("brief", "0x1500", "_x300 10 10 11 12 12 stale"),
        **one("fresh", "_x900 1x600", "_x900 0x600"),
    }

    def firing(service: str) -> Firing:
        return Firing(
            {"service": service, "detector": "canary", **_PAGE},
            f"{service}: detector canary does not see planted faults",
            f"Detector canary of {service} has missed its planted faults for 1m, or more than 2 of them within 15m. "
            "A real fault of that kind would stay hidden: its part of the score is grey, not good.",
        )

    moments = {
        345: [],
        375: [firing("blind")],
        540: [firing("blind")],
        600: [firing("blind"), firing("flaky")],
        # Seen again since 600: it keeps firing for five minutes, and no longer.
        870: [firing("blind"), firing("flaky")],
        945: [firing("flaky")],
        990: [firing("flaky"), firing("fresh")],
    }
    return Scenario("IsolationDetectorGrey", inputs, "IsolationDetectorGrey", moments, every_s=15)


def _coverage_low() -> Scenario:
    def one(service: str, unverified: str, isolated: str) -> dict[str, str]:
        return {
            series("isolation_requests_total", {"service": service, "verdict": "unverified", "exposed": "false"}): unverified,
            series("isolation_requests_total", {"service": service, "verdict": "isolated", "exposed": "true"}): isolated,
        }

    inputs = {
        **one("at", ramp((1800, 50)), ramp((1800, 50))),
        **one("over", ramp((900, 51), (900, 0)), ramp((900, 49), (900, 100))),
        **one("few", steps(every_s=15, until_s=1800, skip=20), "0x1800"),
        **one("many", steps(every_s=15, until_s=1800), "0x1800"),
        **one("fresh", "_x900 " + ramp((900, 1), start=1), "_x900 0x900"),
        **one("restarted", ramp((600, 2)) + " " + ramp((1200, 2)), ramp((600, 8)) + " " + ramp((1200, 8))),
    }

    def firing(service: str, share: str) -> Firing:
        return Firing(
            {"service": service, "severity": "warning", "action": "ticket"},
            f"{service}: most requests cannot be verified",
            f"{share} of the requests of {service} have no known principal or miss a required check. "
            "They are never counted as isolated; the score speaks only for the rest.",
        )

    moments = {
        285: [],
        330: [firing("over", "51%")],
        645: [firing("over", "51%"), firing("many", "100%")],
        1320: [firing("many", "100%"), firing("fresh", "100%")],
    }
    return Scenario("IsolationCoverageLow", inputs, "IsolationCoverageLow", moments, every_s=15)


def _collector_down(name: str, ups: list[str]) -> Scenario:
    firing = Firing(
        {"service": "isolation-collector", **_PAGE},
        "The isolation collector is down: evidence is not being stored",
        "No collector has answered Prometheus for 1m. Services keep records on their own disks until the spools are full; "
        "gates and runbooks do not answer.",
    )
    inputs = {series("up", {"job": "collector", "instance": f"collector:{n}"}): up for n, up in enumerate(ups)}
    moments = {98: [], 158: [], 162: [firing], 198: [firing], 202: []}
    return Scenario(f"IsolationCollectorDown {name}", inputs, "IsolationCollectorDown", moments, every_s=2)


def _evidence_refused() -> Scenario:
    def refused(reason: str, course: str, instance: str = "collector:1") -> dict[str, str]:
        labels = {"job": "collector", "instance": instance, "reason": reason}
        return {series("isolation_collector_batches_refused_total", labels): course}

    inputs = {
        # The disk is full until 570 s, and senders come again each 30 s.
        **refused("disk_full", f"{steps(30, 600)} 19x400"),
        # A burst, and another one when the first has left the window.
        **refused("overloaded", "0x99 20x299 40x599"),
        # What its sender must mend is no fault of the store.
        **refused("malformed", ramp((1000, 5))),
    }
    firing = Firing(
        {"service": "isolation-collector", "reason": "disk_full", **_PAGE},
        "The isolation collector stores no evidence (disk_full)",
        "For 4m the collector has refused batches of records: disk_full. Services keep them on their own disks until the spools are full, "
        "the least grave go first. Pages by metrics still work; gates do not hear of violations by records.",
    )
    moments = {255: [], 315: [firing], 720: [firing], 780: []}
    return Scenario("IsolationEvidenceRefused", inputs, "IsolationEvidenceRefused", moments, every_s=15)


BLINDNESS_SCENARIOS = [
    _target_down(),
    _checks_silent(),
    _detector_silent(),
    _detector_grey(),
    _coverage_low(),
    _evidence_refused(),
    _collector_down("one", ["1x99 0x99 1x100"]),
    _collector_down("without any target", ["1x99 stale _x99 1x100"]),
    _collector_down("both replicas", ["1x49 0x300", "1x99 0x99 1x100"]),
    Scenario(
        "DeadMansSwitch",
        {"up": "1x100"},
        "DeadMansSwitch",
        {
            moment: [
                Firing(
                    {"service": "isolation-monitor", "severity": "warning", "action": "ticket"},
                    "Alerting works from Prometheus to the receiver",
                    "This alert always fires. When its notifications stop, nobody is being paged any more: "
                    "rules, Prometheus or Alertmanager stand still.",
                )
            ]
            for moment in (0, 100)
        },
    ),
]
