"""Scenarios of the alerts on rollouts: the arms side by side, gates that cannot look, rollouts that wait, workers that hear
nothing.

One sample each 15 s, so a minute, which is one block, is four samples. `at` and `below` are on the margins and silent.
"""

from __future__ import annotations

from isolation_monitor.telemetry import names
from tests.real_parts.promtool import Firing, Scenario, ramp, series

_PAGE = {"severity": "critical", "action": "page", "rollback": "true"}
_STEP_S = 15
_MINUTE, _FOR_EVER = 60 // _STEP_S, 401
"""In samples."""


def _counter(minutes: list[float]) -> str:
    """Return a counter that grows by so much in each minute, evenly; the last minute goes on for ever."""
    *first, last = (growth / _MINUTE for growth in minutes)
    return ramp(*((_MINUTE, each) for each in first), (_FOR_EVER, last))


def _requests(service: str, arm: str, ok: str, error: str) -> dict[str, str]:
    name = names.GATE_REQUESTS.name
    about = {"service": service, "rollout": "r", "arm": arm}
    return {series(name, {**about, "outcome": "ok"}): ok, series(name, {**about, "outcome": "error"}): error}


_Minutes = tuple[list[float], list[float]]


def _arms(service: str, on: _Minutes, off: _Minutes = ([1000], [0])) -> dict[str, str]:
    """Return both arms: requests that worked and that failed, minute by minute."""
    return _requests(service, "on", *map(_counter, on)) | _requests(service, "off", *map(_counter, off))


def _in_turn(one: float, other: float) -> list[float]:
    return [one, other] * 20


def _errors() -> Scenario:
    quiet = [1000.0] * 5
    nothing = [0.0] * 5
    inputs = {
        # Two in a hundred fail, every minute alike: sure as soon as there are ten blocks.
        **_arms("steady", ([980], [20])),
        # Half a point more than the old version's half point.
        **_arms("margin", ([990], [10]), ([995], [5])),
        # One point more is allowed, and no more than that; beside a service that fails half of the time, too.
        **_arms("at", ([990], [10])),
        **_arms("over", ([989], [11])),
        **_arms("at_beside", ([490], [510]), ([500], [500])),
        **_arms("over_beside", ([488], [512]), ([500], [500])),
        # Both fail alike: whatever it is, it is not the rollout.
        **_arms("both", ([500], [500]), ([500], [500])),
        # One bad minute: the mean is beyond the margin and nothing is sure.
        **_arms("burst", ([*quiet, 600, 1000], [*nothing, 400, 0])),
        # Minutes in turn worse and better: after 30 of them the mean is 3.5 and 4.5 standard errors above nothing.
        **_arms("unsure", (_in_turn(900, 1000), _in_turn(100, 0)), (_in_turn(1000, 978), _in_turn(0, 22))),
        **_arms("sure", (_in_turn(900, 1000), _in_turn(100, 0)), (_in_turn(1000, 990.2), _in_turn(0, 9.8))),
        # After 16 of these the mean is exactly four standard errors; after 18 it is more.
        **_arms("even", (_in_turn(1000, 920), _in_turn(0, 80))),
        # Four requests a minute are too few to say anything, five are just enough.
        **_arms("few", ([3.6], [0.4])),
        **_arms("many", ([4.5], [0.5])),
        **_arms("few_old", ([900], [100]), ([4], [0])),
        **_arms("many_old", ([900], [100]), ([5], [0])),
        # In one minute: more than half fails, and enough requests do.
        **_arms("disaster", ([*quiet, 100, 1000], [*nothing, 900, 0])),
        **_arms("half", ([*quiet, 500, 1000], [*nothing, 500, 0])),
        **_arms("half_over", ([*quiet, 495, 1000], [*nothing, 505, 0])),
        **_arms("nineteen", ([*nothing, 0, 1000], [*nothing, 19, 0])),
        **_arms("twenty", ([*nothing, 0, 1000], [*nothing, 20, 0])),
    }

    def firing(**percent: str) -> list[Firing]:
        return [
            Firing(
                {"service": service, "rollout": "r", "trigger": "error_rate", **_PAGE},
                f"{service}: rollout r makes requests fail",
                f"Requests of {service} that have rollout r fail more often than those that have not, by {value} percentage points; "
                "1 is allowed. Both kinds were served at the same time by the same workers.",
            )
            for service, value in percent.items()
        ]

    lasting = {"steady": "2.00", "over": "1.10", "over_beside": "1.20", "many": "10.00", "many_old": "10.00"}
    return Scenario(
        "RolloutErrors",
        inputs,
        "RolloutErrors",
        {
            # The sixth minute is the disaster's; its page stays for a minute after its end.
            360: firing(disaster="90.00", half_over="50.50", twenty="100.00"),
            405: firing(disaster="67.50", half_over="50.50", twenty="100.00"),
            435: firing(disaster="67.50"),
            480: [],
            # Nine blocks are too few, ten are enough.
            585: [],
            600: firing(**lasting),
            1005: firing(**lasting),
            1800: firing(**lasting, sure="4.51", even="4.00"),
        },
        every_s=_STEP_S,
        step_s=_STEP_S,
    )


def _durations(service: str, arm: str, **by_bound: list[float]) -> dict[str, str]:
    name, about = names.GATE_DURATION.name, {"service": service, "rollout": "r", "arm": arm}
    every = [sum(minute) for minute in zip(*by_bound.values(), strict=True)]
    inputs, below = {}, [0.0] * len(every)
    for bound, counts in by_bound.items():
        below = [a + b for a, b in zip(below, counts, strict=True)]
        inputs[series(f"{name}_bucket", {**about, "le": bound.removeprefix("le").replace("_", ".")})] = _counter(below)
    inputs[series(f"{name}_bucket", {**about, "le": "+Inf"})] = _counter(every)
    inputs[series(f"{name}_count", about)] = _counter(every)
    return inputs


def _latency() -> Scenario:
    """Requests of the old version lie evenly between 0 and 100 ms, so that its slowest 5 % take 95 ms."""

    def one(service: str, off: float = 1000, **on: list[float]) -> dict[str, str]:
        return _durations(service, "on", **on) | _durations(service, "off", le0_1=[off])

    nothing = [0.0] * 5
    inputs = {
        # All of them evenly between 0 and a bound; the slowest 5 % are as much slower as the bound is higher.
        **one("steady", le0_125=[1000]),
        # These two bounds, because binary fractions make them exactly ten percent.
        **_durations("at", "on", le0_275=[1000.0]),
        **_durations("at", "off", le0_25=[1000.0]),
        **one("over", le0_1105=[1000]),
        **one("same", le0_1=[1000]),
        # One slow minute: the mean is beyond the margin and nothing is sure.
        **one("burst", le0_1=[*[1000.0] * 5, 0, 1000], le0_4=[*nothing, 1000, 0]),
        # Minutes in turn slower and faster: after 30 of them the mean is 3.7 and 4.1 standard errors above nothing.
        **one("unsure", le0_0912=_in_turn(0, 1000), le0_14=_in_turn(1000, 0)),
        **one("sure", le0_09353=_in_turn(0, 1000), le0_14=_in_turn(1000, 0)),
        # 29 a minute are too few to say anything, 30 are just enough.
        **one("few", le0_2=[29]),
        **one("many", le0_2=[30]),
        **one("few_old", 29, le0_2=[1000]),
        **one("many_old", 30, le0_2=[1000]),
        # In one minute: more than five times as long, and enough requests.
        **one("disaster", le1=[*nothing, 1000, 0]),
        **one("five", le0_5=[*nothing, 1000, 0]),
        **one("five_over", le0_5005=[*nothing, 1000, 0]),
        **one("few_slow", le1=[*nothing, 99, 0]),
        **one("many_slow", le1=[*nothing, 100, 0]),
    }

    def firing(**percent: str) -> list[Firing]:
        return [
            Firing(
                {"service": service, "rollout": "r", "trigger": "latency", **_PAGE},
                f"{service}: rollout r makes requests slow",
                f"The slowest 5 % of requests of {service} that have rollout r take {value} % longer than those that have not; "
                "10 % is allowed. Both kinds were served at the same time by the same workers.",
            )
            for service, value in percent.items()
        ]

    lasting = {"steady": "25.00", "over": "10.50", "many": "100.00", "many_old": "100.00"}
    return Scenario(
        "RolloutLatency",
        inputs,
        "RolloutLatency",
        {
            360: firing(disaster="900.00", five_over="400.50", many_slow="900.00"),
            390: firing(disaster="900.00", five_over="400.50", many_slow="900.00"),
            450: firing(disaster="900.00", five_over="400.50"),
            510: [],
            585: [],
            600: firing(**lasting),
            1800: firing(**lasting, sure="19.23"),
        },
        every_s=_STEP_S,
        step_s=_STEP_S,
    )


def _gate_errors() -> Scenario:
    def code(service: str, values: str, instance: str = "a") -> dict[str, str]:
        return {series("isolation_gate_verdict_code", {"service": service, "rollout": "r", "instance": instance}): values}

    inputs = {
        **code("blind", "1x3 -2x40 1x40"),
        **code("failed", "-1x100"),
        **code("waits", "0x100"),
        **code("passes", "1x100"),
        **code("one_sees", "-2x100") | code("one_sees", "0x100", "b"),
        **code("short", "1x3 -2x3 1x40"),
        **code("beyond", "-3x100"),
    }
    firing = [
        Firing(
            {"service": "blind", "rollout": "r", "severity": "error", "action": "ticket"},
            "blind: the gate of rollout r cannot look",
            "For 1m the gate of rollout r of blind has come to no verdict, because it cannot read what it judges by. The rollout waits: "
            "nothing advances and nothing is rolled back for it. Violation records still act.",
        )
    ]
    return Scenario("GateError", inputs, "GateError", {105: [], 120: firing, 660: firing, 690: []}, every_s=_STEP_S, step_s=_STEP_S)


def _stuck() -> Scenario:
    def waiting(service: str, values: str, instance: str = "a") -> dict[str, str]:
        return {series("isolation_gate_waiting_seconds", {"service": service, "rollout": "r", "instance": instance}): values}

    inputs = {
        **waiting("at", "21600x100"),
        **waiting("over", "21601x20 0x80"),
        # Another replica has just seen it pass.
        **waiting("passed", "30000x100") | waiting("passed", "0x100", "b"),
    }
    firing = [
        Firing(
            {"service": "over", "rollout": "r", "severity": "warning", "action": "ticket"},
            "over: rollout r waits for evidence that does not come",
            "The gate of rollout r of over has waited for 6h 0m 1s and is still without a verdict. Its users keep what they have. "
            "Send it more traffic, ask for less evidence, or take it back.",
        )
    ]
    return Scenario("RolloutStuck", inputs, "RolloutStuck", {60: firing, 300: firing, 345: []}, every_s=_STEP_S, step_s=_STEP_S)


def _flags_stale() -> Scenario:
    def workers(service: str, values: str, instance: str = "a") -> dict[str, str]:
        return {series(names.FLAG_STALE.name, {"service": service, "instance": instance}): values}

    inputs = {
        **workers("healthy", "0x100"),
        # Out of touch from 60 s on, and again in touch at 480 s.
        **workers("alone", "0x3 1x27 0x70"),
        # One instance of two, where three workers are: the numbers of all are added.
        **workers("several", "2x100") | workers("several", "1x100", "b") | workers("several", "0x100", "c"),
        # A collector that is replaced: five minutes less a quarter, then nothing.
        **workers("short", "0x3 1x19 0x78"),
        # Who follows no collector shows no such series.
        series(names.MONITOR_INFO.name, {"service": "without", "version": "1", "mode": "monitor"}): "1x100",
        # The instance that was out of touch is gone.
        **workers("gone", "0x3 1x10 stale") | workers("gone", "0x100", "b"),
    }

    def firing(service: str, number: int) -> Firing:
        return Firing(
            {"service": service, "severity": "warning", "action": "ticket"},
            f"{service}: workers hear nothing of the flags' rules",
            f"{number} workers of {service} have heard nothing of the flags' rules for more than 5m. Their users keep the variants that "
            "they have; a rollback does not reach them.",
        )

    several = firing("several", 3)
    moments = {
        285: [],
        300: [several],
        345: [several],
        360: [several, firing("alone", 1)],
        465: [several, firing("alone", 1)],
        480: [several],
    }
    return Scenario("FlagsStale", inputs, "FlagsStale", moments, every_s=_STEP_S, step_s=_STEP_S)


ROLLOUT_SCENARIOS = [_errors(), _latency(), _gate_errors(), _stuck(), _flags_stale()]
