"""Scenarios of the promises: what counts as an event, and on which side of its thresholds each burn alert speaks.

Time goes in ticks of 30 seconds, one sample each. A case says how long before the moment of judgement
how many events came, and how many were bad; windows are closed, so what is exactly as old as a window is still in it.
Runs are judged by an objective of 99.99 %, first events by 99 %, because only there 14.4, and 6 and 3, are exact in binary.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.real_parts.promtool import Firing, Scenario, series

TICK_S = 30
Burst = tuple[int, int, int]
"""So many ticks before the judgement so many events came, of which so many were bad."""

RUNS, FIRST_EVENTS = "chat-availability", "first-event"
_FAST = {"severity": "error", "action": "page"}
_SLOW = {"severity": "warning", "action": "ticket"}
_SPENT = {"severity": "error", "action": "ticket"}


def _case(slo: str, service: str, judged_at: int, bursts: Iterable[Burst], ticks: int) -> dict[str, str]:
    """Return what the ticks counted, as the rules would have recorded it: few evaluations are enough for windows of days."""
    labels = {"service": service, "slo": slo, "source": "case"}
    found: dict[str, str] = {}
    for name, column in (("events", 1), ("bad_events", 2)):
        counted = {judged_at - burst[0]: burst[column] for burst in bursts}
        found[series(f"service_slo:{name}:increase30s", labels)] = " ".join(str(counted.get(at, 0)) for at in range(ticks + 1))
    return found


def _fast() -> Scenario:
    judged_at, ticks = 240, 252
    # Ten million good runs, hours ago: what happened in the last hour is little for the window of six.
    earlier = (200, 10_000_000, 0)
    cases: dict[str, tuple[str, list[Burst]]] = {
        # 14.4 times over an hour and over five minutes.
        "over": (RUNS, [earlier, (5, 100_000, 145)]),
        "at_short": (RUNS, [earlier, (80, 1_000, 1_000), (5, 100_000, 144)]),
        "at_long": (RUNS, [earlier, (80, 90_000, 100), (5, 10_000, 44)]),
        "few": (RUNS, [earlier, (5, 4, 4)]),
        "enough": (RUNS, [earlier, (5, 5, 5)]),
        # 6 times over six hours and over half an hour; nothing in the last five minutes.
        "six_over": (FIRST_EVENTS, [(30, 1_000, 61)]),
        "six_at_short": (FIRST_EVENTS, [(200, 500, 500), (30, 1_000, 60)]),
        "six_at_long": (FIRST_EVENTS, [(200, 900, 20), (30, 100, 40)]),
        "six_few": (FIRST_EVENTS, [(30, 4, 4)]),
        "six_enough": (FIRST_EVENTS, [(30, 5, 5)]),
    }

    def firing(service: str, times: str) -> Firing:
        slo = cases[service][0]
        return Firing(
            {"service": service, "slo": slo, **_FAST},
            f"{service}: users feel it, {slo} is being broken fast",
            f"{service} spends what {slo} allows to fail in 30d {times} times too fast: 2 % in 1h or 5 % in 6h of it is gone. "
            "The share of bad events, by source and by endpoint, is on the dashboard.",
        )

    slow = [firing("six_over", "6.1"), firing("six_enough", "100.0")]
    return _scenario(
        "SloBurnsFast",
        cases,
        judged_at,
        ticks,
        {
            judged_at - 6: slow,
            judged_at: [firing("over", "14.5"), firing("enough", "10000.0"), *slow],
            # Five minutes after the last bad one, all is quiet but for what the half hour still holds.
            judged_at + 12: slow,
        },
        every=6,
    )


def _slow() -> Scenario:
    judged_at, ticks = 850, 850

    def day(old: tuple[int, int], good: int, new: tuple[int, int]) -> list[Burst]:
        """Older than six hours, then many good ones within them, then the last two hours: six hours alone see no burn."""
        return [(800, *old), (400, good, 0), (100, *new)]

    cases: dict[str, tuple[str, list[Burst]]] = {
        # 3 times over a day and over two hours.
        "over": (FIRST_EVENTS, day((900_000, 30_969), 99_000, (1_000, 31))),
        "at_short": (FIRST_EVENTS, day((900_000, 40_000), 99_000, (1_000, 30))),
        "at_long": (FIRST_EVENTS, day((900_000, 29_960), 99_000, (1_000, 40))),
        "few": (FIRST_EVENTS, day((3, 3), 95, (10, 1))),
        "enough": (FIRST_EVENTS, day((4, 4), 95, (10, 1))),
        # 1 time over three days and over six hours; nothing in the last two.
        "one_over": (FIRST_EVENTS, [(400, 1_000, 11)]),
        "one_at_short": (FIRST_EVENTS, [(800, 500, 500), (400, 1_000, 10)]),
        "one_at_long": (FIRST_EVENTS, [(800, 900, 5), (400, 100, 5)]),
        "one_few": (FIRST_EVENTS, [(400, 4, 4)]),
        "one_enough": (FIRST_EVENTS, [(400, 5, 5)]),
    }

    def firing(service: str, times: str) -> Firing:
        return Firing(
            {"service": service, "slo": FIRST_EVENTS, **_SLOW},
            f"{service}: {FIRST_EVENTS} will not be kept if this goes on",
            f"{service} spends what {FIRST_EVENTS} allows to fail in 30d {times} times too fast: 10 % in 1d or 10 % in 3d of it is gone. "
            "No hurry for tonight; at this pace the promise is broken before its window ends.",
        )

    pairs = [("over", "3.1"), ("enough", "4.6"), ("one_over", "1.1"), ("one_enough", "100.0")]
    return _scenario("SloBurnsSlowly", cases, judged_at, ticks, {0: [], judged_at: [firing(*pair) for pair in pairs]}, every=judged_at)


def _spent() -> Scenario:
    judged_at, ticks = 20, 30
    cases: dict[str, tuple[str, list[Burst]]] = {
        "exactly": (RUNS, [(5, 100_000, 10)]),
        "a_little_left": (RUNS, [(5, 100_000, 9)]),
        "overspent": (RUNS, [(5, 100_000, 100)]),
        "few": (RUNS, [(5, 4, 4)]),
        "enough": (RUNS, [(5, 5, 5)]),
    }

    def firing(service: str) -> Firing:
        return Firing(
            {"service": service, "slo": RUNS, **_SPENT},
            f"{service}: {RUNS} was not kept",
            f"More events of {service} failed in the last 30d than {RUNS} allows. Changes that are not repairs wait until the budget "
            "is back; failures leave the window as they grow old.",
        )

    left = "service_slo:budget_left:ratio30d"
    return _scenario(
        "SloBudgetSpent",
        cases,
        judged_at,
        ticks,
        {10: [], judged_at: [firing(service) for service in ("exactly", "overspent", "enough")]},
        {(f'{left}{{service="exactly"}}', judged_at * TICK_S): {series(left, {"service": "exactly", "slo": RUNS}): 0.0}},
        every=10,
    )


def _scenario(
    alert: str,
    cases: dict[str, tuple[str, list[Burst]]],
    judged_at: int,
    ticks: int,
    firing: dict[int, list[Firing]],
    samples: dict[tuple[str, int], dict[str, float]] | None = None,
    *,
    every: int,
) -> Scenario:
    inputs: dict[str, str] = {}
    for service, (slo, bursts) in cases.items():
        inputs |= _case(slo, service, judged_at, bursts, ticks)
    return Scenario(
        f"{alert} burn",
        inputs,
        alert,
        {at * TICK_S: found for at, found in firing.items()},
        samples or {},
        every_s=every * TICK_S,
        step_s=TICK_S,
    )


# --- what counts ------------------------------------------------------------------------------------------------------

_HTTP = "http_server_request_duration_seconds"
_ANSWERED = {"http_request_method": "GET", "http_route": "/api/me", "http_response_status_code": "200"}
COUNTED: dict[str, tuple[str, str, list[tuple[str, dict[str, str]]], list[tuple[str, dict[str, str]]]]] = {
    # By name: objective, source, the series of a good event, those of a bad one.
    "request": (
        RUNS,
        "requests",
        [(f"{_HTTP}_count", _ANSWERED)],
        [(f"{_HTTP}_count", {**_ANSWERED, "http_response_status_code": "503"})],
    ),
    "run": (
        RUNS,
        "runs",
        [("isolation_runs_total", {"outcome": "complete", "arm": "none"})],
        [("isolation_runs_total", {"outcome": "incomplete", "arm": "none"})],
    ),
    "handshake": (
        RUNS,
        "handshakes",
        [("isolation_websocket_connections_total", {"outcome": "accepted"})],
        [("isolation_websocket_connections_total", {"outcome": "error"})],
    ),
}
LATE: dict[str, tuple[str, str, str, str, dict[str, str]]] = {
    # By name: objective, source, histogram, the promised bound, labels.
    "first event": (FIRST_EVENTS, "runs", "isolation_run_time_to_first_event_seconds", "1.0", {}),
    "answer": ("quick-answers", "requests", _HTTP, "0.1", _ANSWERED),
}
NOBODYS = {
    # Nothing that a user was promised anything about.
    series("isolation_runs_total", {"service": "nobody", "outcome": "cancelled", "arm": "none"}): "0+1x20",
    series("isolation_runs_total", {"service": "nobody", "outcome": "abandoned", "arm": "none"}): "0+1x20",
    series("isolation_websocket_connections_total", {"service": "nobody", "outcome": "refused"}): "0+1x20",
    series(f"{_HTTP}_count", {"service": "nobody", **_ANSWERED, "http_route": "/healthz"}): "0+1x20",
    series(f"{_HTTP}_count", {"service": "nobody", **_ANSWERED, "http_route": "unmatched", "http_response_status_code": "500"}): "0+1x20",
}


def _lives(target: str) -> dict[str, tuple[str, str]]:
    """By service: the values of a counter, tick by tick, and of its target's `up`."""
    return {
        # Grows by 3 at tick 6, and stands.
        f"{target}_grows": ("7x5 10x14", "1x20"),
        # Restarted at tick 6, and soon as large as before but for one.
        f"{target}_restarts": ("100x5 99x14", "1x20"),
        # Born at tick 6 with 4, in a process that was read before.
        f"{target}_is_born": ("_x6 4x14", "1x20"),
        # Read for the first time at tick 6, when it stood at 50 since nobody knows when.
        f"{target}_is_found": ("_x6 50x14", "_x6 1x14"),
        # Away for four ticks, in which it grew by 9.
        f"{target}_was_away": ("20x1 _x4 29x14", "1x1 0x3 1x14"),
    }


EXPECTED = {"grows": 3.0, "restarts": 99.0, "is_born": 4.0, "is_found": None, "was_away": 9.0}


def _counting(name: str, slo: str, source: str, good: list[tuple[str, dict[str, str]]], bad: list[tuple[str, dict[str, str]]]) -> Scenario:
    """All events of these services are bad, those of `good` all good."""
    inputs: dict[str, str] = dict(NOBODYS)
    for service, (values, up) in _lives("a").items():
        target = {"job": "isolation", "instance": service}
        inputs[series("up", target)] = up
        inputs |= {series(metric, {"service": service, **target, **labels}): values for metric, labels in bad}
    inputs |= {series(metric, {"service": "well", **labels}): "0x5 2x14" for metric, labels in good}
    expected = {f"a_{life}": value for life, value in EXPECTED.items() if value is not None}
    return Scenario(
        f"every {name} counts once",
        inputs,
        samples=_samples(slo, source, events={**expected, "well": 2.0}, bad={**expected, "well": 0.0}),
        every_s=TICK_S,
        step_s=TICK_S,
    )


def _lateness(name: str, slo: str, source: str, histogram: str, bound: str, labels: dict[str, str]) -> Scenario:
    """Each service has as many late events as timely ones."""
    inputs: dict[str, str] = dict(NOBODYS)
    lives = _lives("a")
    for service, (values, up) in lives.items():
        target = {"job": "isolation-main", "instance": service}
        inputs[series("up", target)] = up
        of = {"service": service, **target, **labels}
        inputs[series(f"{histogram}_bucket", {**of, "le": bound})] = values
        inputs[series(f"{histogram}_count", of)] = _doubled(values)
    if histogram == _HTTP:
        # Errors are nobody's late answers, and models may take their time.
        for service, more in (
            ("failing", {"http_response_status_code": "500"}),
            ("thinking", {"http_route": "/api/threads/{id}/messages"}),
        ):
            inputs[series(f"{histogram}_count", {"service": service, **labels, **more})] = "0x5 8x14"
            inputs[series(f"{histogram}_bucket", {"service": service, **labels, **more, "le": bound})] = "0x19"
    timely = {f"a_{life}": value for life, value in EXPECTED.items() if value is not None}
    events = {service: 2 * value for service, value in timely.items()} | {"a_restarts": 198.0}
    return Scenario(
        f"a late {name} counts once",
        inputs,
        samples=_samples(slo, source, events=events, bad=timely),
        every_s=TICK_S,
        step_s=TICK_S,
    )


def _doubled(values: str) -> str:
    parts = (part.partition("x") for part in values.split())
    return " ".join(part[0] + "x" + part[2] if part[0] == "_" else f"{2 * int(part[0])}x{part[2]}" for part in parts)


def _samples(slo: str, source: str, *, events: dict[str, float], bad: dict[str, float]) -> dict[tuple[str, int], dict[str, float]]:
    """All that was counted until tick 19, and that nothing grew at tick 19 itself."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for name, values in (("events", events), ("bad_events", bad)):
        record = f'service_slo:{name}:increase30s{{slo="{slo}",source="{source}"}}'
        summed = {series("", {"service": service}): value for service, value in values.items()}
        # What is 0 all the time is there, too; only what is more is listed.
        found[f"sum by (service) (sum_over_time({record}[15m])) > 0", 19 * TICK_S] = {k: v for k, v in summed.items() if v > 0}
        found[f"sum by (service) ({record}) != 0", 19 * TICK_S] = {}
    found[
        f'sum by (service) (sum_over_time(service_slo:bad_events:increase30s{{slo="{slo}",source="{source}",service="well"}}[15m]))', 570
    ] = {'{service="well"}': 0.0} if "well" in bad else {}
    return found


def _windows() -> Scenario:
    """A promise about nothing is neither kept nor broken; one single event is enough to tell."""
    windows = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
    inputs = (
        _case(RUNS, "idle", 20, [], 25) | _case(RUNS, "single", 20, [(3, 1, 0)], 25) | _case(RUNS, "half", 20, [(3, 10_000, 5_000)], 25)
    )
    samples: dict[tuple[str, int], dict[str, float]] = {}
    for window in windows:
        record = f"service_slo:budget_burn:rate{window}"
        samples[record, 600] = {series(record, {"service": s, "slo": RUNS}): burn for s, burn in (("half", 5_000.0), ("single", 0.0))}
    left = "service_slo:budget_left:ratio30d"
    samples[left, 600] = {series(left, {"service": s, "slo": RUNS}): ratio for s, ratio in (("half", -4_999.0), ("single", 1.0))}
    budgets = {
        series("slo:error_budget:ratio", {"slo": slo}): budget
        for slo, budget in ((RUNS, 0.0001), (FIRST_EVENTS, 0.01), ("quick-answers", 0.01))
    }
    samples["slo:error_budget:ratio", 600] = budgets
    return Scenario("burn rates of every window", inputs, samples=samples, every_s=10 * TICK_S, step_s=TICK_S)


SLO_SCENARIOS = [
    _fast(),
    _slow(),
    _spent(),
    *(_counting(name, *what) for name, what in COUNTED.items()),
    *(_lateness(name, *what) for name, what in LATE.items()),
    _windows(),
]
