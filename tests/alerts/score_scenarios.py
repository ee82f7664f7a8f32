"""Scenarios of the recorded series: the public names, and a score that is grey whenever someone could have been missed."""

from __future__ import annotations

from tests.real_parts.promtool import Scenario, ramp, series

_S = 300


def _service(
    name: str, requests: dict[tuple[str, str], str], checks: str = ramp((_S, 10)), up: str = f"1x{_S}", info: str = f"1x{_S}"
) -> dict[str, str]:
    instance = f"{name}:1"
    return {
        series("up", {"job": "isolation", "instance": instance}): up,
        series("isolation_monitor_info", {"service": name, "instance": instance, "version": "1", "mode": "monitor"}): info,
        series("isolation_checks_total", {"service": name, "instance": instance, "detector": "wrong_socket", "result": "pass"}): checks,
    } | {
        series(
            "isolation_requests_total", {"service": name, "instance": instance, "verdict": verdict, "exposed": exposed, "arm": "none"}
        ): values
        for (verdict, exposed), values in requests.items()
    }


def _score() -> Scenario:
    isolated, violated, unexposed = ("isolated", "true"), ("violated", "true"), ("isolated", "false")
    quiet = f"0x{_S}"
    inputs = {
        **_service("clean", {isolated: ramp((_S, 7)), violated: quiet}),
        **_service("leaky", {isolated: ramp((_S, 99)), violated: ramp((_S, 1))}),
        # Of ten first counted isolated each second one is reclassified, and counts again as violated: 9 to 1.
        **_service("late", {isolated: ramp((_S, 10)), violated: ramp((_S, 1))}),
        series("isolation_requests_reclassified_total", {"service": "late", "instance": "late:1", "exposed": "true", "arm": "none"}): ramp(
            (_S, 1)
        ),
        # The whole minute's requests of this one are reclassified later than they were counted.
        **_service("later", {isolated: quiet, violated: ramp((_S, 1))}),
        series(
            "isolation_requests_reclassified_total", {"service": "later", "instance": "later:1", "exposed": "true", "arm": "none"}
        ): ramp((_S, 1)),
        **_service("alone", {unexposed: ramp((_S, 10)), isolated: quiet, violated: quiet}),
        **_service("idle", {isolated: f"5x{_S}", violated: quiet}, checks=f"5x{_S}"),
        series("http_server_request_duration_seconds_count", {"service": "idle", "http_route": "/chat"}): f"4x{_S}",
        # One request in each of the two minutes that are looked at, and no check of it.
        **_service("once", {isolated: "0x149 1x99 2x50", violated: quiet}, checks=quiet),
        # The same with checks: one request is enough for a score.
        **_service("rare", {isolated: "0x149 1x99 2x50", violated: quiet}),
        **_service("unchecked", {isolated: ramp((_S, 7)), violated: quiet}, checks=quiet),
        **_service("down", {isolated: ramp((200, 7)) + " stale", violated: "0x199 stale"}, up="1x199 0x100", info="1x199 stale"),
        # One of two instances is down: its requests are unseen, so the service is grey.
        **_service("half", {isolated: ramp((_S, 7)), violated: quiet}),
        series("up", {"job": "isolation", "instance": "half:2"}): f"1x199 0x{_S - 200}",
        series("isolation_monitor_info", {"service": "half", "instance": "half:2", "version": "1", "mode": "monitor"}): "1x199 stale",
        # Born with one violation among four requests, and quiet since: nothing to check is not blindness.
        **_service("fresh", {isolated: "_x240 3x60", violated: "_x240 1x60"}, checks="_x240 0x60"),
        series("http_server_request_duration_seconds_count", {"service": "fresh", "http_route": "/chat"}): "_x240 4x60",
        # Two instances and two arms are one service.
        **_service("sum", {isolated: ramp((_S, 3)), violated: quiet}),
        series(
            "isolation_requests_total", {"service": "sum", "instance": "sum:2", "verdict": "violated", "exposed": "true", "arm": "on"}
        ): ramp((_S, 1)),
    }
    scores = {"clean": 100.0, "leaky": 99.0, "late": 90.0, "later": 0.0, "sum": 75.0, "rare": 100.0}
    first = scores | {"down": 100.0, "half": 100.0}
    second = scores | {"fresh": 75.0}
    every = {*first, *second, "alone", "idle", "unchecked", "once"}
    blind = {190: {"unchecked", "once"}, 260: {"unchecked", "once", "down", "half"}}
    measured = {190: set(first), 260: set(second)}
    samples: dict[tuple[str, int], dict[str, float]] = {}
    for moment, found in ((190, first), (260, second)):
        samples["isolation_score", moment] = {series("isolation_score", {"service": name}): value for name, value in found.items()}
        grey = every - blind[moment] - measured[moment]
        for state, members in (("measured", measured[moment]), ("blind", blind[moment]), ("not_measurable", grey)):
            samples[f'isolation_score_state{{state="{state}"}} == 1', moment] = {
                series("isolation_score_state", {"service": name, "state": state}): 1.0 for name in members
            }
        samples["sum by (service) (isolation_score_state)", moment] = {series("", {"service": name}): 1.0 for name in every}
        samples["count by (service) (isolation_score_state)", moment] = {series("", {"service": name}): 3.0 for name in every}
    return Scenario("isolation_score", inputs, samples=samples, every_s=10)


def _target_flicker() -> Scenario:
    """One failed scrape does not turn the score grey, five seconds of them do; a service that is gone is remembered."""
    inputs = _service("flicker", {("isolated", "true"): ramp((_S, 7)), ("violated", "true"): f"0x{_S}"}, up="1x99 0 1x99 0x5 1x50")
    inputs |= _service("gone", {}, checks="0x10", up="1x10 stale", info="1x10 stale")
    flicker, gone = ({"service": name} for name in ("flicker", "gone"))
    blind = 'isolation_score_state{state="blind"}'

    def states(of_flicker: float) -> dict[str, float]:
        return {
            series("isolation_score_state", {**flicker, "state": "blind"}): of_flicker,
            series("isolation_score_state", {**gone, "state": "blind"}): 1.0,
        }

    samples = {
        (blind, 100): states(0.0),
        (blind, 206): states(1.0),
        (blind, 208): states(0.0),
        ("isolation_score", 206): {},
        ("isolation_score", 100): {series("isolation_score", flicker): 100.0},
    }
    return Scenario("isolation_score when a target flickers", inputs, samples=samples, every_s=2)


def _detectors_grey() -> Scenario:
    """Detectors are counted, not workers; a service that is seen and has no grey detector counts 0."""

    def one(service: str, detector: str, grey: str, instance: int = 1) -> dict[str, str]:
        labels = {"service": service, "instance": f"{service}:{instance}", "detector": detector}
        return {
            series("isolation_detector_state", {**labels, "state": "grey"}): grey,
            series("isolation_detector_state", {**labels, "state": "proven"}): f"1x{_S}",
        }

    inputs = {
        **_service("proven", {}),
        **one("proven", "wrong_socket", f"0x{_S}"),
        **one("proven", "foreign_context", f"0x{_S}"),
        # Nothing is planted here.
        **_service("unplanted", {}),
        # One worker of one detector is grey until 200.
        **_service("healed", {}),
        **one("healed", "wrong_socket", f"1x199 0x{_S - 200}"),
        **one("healed", "foreign_context", f"0x{_S}"),
        # Two detectors: one in three workers of two instances, one in one worker from 200 on.
        **_service("grey", {}),
        **one("grey", "wrong_socket", f"2x{_S}"),
        **one("grey", "wrong_socket", f"1x{_S}", instance=2),
        **one("grey", "foreign_context", f"0x199 1x{_S - 200}"),
    }
    record = "service:isolation_detectors_grey:count"
    expected = {
        190: {"proven": 0.0, "unplanted": 0.0, "healed": 1.0, "grey": 1.0},
        260: {"proven": 0.0, "unplanted": 0.0, "healed": 0.0, "grey": 2.0},
    }
    samples = {
        (record, moment): {series(record, {"service": service}): value for service, value in values.items()}
        for moment, values in expected.items()
    }
    return Scenario("detectors grey", inputs, samples=samples, every_s=10)


def _public_names() -> Scenario:
    def one(metric: str, labels: dict[str, str], values: str) -> dict[str, str]:
        return {series(metric, {"service": "chat", **labels}): values}

    create = "isolation_instance_create_duration_seconds_bucket"
    inputs = {
        **one("isolation_failures_total", {"outcome": "contained"}, ramp((_S * 2, 3))),
        **one("isolation_failures_total", {"outcome": "escaped"}, ramp((_S * 2, 1))),
        **one("isolation_event_deliveries_total", {"result": "delivered"}, ramp((_S * 2, 4))),
        **one("isolation_event_deliveries_total", {"result": "lost"}, ramp((_S * 2, 1))),
        **one("isolation_event_deliveries_total", {"result": "unknown"}, ramp((_S * 2, 5))),
        **one("isolation_violations_total", {"kind": "wrong_socket", "synthetic": "false", "arm": "on"}, "3x600"),
        **one("isolation_violations_total", {"kind": "wrong_socket", "synthetic": "false", "arm": "off"}, "4x600"),
        **one("isolation_violations_total", {"kind": "wrong_socket", "synthetic": "true"}, "9x600"),
        **one("isolation_violations_total", {"kind": "instance_reuse", "synthetic": "false"}, "9x600"),
        **one("isolation_session_leaks_total", {"arm": "none"}, "5x600"),
        **one("isolation_session_leaks_retracted_total", {"arm": "none"}, "2x600"),
        **one(create, {"component": "agent", "le": "0.01"}, ramp((_S * 2, 90))),
        **one(create, {"component": "agent", "le": "0.02"}, ramp((_S * 2, 100))),
        **one(create, {"component": "agent", "le": "+Inf"}, ramp((_S * 2, 100))),
        series("isolation_session_leaks_total", {"service": "older"}): "6x600",
        # One failure, one event: enough for a share. Creations of half a millisecond.
        series("isolation_failures_total", {"service": "rare", "outcome": "contained"}): "0x300 1x300",
        series("isolation_failures_total", {"service": "rare", "outcome": "escaped"}): "0x600",
        series("isolation_event_deliveries_total", {"service": "rare", "result": "delivered"}): "0x380 1x200",
        series("isolation_event_deliveries_total", {"service": "rare", "result": "lost"}): "0x600",
        **one("isolation_run_verdicts_total", {"verdict": "complete_in_order"}, ramp((_S * 2, 3))),
        **one("isolation_run_verdicts_total", {"verdict": "no_end"}, ramp((_S * 2, 1))),
        **one("isolation_run_verdicts_total", {"verdict": "undeliverable"}, ramp((_S * 2, 7))),
        series("isolation_run_verdicts_total", {"service": "rare", "verdict": "complete_in_order"}): "0x380 1x200",
        series("isolation_run_verdicts_total", {"service": "idle", "verdict": "complete_in_order"}): "0x600",
        series(create, {"service": "rare", "component": "agent", "le": "0.0005"}): ramp((_S * 2, 1)),
        series(create, {"service": "rare", "component": "agent", "le": "+Inf"}): ramp((_S * 2, 1)),
        series(create, {"service": "idle", "component": "agent", "le": "0.01"}): "0x600",
        series(create, {"service": "idle", "component": "agent", "le": "+Inf"}): "0x600",
        series("isolation_failures_total", {"service": "idle", "outcome": "contained"}): "0x600",
        series("isolation_failures_total", {"service": "idle", "outcome": "escaped"}): "0x600",
        series("isolation_event_deliveries_total", {"service": "idle", "result": "lost"}): "0x600",
    }
    expected = {
        "failure_containment_rate": {"chat": 75.0, "rare": 100.0},
        "event_delivery_rate": {"chat": 80.0, "rare": 100.0},
        # Of ten events one is lost and five are unknown: the rate leaves those out.
        "service:isolation_event_delivery:floor": {"chat": 40.0, "rare": 100.0},
        "service:isolation_event_delivery:ceiling": {"chat": 90.0, "rare": 100.0},
        "service:isolation_runs_in_order:ratio_increase1m": {"chat": 0.75, "rare": 1.0},
        "websocket_isolation_violations": {"chat": 7.0},
        "session_leak_count": {"chat": 3.0, "older": 6.0},
        "instance_creation_time_ms": {"chat": 15.0, "rare": 0.475},
    }
    samples = {
        (name, 400): {series(name, {"service": service}): value for service, value in values.items()} for name, values in expected.items()
    }
    return Scenario("public names", inputs, samples=samples, every_s=100)


SCORE_SCENARIOS = [_score(), _target_flicker(), _detectors_grey(), _public_names()]
