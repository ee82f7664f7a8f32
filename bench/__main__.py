"""`python -m bench [SUITE...]`: run the suites, print their rows as a table, write build/bench/overhead.json.

Exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import suites
from bench.rows import Row, report, write
from bench.shown import console_for_people, ending, table

OUTPUT = Path(__file__).resolve().parent.parent / "build" / "bench" / "overhead.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that the arguments name, all without a name."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what isolation monitoring costs.")
    parser.add_argument("names", nargs="*", metavar="SUITE", help=f"one or more of: {', '.join(suites.SUITES)}; default all")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that everything runs; the numbers mean nothing")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes (default: build/bench/overhead.json)")
    parser.add_argument("--strict", action=argparse.BooleanOptionalAction, default=True, help="exit 1 when a budget is missed")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in suites.SUITES]:
        parser.error(f"no suite is called {', '.join(unknown)}: choose among {', '.join(suites.SUITES)}")
    console = console_for_people()
    rows: list[Row] = []
    for name in chosen.names or suites.SUITES:
        began = time.monotonic()
        with console.status(f"measuring {name}"):
            measured = run(name, chosen.quick)
        rows += measured
        console.print(table(f"{name} ({time.monotonic() - began:.0f} s)", measured))
    content = report("overhead", rows)
    write(chosen.output, content)
    console.print(ending(rows, chosen.output))
    return 0 if content["ok"] or not chosen.strict else 1


def run(name: str, quick: bool) -> list[Row]:
    """Run one suite on an event loop of its own, uvloop where it is installed, as servers do."""
    suite = suites.SUITES[name]
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(suite(quick))


if __name__ == "__main__":
    sys.exit(main())
