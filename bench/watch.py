"""`python -m bench.watch`: containers, CI, start-up and clean-up watched on real parts, and every alert notified in time.

The rows of each part come from a module of its own, `bench.watch_containers`, `bench.watch_ci`, `bench.watch_lifecycle` and
`bench.watch_conditions`, which causes conditions for real, as they are.
The row `condition notified` is of this module: the condition of every alert is brought about on the pages that Prometheus reads, and the
notification awaited at the collector, through the project's own rules, Prometheus, Alertmanager and its webhook. Waits that a rule
makes on purpose (`for:`) are not counted. Writes build/bench/watch.json.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.rows import Row, p95, report, write
from bench.shown import console_for_people, table
from tests.real_parts.drills import drill_stack

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "watch.json"
PARTS: Final = ("containers", "ci", "lifecycle", "conditions")
NOTIFIED_S: Final = 30.0
QUICK_ALERTS: Final = ("SessionLeak", "IsolationViolation", "RunStuck")
"""What the short form causes: alerts that wait for nothing."""
_TIMEOUT_S: Final = 1200.0

PartRows = Callable[[bool], Awaitable[list[Row]]]


class PartMissing(Exception):
    """A part of the benchmark is not there; the text says which and how to run the others."""


def rows_of(part: str) -> PartRows:
    """Return the function that measures a part; it takes whether to be quick.

    Raises:
        PartMissing: there is no such module, or it has no `rows`.
    """
    name = f"bench.watch_{part}"
    if importlib.util.find_spec(name) is None:
        raise PartMissing(f"bench/watch_{part}.py is not there: write it, or run the others with --parts {' '.join(set(PARTS) - {part})}")
    found = getattr(importlib.import_module(name), "rows", None)
    if found is None:
        raise PartMissing(f"bench/watch_{part}.py has no function rows(quick)")
    measured: PartRows = found
    return measured


def notified(quick: bool) -> list[Row]:
    """Cause each condition, and return how long its notification took beyond the wait of its rule."""
    chosen = [part for alert in QUICK_ALERTS for part in ("--alert", alert)] if quick else []
    with tempfile.TemporaryDirectory() as folder, drill_stack(Path(folder), is_patient=True) as stack:
        done = subprocess.run(stack.command("--json", *chosen), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    try:
        drills: list[dict[str, Any]] = json.loads(done.stdout)["alerts"]
    except (ValueError, KeyError):
        return [Row("condition notified, slowest", None, "s", NOTIFIED_S, note=(done.stderr.strip() or "the drill did not answer")[-300:])]
    return rows_of_drills(drills)


def rows_of_drills(drills: Sequence[dict[str, Any]]) -> list[Row]:
    """Return the rows of a drill's report; an alert that did not arrive leaves the slowest without a value."""
    late = [one["alert"] for one in drills if one["arrived_after_s"] is None]
    took = sorted(max(0.0, one["arrived_after_s"] - one["own_wait_s"]) for one in drills if one["arrived_after_s"] is not None)
    note = f"{len(drills)} alerts" + (f"; never arrived: {', '.join(late)}" if late else "")
    return [
        Row("condition notified, slowest", None if late or not took else took[-1], "s", NOTIFIED_S, note=note),
        Row("condition notified, p95", p95(took) if took else None, "s", note="waits of rules (for:) not counted"),
        Row("conditions caused and notified", len(took), "alerts", len(drills), "higher"),
    ]


async def measured(parts: Sequence[str], quick: bool) -> list[Row]:
    """Return the rows of the parts, one after the other. Raises PartMissing before anything is measured."""
    found: list[Row] = []
    for measure in [rows_of(part) for part in parts]:
        found += await measure(quick)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.watch", description="Containers, CI, start-up and clean-up watched, on real parts."
    )
    parser.add_argument("--quick", action="store_true", help="the short form: a few of each")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="only these (default: all)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    try:
        found = asyncio.run(measured(chosen.parts, chosen.quick))
    except PartMissing as error:
        sys.stderr.write(f"bench.watch: {error}\n")
        return 2
    found += notified(chosen.quick)
    content = report("watch", found)
    write(chosen.output, content)
    console_for_people().print(table("watch", found))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
