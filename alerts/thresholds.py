"""The numbers of `thresholds.yml`, typed and checked when loaded.

Durations stay Prometheus durations in text (`10s`, `5m`), because that is how rules use them.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

THRESHOLDS_FILE = Path(__file__).parent / "thresholds.yml"
_DURATION = re.compile(r"[1-9][0-9]*(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ThresholdsError(ValueError):
    """`thresholds.yml` lacks a number, has one too many, or one of another type."""


class Duration(str):
    """A Prometheus duration with one unit, such as `90s`."""

    @property
    def seconds(self) -> float:
        number, unit = re.fullmatch(r"([0-9]+)([a-z]+)", self).groups()  # type: ignore[union-attr]  # checked when loaded
        return int(number) * _UNIT_S[unit]


@dataclass(frozen=True, slots=True)
class Violation:
    window: Duration
    memory: Duration
    keep_firing_for: Duration


@dataclass(frozen=True, slots=True)
class Score:
    window: Duration
    blind_after: Duration


@dataclass(frozen=True, slots=True)
class Creation:
    max_creation_s: float
    max_reset_s: float
    window: Duration
    long_window: Duration
    min_creations: int


@dataclass(frozen=True, slots=True)
class Delivery:
    window: Duration
    page_below_percent: int
    rollback_below_percent: int
    min_owed_events: int
    unknown_window: Duration
    max_unknown_percent: int
    unknown_for: Duration


@dataclass(frozen=True, slots=True)
class Connections:
    window: Duration
    min_handshakes: int
    max_failed_ratio: float


@dataclass(frozen=True, slots=True)
class Resolution:
    window: Duration
    page_below_percent: int
    min_resolutions: int


@dataclass(frozen=True, slots=True)
class Lifecycle:
    max_startup_s: float
    max_cleanup_s: float
    startup_told_for: Duration
    window: Duration
    memory: Duration


@dataclass(frozen=True, slots=True)
class Containment:
    window: Duration


@dataclass(frozen=True, slots=True)
class Sessions:
    max_wait_s: float
    window: Duration
    min_acquisitions: int
    for_: Duration


@dataclass(frozen=True, slots=True)
class Blindness:
    remembered: Duration
    target_down_for: Duration
    checks_window: Duration
    checks_memory: Duration
    checks_silent_for: Duration
    quiet_routes: str
    detector_window: Duration
    detector_min_activity: int
    grey_for: Duration
    missed_window: Duration
    max_missed: int
    coverage_window: Duration
    max_unverified_ratio: float
    coverage_min_requests: int
    coverage_for: Duration
    dropping_window: Duration
    errors_window: Duration
    keep_ticket_for: Duration
    harmless_drop_reasons: str
    collector_down_for: Duration
    evidence_refused_window: Duration
    evidence_refused_for: Duration


@dataclass(frozen=True, slots=True)
class Collector:
    max_missed_rounds: int
    rounds_remembered: Duration
    retention_stale_for: Duration
    keys_stale_for: Duration
    min_failed_rollups: int
    rollups_window: Duration


@dataclass(frozen=True, slots=True)
class Ci:
    min_pass_ratio: float
    max_flaky_ratio: float
    max_duration_s: int
    max_trend_ratio: float
    max_memory_bytes: int
    missing_after_s: int


@dataclass(frozen=True, slots=True)
class Rollouts:
    window: Duration
    min_blocks: int
    standard_errors: int
    min_block_requests: int
    min_block_durations: int
    max_error_percent: int
    max_slower_percent: int
    disaster_error_percent: int
    disaster_errors: int
    disaster_slower_percent: int
    disaster_durations: int
    gate_error_for: Duration
    max_waiting_s: int
    flags_stale_for: Duration


@dataclass(frozen=True, slots=True)
class Containers:
    window: Duration
    restart_window: Duration
    max_restarts: int
    unhealthy_for: Duration
    max_memory_ratio: float
    memory_for: Duration
    engine_down_for: Duration
    left_behind_for: Duration


@dataclass(frozen=True, slots=True)
class Probes:
    failing_for: Duration
    slow_for: Duration
    certificate_days: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    violation: Violation
    score: Score
    creation: Creation
    delivery: Delivery
    connections: Connections
    resolution: Resolution
    lifecycle: Lifecycle
    containment: Containment
    sessions: Sessions
    blindness: Blindness
    collector: Collector
    ci: Ci
    rollouts: Rollouts
    containers: Containers
    probes: Probes


_Section = TypeVar("_Section")


def load(path: Path = THRESHOLDS_FILE) -> Thresholds:
    """Return the thresholds of a file.

    Raises:
        ThresholdsError: a section or number is missing, unknown or of a wrong type.
    """
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ThresholdsError(f"{path} is not a mapping of sections")
    return Thresholds(
        violation=_section(Violation, tree, "violation"),
        score=_section(Score, tree, "score"),
        creation=_section(Creation, tree, "creation"),
        delivery=_section(Delivery, tree, "delivery"),
        connections=_section(Connections, tree, "connections"),
        resolution=_section(Resolution, tree, "resolution"),
        lifecycle=_section(Lifecycle, tree, "lifecycle"),
        containment=_section(Containment, tree, "containment"),
        sessions=_section(Sessions, tree, "sessions"),
        blindness=_section(Blindness, tree, "blindness"),
        collector=_section(Collector, tree, "collector"),
        ci=_section(Ci, tree, "ci"),
        rollouts=_section(Rollouts, tree, "rollouts"),
        containers=_section(Containers, tree, "containers"),
        probes=_section(Probes, tree, "probes"),
    )


def _section(kind: type[_Section], tree: dict[str, Any], name: str) -> _Section:
    found = {key + "_" if key == "for" else key: value for key, value in (tree.get(name) or {}).items()}
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # only dataclasses are passed
    if found.keys() != fields.keys():
        raise ThresholdsError(
            f"section {name!r}: missing {sorted(fields.keys() - found.keys())}, unknown {sorted(found.keys() - fields.keys())}"
        )
    return kind(**{key: _value(f"{name}.{key}", fields[key], value) for key, value in found.items()})


def _value(where: str, wanted: str, value: object) -> object:
    if wanted == "Duration" and isinstance(value, str) and _DURATION.fullmatch(value):
        return Duration(value)
    if wanted == "str" and isinstance(value, str):
        return value
    if wanted == "int" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if wanted == "float" and isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise ThresholdsError(f"{where} is {value!r}: expected {'a duration such as 30s' if wanted == 'Duration' else wanted}")
