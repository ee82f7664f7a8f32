"""What a story found, as `build/demo/report.json` (schema `demo/1`) and as a table. All delays are seconds from the first harm."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from isolation_monitor.demo.rollback import Rollback

SCHEMA = "demo/1"
PAGE_LIMIT_S = 10.0
"""From the harm to the arrival of its page, in every trial."""
PAGE_MEDIAN_LIMIT_S = 3.0


@dataclass(slots=True)
class CleanMinute:
    """Sixty seconds of traffic with every fault off. `evaluated` counts the checks of each detector."""

    requests: int = 0
    exposed: int = 0
    violations: int = 0
    pages: int = 0
    score: float | None = None
    coverage: float | None = None
    evaluated: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class FaultTrial:
    """One fault, from its injection to the gate's answer. None: not seen, or a side that the fault has not."""

    fault: str
    harm_proven: bool = False
    record_s: float | None = None
    metric_s: float | None = None
    page_s: float | None = None
    alert: str | None = None
    gate_before: str | None = None
    gate_after: str | None = None
    violation_id: str | None = None
    kind: str | None = None
    grade: str | None = None
    victim: str | None = None
    offender: str | None = None
    stacks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The whole story; `failed` names the step that did not hold, and is no part of the schema while all held."""

    clean: CleanMinute = field(default_factory=CleanMinute)
    faults: list[FaultTrial] = field(default_factory=list)
    score_recovers_s: float | None = None
    rollback: Rollback = field(default_factory=Rollback)
    duration_s: float = 0.0
    failed: str | None = None

    @property
    def ok(self) -> bool:
        return self.failed is None

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Return the report in its published form."""
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "clean": asdict(self.clean),
            "faults": [asdict(trial) for trial in self.faults],
            "after_heal": {"score_recovers_s": self.score_recovers_s},
            "rollback_s": self.rollback.rollback_s,
            "variant_traffic_zero_s": self.rollback.variant_traffic_zero_s,
            "rollback": asdict(self.rollback),
            "duration_s": round(self.duration_s, 1),
            "ok": self.ok,
        }
        return body if self.ok else {**body, "failed": self.failed}

    def write(self, file: Path) -> None:
        """Write the report as JSON, making the folder."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def page_median_s(self) -> float | None:
        """Return the median of the delays from harm to page, None without any."""
        delays = [trial.page_s for trial in self.faults if trial.page_s is not None]
        return median(delays) if delays else None


def table(trials: list[FaultTrial]) -> Table:
    """Return the trials as a table for a terminal."""
    shown = Table(title="From the first harm, seconds", title_justify="left")
    for heading in ("fault", "record", "metric", "page", "alert", "gate", "grade"):
        shown.add_column(heading, justify="right" if heading in ("record", "metric", "page") else "left", overflow="fold")
    for trial in trials:
        shown.add_row(
            trial.fault,
            _seconds(trial.record_s),
            _seconds(trial.metric_s),
            _seconds(trial.page_s),
            trial.alert or "-",
            f"{trial.gate_before or '-'} > {trial.gate_after or '-'}",
            trial.grade or "-",
        )
    return shown


def spread(reports: list[Report]) -> str:
    """Return median and maximum of each delay over all trials of several stories, one line each."""
    lines = []
    for name in ("record_s", "metric_s", "page_s"):
        values = [value for report in reports for trial in report.faults if (value := getattr(trial, name)) is not None]
        if values:
            lines.append(f"{name:<9} median {median(values):.2f}  maximum {max(values):.2f}  of {len(values)} trials")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
