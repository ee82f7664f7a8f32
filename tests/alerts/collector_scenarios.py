"""Scenarios of the alerts on the collector's own duties."""

from __future__ import annotations

from tests.real_parts.promtool import Firing, Scenario, series


def _of(metric: str, course: str, instance: str = "collector:1") -> dict[str, str]:
    return {series(metric, {"job": "collector", "instance": instance}): course}


def _firing(severity: str, summary: str, description: str) -> list[Firing]:
    return [Firing({"service": "isolation-collector", "severity": severity, "action": "ticket"}, summary, description)]


def _retention_stale(name: str, rounds: dict[str, str], moments: dict[int, str]) -> Scenario:
    """A round each ten minutes, and a sample each minute; `moments` say since when there was none, or nothing."""

    def firing(since: str) -> list[Firing]:
        return _firing(
            "warning",
            "The isolation collector forgets nothing any more",
            f"No collector has come to the end of a round of expiry {since}: more than 3 of its intervals. "
            "Evidence is kept for longer than was promised, and the store grows. On PostgreSQL the days ahead may lack their partitions.",
        )

    inputs: dict[str, str] = {}
    for instance, course in rounds.items():
        inputs |= _of("isolation_collector_retention_last_success_timestamp_seconds", course, instance)
        inputs |= _of("isolation_collector_retention_interval_seconds", "600x200", instance)
    found = {moment: firing(since) if since else [] for moment, since in moments.items()}
    return Scenario(f"IsolationRetentionStale {name}", inputs, "IsolationRetentionStale", found, every_s=60, step_s=60)


def _keys_stale() -> Scenario:
    metric = "isolation_collector_keys_stale"
    inputs = {
        # Seen half written, and whole at the next look.
        **_of(metric, "0x99 1x9 0x600", "collector:1"),
        # Broken until somebody mends it; a second replica reads the same file and could.
        **_of(metric, "0x299 1x199 0x200", "collector:2"),
        **_of(metric, "0x700", "collector:3"),
    }
    firing = _firing(
        "error",
        "The isolation collector cannot read its keys: those from before hold",
        "For 1m a file of tokens or keys has been changed and unreadable to a collector. New keys do not open it yet, and revoked ones "
        "still do; it would not start again with this file.",
    )
    moments = {105: [], 165: [], 345: [], 375: firing, 495: firing, 525: []}
    return Scenario("IsolationKeysStale", inputs, "IsolationKeysStale", moments, every_s=15)


def _rollups_failing(name: str, failed: str, ok: str, moments: dict[int, str]) -> Scenario:
    """A round and a sample each minute, of the replica that leads; the other replica never led."""

    def firing(rounds: str) -> list[Firing]:
        return _firing(
            "warning",
            "The isolation collector cannot sum up the days that are over",
            f"In 30m {rounds} rounds of summing up failed and none went well. Answers stay right, but those over many days read every "
            "record, and get slow as the store grows.",
        )

    metric = "isolation_collector_rollup_rounds_total"
    inputs: dict[str, str] = {}
    for result, course in (("failed", failed), ("ok", ok)):
        labels = {"job": "collector", "result": result}
        inputs[series(metric, {**labels, "instance": "collector:1"})] = course
        inputs[series(metric, {**labels, "instance": "collector:2"})] = "0x200"
    found = {moment: firing(rounds) if rounds else [] for moment, rounds in moments.items()}
    return Scenario(f"IsolationRollupsFailing {name}", inputs, "IsolationRollupsFailing", found, every_s=60, step_s=60)


COLLECTOR_SCENARIOS = [
    # Rounds at 0, 10 and 20 minutes, none until 61: three intervals are over at 50 minutes, and five more have passed at 56.
    _retention_stale(
        "late",
        {"collector:1": "0x9 600x9 1200x40 3660x100"},
        {3000: "", 3300: "", 3360: "for 36m 0s", 3600: "for 40m 0s", 3660: "", 4200: ""},
    ),
    # Three intervals exactly are not more than three.
    _retention_stale("at the limit", {"collector:1": "0x29 1800x29 3600x100"}, {1800: "", 3600: "", 5400: ""}),
    # The replica that led is gone, and what it did counts until another one leads.
    _retention_stale(
        "another leads", {"collector:1": "0x9 600x9 1200x5 stale", "collector:2": "0x45 2760x100"}, {1620: "", 2400: "", 2760: "", 4500: ""}
    ),
    _keys_stale(),
    # Well for half an hour, then each round fails until 80 minutes: the last good one leaves the window half an hour after it.
    _rollups_failing("for long", "0x29 1+1x49 50x40", "0+1x29 29x49 30+1x40", {1800: "", 3480: "", 3540: "30", 4500: "30", 5100: ""}),
    # A store that was away for eight minutes.
    _rollups_failing("for minutes", "0x29 1+1x7 8x60", "0+1x29 29x7 30+1x60", {2100: "", 2280: "", 2580: ""}),
    # Rounds that take two minutes each until they fail, since the start: two are not enough, three are.
    _rollups_failing("slowly", " ".join(f"{n}x2" for n in range(20)), "0x59", {480: "", 540: "3", 1740: "9"}),
    # One round that went well among many that failed is a store that can be summed up.
    _rollups_failing("but for one", "0+1x60", "0x9 1x50", {900: "", 2340: "", 2400: "30"}),
    # A day that fails now and then among rounds that go well.
    _rollups_failing("now and then", "0+1x99", "0+1x99", {1800: "", 5400: ""}),
]
