"""`make fuzz`: every decoder under inputs that grow towards code they have not reached, by atheris (libFuzzer for Python).

    python -m tests.fuzz [TARGET ...] [--seconds 60]

What reaches new code stays in build/fuzz/corpus/TARGET, so that the next run goes on from there. What a target did not take is in
build/fuzz/found/TARGET; `python -m tests.fuzz.one TARGET FILE` shows it again. Mended, it becomes a seed in tests/fuzz/seeds/TARGET.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS

FOLDER: Final = Path(__file__).resolve().parent.parent.parent / "build" / "fuzz"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when every target took all it was given, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the decoders, one after the other.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]!r}: choose among {', '.join(TARGETS)}")
    failed = []
    for name in chosen.targets or TARGETS:
        done = fuzz(name, FOLDER, f"-max_total_time={chosen.seconds}", seconds=chosen.seconds + 120)
        print(f"{name:<14} {done.runs:>9,} inputs, {done.features:>6,} features reached: {'ok' if done.is_clean else 'FOUND SOMETHING'}")
        if not done.is_clean:
            failed.append(name)
            print(done.said, file=sys.stderr)
            print(f"the input is in {done.found}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
