"""Rows of a benchmark report: the bench/1 form, and whether a value keeps its budget."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SCHEMA = "bench/1"

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value. Peers, ceilings and rows that say why something was skipped have no budget."""

    name: str
    value: float | None
    """None: not measured; `note` says why."""
    unit: str
    budget: float | None = None
    better: Better = "lower"
    spread: tuple[float, float] | None = None
    """Where 90 % of resampled medians lie; equal to the value where it is counted, not timed."""
    quiet: float | None = None
    """The same value from the quietest slots only."""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Follows from value and budget alone. A row with a budget that could not be measured is not ok."""
        if self.budget is None:
            return True
        if self.value is None:
            return False
        return self.value <= self.budget if self.better == "lower" else self.value >= self.budget

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": self.name,
            "value": _short(self.value),
            "unit": self.unit,
            "budget": self.budget,
            "better": self.better,
            "ok": self.ok,
            "spread": [_short(v) for v in self.spread] if self.spread is not None else None,
        }
        if self.quiet is not None:
            row["quiet"] = _short(self.quiet)
        if self.note:
            row["note"] = self.note
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        spread = row.get("spread")
        return cls(
            name=row["name"],
            value=row["value"],
            unit=row["unit"],
            budget=row.get("budget"),
            better=row.get("better", "lower"),
            spread=(spread[0], spread[1]) if spread else None,
            quiet=row.get("quiet"),
            note=row.get("note", ""),
        )


def p95(ordered: Sequence[float]) -> float:
    """Return the 95th percentile of measurements in ascending order: the one that is nearest to it."""
    return ordered[round(0.95 * (len(ordered) - 1))]


def report(name: str, rows: Iterable[Row]) -> dict[str, Any]:
    """Return the report as JSON; `ok` only when every row is."""
    rows = list(rows)
    return {"schema": SCHEMA, "name": name, "rows": [row.as_json() for row in rows], "ok": all(row.ok for row in rows)}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
