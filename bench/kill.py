"""`python -m bench.kill`: is anything lost that was acknowledged? Everything is killed without warning, again and again.

A collector on SQLite, PostgreSQL under a collector, and applications with their spool are killed with SIGKILL while records
pass through them. Acknowledged is what the collector answered 200 to, and of an application what its spool said is on disk.
Two controls acknowledge too early: they have to lose, or the harness sees nothing.
A kill leaves what the kernel has: it says nothing of a machine that loses its power.
Writes build/bench/kill.json; exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.rows import Row, report, write
from bench.shown import console_for_people, ending, table
from tests.real_parts.killable_postgres import killable_postgres
from tests.real_parts.killing import Outcome, kill_applications, kill_collectors, kill_early_collectors, kill_postgres

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "kill.json"
KILLS: Final = 210
RECORDS: Final = 1_050_000
LIMIT_MINUTES: Final = 25.0
CONTROL_KILLS: Final = 5


def rows(outcomes: list[Outcome], controls: list[Outcome], minutes: float, kills: int, records: int) -> list[Row]:
    """Return what was promised and kept. The budgets of numbers are those of a whole run; a shorter one says how short it was."""
    found = [
        Row("kills", float(sum(one.kills for one in outcomes)), "kills", float(kills), "higher"),
        Row("records acknowledged", float(sum(len(one.promised) for one in outcomes)), "records", float(records), "higher"),
        Row("acknowledged lost", float(sum(one.lost for one in outcomes)), "records", 0.0),
        Row("time", minutes, "min", LIMIT_MINUTES),
    ]
    for one in outcomes:
        note = f"{one.kills} kills, {len(one.promised):,} acknowledged"
        found.append(Row(f"acknowledged lost, {one.name} killed", float(one.lost), "records", 0.0, note=note))
        found.append(Row(f"stored twice, {one.name} killed", float(one.twice), "records", 0.0))
    for one in controls:
        note = f"{one.kills} kills, {len(one.promised):,} acknowledged too early"
        found.append(Row(f"control that acknowledges early, {one.name}: lost", float(one.lost), "records", 1.0, "higher", note=note))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description="Kill everything, and see whether a promise is broken.")
    parser.add_argument("--kills", type=int, default=KILLS, help="of all three kinds together")
    parser.add_argument("--records", type=int, default=RECORDS, help="acknowledged ones, of all three kinds together")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    console = console_for_people()
    began = time.monotonic()
    kills, per_kill = -(-chosen.kills // 3), max(400, -(-chosen.records // chosen.kills))
    with tempfile.TemporaryDirectory(prefix="isomon-kill-") as name:
        folder = Path(name)
        for part in ("sqlite", "postgres", "application", "early", "early-application"):
            (folder / part).mkdir()
        outcomes = [
            kill_applications(folder / "application", kills, per_kill, console.print),
            kill_collectors(folder / "sqlite", kills, per_kill, console.print),
        ]
        with killable_postgres() as cluster:
            outcomes.append(kill_postgres(folder / "postgres", cluster, kills, per_kill, console.print))
        controls = [
            kill_early_collectors(folder / "early", CONTROL_KILLS, 10_000, console.print),
            kill_applications(
                folder / "early-application", CONTROL_KILLS, 5_000, console.print, early=True, name="early-application"
            ),
        ]  # fmt: skip
    found = rows(outcomes, controls, (time.monotonic() - began) / 60, min(chosen.kills, 200), min(chosen.records, 1_000_000))
    content = report("kill", found)
    write(chosen.output, content)
    console.print(table("kill", found))
    console.print(ending(found, chosen.output))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
