"""Scenarios of the alerts that compare a level: percentiles of durations, and the share of events delivered.

Each sits on both sides of its threshold: `at` is exactly on it and silent, `over` is just beyond it and fires. `few` is
far beyond it with one too few to say, `many` has just enough. `fresh` is born beyond it, `restarted` loses its counters.
"""

from __future__ import annotations

from tests.real_parts.promtool import Firing, Scenario, ramp, series, steps

_TICKET = {"severity": "warning", "action": "ticket"}


def _histogram(metric: str, labels: dict[str, str], good: str, good_le: str, all_: str, bad_le: str) -> dict[str, str]:
    """Return a histogram whose observations are within `good_le` or, the rest, between it and `bad_le` (both bucket bounds)."""
    buckets = {good_le: good, bad_le: all_, "+Inf": all_}
    return {series(f"{metric}_bucket", {**labels, "le": le}): values for le, values in buckets.items()} | {
        series(f"{metric}_count", labels): all_
    }


def _speed(alert: str, metric: str, good_le: str, bad_le: str, over: str, worst: str, summary: str, text: str) -> Scenario:
    """Of 100 observations a second, 95 within the bound put the percentile on it, 94 just above; `worst` is what all-slow ones show."""

    def one(service: str, good: str, all_: str) -> dict[str, str]:
        return _histogram(metric, {"service": service, "component": "agent"}, good, good_le, all_, bad_le)

    inputs = {
        **one("at", ramp((900, 95)), ramp((900, 100))),
        **one("over", ramp((900, 94)), ramp((900, 100))),
        # All slow, and in the short window one too few or just enough; later their long window holds the same.
        **one("few", "0x900", "0x399 19x500"),
        **one("many", "0x900", "0x399 20x500"),
        # One creation in ten seconds: only the long window ever holds enough.
        **one("seldom", "0x900", steps(every_s=10, until_s=900)),
        # Bursts that only the long window still sees, on the threshold and beyond it.
        **one("burst_at", "0x99 95x800", "0x99 100x800"),
        **one("burst_over", "0x99 94x800", "0x99 100x800"),
        # Nineteen of twenty slow ones are in the short window: one too few for it to speak, so the long one does.
        **one("nineteen", "0x900", "0x99 1x149 20x600"),
        # Exactly twenty in each half minute are enough for the long window to be quiet after the fix.
        **one("healed_twenty", "0x299 " + _twice_in_three_seconds(600), _twice_in_three_seconds(900)),
        **one("fresh", "_x405 " + ramp((500, 0)), "_x405 " + ramp((500, 10), start=10)),
        **one("restarted", ramp((400, 98)) + " " + ramp((500, 98)), ramp((400, 100)) + " " + ramp((500, 100))),
        # Slow until 300, good from then on: the long window stays bad for minutes and must not speak.
        **one("healed", ramp((300, 50), (600, 100)), ramp((900, 100))),
    }

    def firing(value: str, *services: str) -> list[Firing]:
        return [
            Firing({"service": s, "component": "agent", **_TICKET}, f"{s}: {summary}", text.format(service=s, value=value))
            for s in services
        ]

    steady, halves = firing(over, "over"), firing(_within(good_le, bad_le, 0.9), "healed")
    return Scenario(
        f"{alert} level",
        inputs,
        alert,
        {
            60: [*steady, *halves, *firing(worst, "healed_twenty")],
            258: [*steady, *halves, *firing(worst, "healed_twenty", "nineteen", "seldom"), *firing(over, "burst_over")],
            360: [
                *steady,
                *firing(worst, "seldom", "nineteen"),
                *firing(_within(good_le, bad_le, 0.5), "healed"),
                *firing(over, "burst_over"),
                *firing(_within(good_le, bad_le, 0.75), "healed_twenty"),
            ],
            396: [*steady, *firing(worst, "seldom", "nineteen"), *firing(over, "burst_over")],
            402: [*steady, *firing(worst, "seldom", "nineteen", "many"), *firing(over, "burst_over")],
            420: [*steady, *firing(worst, "seldom", "nineteen", "many", "fresh"), *firing(over, "burst_over")],
            540: [*steady, *firing(worst, "seldom", "many", "fresh")],
        },
        every_s=6,
    )


def _twice_in_three_seconds(seconds: int) -> str:
    return " ".join(f"{2 * n}x2" for n in range(seconds // 3))


def _within(good_le: str, bad_le: str, part: float) -> str:
    """Return the percentile that lies in this part of the slow bucket.

    Of the healed service half of all were slow, so rank 95 lies at 45/50 of that bucket. Six seconds after, in the last
    moment when its half minute still was slow, 300 of 3,000 are in it, and rank 2,850 is in its middle. Of exactly
    twenty, 4 are in it, and rank 19 lies at 3/4.
    """
    return f"{(float(good_le) + (float(bad_le) - float(good_le)) * part) * 1000:.4g}ms"


def _delivery(alert: str, labels: dict[str, str], summary: str, ending: str, at: int) -> Scenario:
    """Of 1,000 events a second, `at` lost put the share on the threshold, one more below it."""

    def one(service: str, lost: str, delivered: str) -> dict[str, str]:
        name = "isolation_event_deliveries_total"
        return {
            series(name, {"service": service, "arm": "none", "result": "lost"}): lost,
            series(name, {"service": service, "arm": "none", "result": "delivered"}): delivered,
        }

    inputs = {
        **one("at", ramp((400, at)), ramp((400, 1000 - at))),
        **one("below", ramp((400, at + 1)), ramp((400, 1000 - at - 1))),
        **one("few", "0x199 10x200", "0x199 9x200"),
        **one("many", "0x199 10x200", "0x199 10x200"),
        **one("fresh", "_x205 " + ramp((200, 5), start=5), "_x205 " + ramp((200, 5), start=5)),
        **one("restarted", "0x400", ramp((200, 10)) + " " + ramp((200, 10))),
        **one("healed", ramp((100, 500), (300, 0)), ramp((100, 500), (300, 1000))),
        # Requests of other arms and instances belong to the same service.
        series("isolation_event_deliveries_total", {"service": "at", "arm": "on", "result": "delivered"}): "0x400",
    }

    def firing(percent: str, *services: str) -> list[Firing]:
        return [
            Firing(
                {"service": s, **labels},
                f"{s}: {summary}",
                f"{percent} % of the events owed to users of {s} in the last 1m were delivered{ending}",
            )
            for s in services
        ]

    below = firing(f"{100 - (at + 1) / 10:.2f}", "below")
    return Scenario(
        f"{alert} level",
        inputs,
        alert,
        {
            90: [*below, *firing("50.00", "healed")],
            198: [*below, *firing(_HEALED_LAST[at], "healed")],
            202: [*below, *firing(_HEALED_LAST[at], "healed"), *firing("50.00", "many")],
            230: [*below, *firing("50.00", "many", "fresh")],
        },
        every_s=2,
    )


_HEALED_LAST = {10: "98.33", 50: "93.33"}
"""The share in the last moment at which the healed service is still below: of the minute, 2 or 8 seconds were half lost."""

LEVEL_SCENARIOS = [
    _speed(
        "InstanceCreationSlow",
        "isolation_instance_create_duration_seconds",
        "0.01",
        "0.025",
        "12.5ms",
        "24.25ms",
        "creating agent is slow",
        "The slowest 5 % of creations of agent in {service} take {value} or longer; 10 ms is the budget. "
        "Every request that needs an instance waits for it.",
    ),
    _speed(
        "InstanceResetSlow",
        "isolation_instance_reset_duration_seconds",
        "0.005",
        "0.01",
        "5.833ms",
        "9.75ms",
        "resetting agent is slow",
        "The slowest 5 % of resets of agent in {service} take {value} or longer; 5 ms is the budget. "
        "State of the last request lives on until the reset is done.",
    ),
    _delivery(
        "EventDeliveryBelow99",
        {"severity": "error", "action": "page"},
        "fewer than 99 % of events reach their users",
        "; 100 % is the goal. The rest never left: users watch runs that stand still.",
        10,
    ),
    _delivery(
        "EventDeliveryBelow95",
        {"severity": "critical", "action": "page", "rollback": "true"},
        "fewer than 95 % of events reach their users, roll back",
        ". Below 95 % a rollout is rolled back.",
        50,
    ),
]


def _acquisition() -> Scenario:
    metric = "db_client_connection_wait_time_seconds"

    def one(service: str, good: str, all_: str) -> dict[str, str]:
        return _histogram(metric, {"service": service, "db_client_connection_pool_name": "main"}, good, "0.002", all_, "0.005")

    inputs = {
        **one("at", ramp((1800, 95)), ramp((1800, 100))),
        **one("over", ramp((900, 94), (900, 100)), ramp((1800, 100))),
        **one("few", "0x1800", steps(every_s=15, until_s=1800, skip=20)),
        **one("many", "0x1800", steps(every_s=15, until_s=1800)),
        **one("fresh", "_x400 " + ramp((1400, 0)), "_x400 " + ramp((1400, 1), start=1)),
        **one("restarted", ramp((400, 98)) + " " + ramp((1400, 98)), ramp((400, 100)) + " " + ramp((1400, 100))),
    }

    def firing(value: str, *services: str) -> list[Firing]:
        return [
            Firing(
                {"service": s, "db_client_connection_pool_name": "main", **_TICKET},
                f"{s}: requests wait for a database connection",
                f"The slowest 5 % of requests of {s} wait {value} or longer for a connection of pool main; 2 ms is the budget.",
            )
            for s in services
        ]

    return Scenario(
        "SessionAcquisitionSlow level",
        inputs,
        "SessionAcquisitionSlow",
        {
            285: [],
            360: firing("2.5ms", "over"),
            800: [*firing("2.5ms", "over"), *firing("4.85ms", "many", "fresh")],
            # In the last moment when it was slow, 45 s of 300 were good: 5.1 % in the slow bucket, rank 95 at 1/51 of it.
            1005: [*firing("2.059ms", "over"), *firing("4.85ms", "many", "fresh")],
            1050: firing("4.85ms", "many", "fresh"),
        },
        every_s=15,
    )


LEVEL_SCENARIOS.append(_acquisition())


def _stuck() -> Scenario:
    """A level of whole runs: one is one too many, and all workers' together are told."""

    def one(service: str, values: str, instance: str = "a:1") -> dict[str, str]:
        return {series("isolation_run_stuck", {"service": service, "instance": instance}): values}

    inputs = {
        **one("healthy", "0x400"),
        **one("stuck", "0x99 1x100 0x200"),
        **one("workers", "0x99 2x100 0x200"),
        **one("workers", "0x99 1x100 0x200", "a:2"),
        **one("fresh", "_x99 1x300"),
        # Its worker was killed: the runs are gone with it.
        **one("killed", "0x99 1x100 stale"),
    }

    def firing(service: str, number: int) -> Firing:
        return Firing(
            {"service": service, "severity": "error", "action": "page"},
            f"{service}: runs stand still",
            f"{number} runs of {service} have neither ended nor made any progress for longer than `stuck_after_s`. Each is a user who "
            "watches an agent that does nothing. The evidence has the line at which each run stands, and what it awaits.",
        )

    every = [firing("stuck", 1), firing("workers", 3), firing("fresh", 1), firing("killed", 1)]
    return Scenario("RunStuck level", inputs, "RunStuck", {98: [], 102: every, 240: every, 270: [firing("fresh", 1)]}, every_s=2)


LEVEL_SCENARIOS.append(_stuck())


def _handshakes() -> Scenario:
    def one(service: str, accepted: str, **others: str) -> dict[str, str]:
        found = {"accepted": accepted, **others}
        return {
            series("isolation_websocket_connections_total", {"service": service, "outcome": outcome}): v for outcome, v in found.items()
        }

    inputs = {
        **one("at", ramp((1800, 5)), refused=ramp((1800, 5))),
        **one(
            "over",
            ramp((900, 49), (900, 1)),
            refused=ramp((900, 20), (900, 0)),
            timed_out=ramp((900, 16), (900, 0)),
            error=ramp((900, 15), (900, 0)),
        ),
        **one("few", "0x1800", refused=steps(every_s=16, until_s=1800)),
        **one("many", "0x1800", refused=steps(every_s=15, until_s=1800)),
        # Let in, though wrongly: another alert's business.
        **one("unnamed", "0x1800", no_principal=ramp((1800, 9)), principal_disagrees=ramp((1800, 9))),
        **one("restarted", ramp((600, 6)) + " " + ramp((1200, 6)), refused=ramp((600, 4)) + " " + ramp((1200, 4))),
    }

    def firing(service: str, share: str) -> Firing:
        return Firing(
            {"service": service, "severity": "error", "action": "page"},
            f"{service}: users cannot open their WebSocket",
            f"{share} of the handshakes of {service} in the last 5m were refused, not answered in time, or failed; 50 % is allowed. "
            "These users see no events at all.",
        )

    over, many = firing("over", "51%"), firing("many", "100%")
    # Its window holds more failures than half until 1095; it is kept for five minutes from then on.
    moments = {0: [], 600: [over, many], 890: [over, many], 1260: [firing("over", "50.07%"), many], 1500: [many]}
    return Scenario("WebSocketHandshakesFailing level", inputs, "WebSocketHandshakesFailing", moments, every_s=15)


LEVEL_SCENARIOS.append(_handshakes())


def _unknown() -> Scenario:
    """Of 1,000 events a second, 200 without an answer are just allowed; the alert waits two minutes."""

    def one(service: str, unknown: str, delivered: str) -> dict[str, str]:
        name = "isolation_event_deliveries_total"
        return {
            series(name, {"service": service, "arm": "none", "result": "unknown"}): unknown,
            series(name, {"service": service, "arm": "none", "result": "delivered"}): delivered,
        }

    inputs = {
        **one("at", ramp((400, 200)), ramp((400, 800))),
        **one("above", ramp((400, 201)), ramp((400, 799))),
        # Twenty events are enough to judge, nineteen are not.
        **one("enough", "0x99 10x300", "0x99 10x300"),
        **one("few", "0x99 10x300", "0x99 9x300"),
        **one("healed", ramp((100, 500), (300, 0)), ramp((100, 500), (300, 1000))),
    }

    def firing(service: str, percent: str) -> Firing:
        return Firing(
            {"service": service, "severity": "warning", "action": "ticket"},
            f"{service}: nobody knows whether many events reached their users",
            f"{percent} % of the events of {service} in the last 5m ended without an answer: clients left, fell silent, or their worker "
            "died. They are in no delivery rate.",
        )

    moments = {
        90: [],
        200: [firing("above", "20.10"), firing("healed", "25.00")],
        390: [firing("above", "20.10"), firing("enough", "50.00")],
    }
    return Scenario("EventDeliveryUnknown level", inputs, "EventDeliveryUnknown", moments)


LEVEL_SCENARIOS.append(_unknown())
