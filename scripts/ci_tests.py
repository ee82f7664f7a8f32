#!/usr/bin/env python3
"""Runs tests as CI does: all of them, and what failed once more by itself, on one worker with nothing beside it.

    python scripts/ci_tests.py [--marks "not slow"] [--workers 2] [--flaky-limit 5] [-- PYTEST ARGUMENTS]

A test that fails among the others and passes alone is flaky: it is named, loudly and at the end, and written to
build/ci/flaky.json, and CI goes on. More of them than the limit fail, since then it is not chance; so do a test that fails
twice or is skipped the second time, and a run that ended for any other reason. Exits as pytest does (5: there are no such tests).
Why: docs/decisions/0018-a-second-look.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

FLAKY_LIMIT: Final = 5
SOME_FAILED: Final = 1
CACHE: Final = Path(".pytest_cache/v/cache/lastfailed")
LIST: Final = Path("build/ci/flaky.json")
_PASSED: Final = re.compile(r"(\d+) passed")
_NOT_PASSED: Final = re.compile(r"\d+ (?:failed|errors?|skipped|xfailed|xpassed|deselected)\b")


def main() -> int:
    options = _options()
    CACHE.unlink(missing_ok=True)
    parallel = ["-n", str(options.workers)] if options.workers else []
    code = _pytest("-m", options.marks, *parallel, *options.pytest)
    if code != SOME_FAILED:
        return code
    failed = sorted(json.loads(CACHE.read_text(encoding="utf-8"))) if CACHE.exists() else []
    if not failed or len(failed) > options.flaky_limit:
        print(f"\n{len(failed)} tests failed; up to {options.flaky_limit} are looked at a second time", file=sys.stderr)
        return SOME_FAILED
    print(f"\n== a second look at {len(failed)} tests that failed, each alone", flush=True)
    for name in failed:
        if not _passes_alone(name, options.pytest):
            print(f"\nfailed twice: {name}", file=sys.stderr)
            return SOME_FAILED
    LIST.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(LIST.read_text(encoding="utf-8")) if LIST.exists() else []
    LIST.write_text(json.dumps(sorted({*known, *failed}), indent=2) + "\n", encoding="utf-8")
    print(
        f"\n== FLAKY: {len(failed)} tests failed among the others and passed alone ({LIST}); each is a defect, of the test or the product:"
    )
    for name in failed:
        print(f"   {name}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--marks", default="not slow", help="which tests, as for pytest's -m")
    parser.add_argument("--workers", type=int, default=2, help="processes that share the tests; 0: this one alone")
    parser.add_argument("--flaky-limit", type=int, default=FLAKY_LIMIT, help="so many tests may fail once")
    parser.add_argument("pytest", nargs="*", help="what else pytest is told, after --")
    return parser.parse_args()


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _passes_alone(name: str, arguments: list[str]) -> bool:
    """Run one test in a process of its own. Anything but `1 passed` is no pass: a test that is skipped now proves nothing."""
    # Not the arguments that choose tests: pytest would run those, too.
    others = [one for one in arguments if one.startswith("-")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *others, "-q", "--tb=short", name], check=False, capture_output=True, text=True, encoding="utf-8"
    )
    print(done.stdout, done.stderr, sep="", end="", flush=True)
    summary = done.stdout.strip().rpartition("\n")[2]
    passed = _PASSED.search(summary)
    return done.returncode == 0 and passed is not None and passed[1] == "1" and not _NOT_PASSED.search(summary)


if __name__ == "__main__":
    sys.exit(main())
