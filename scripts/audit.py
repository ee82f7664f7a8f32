#!/usr/bin/env python3
"""Asks the advisories of PyPI about every version in requirements/ci.txt, by pip-audit.

    python scripts/audit.py [--require] [--lock FILE]

A version that is known to be vulnerable is asked about first. Where the advisories do not name it they cannot be reached from
here, as where only a mirror of packages answers: that is said, and is no failure unless `--require` (or ISOMON_REQUIRE_AUDIT=1) asks
for it. So a clean answer always means that somebody looked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

LOCK: Final = Path(__file__).resolve().parent.parent / "requirements" / "ci.txt"
CONTROL: Final = "jinja2==2.11.2\n"
"""CVE-2020-28493 and later ones; as old an entry as any copy of the advisories has."""
_PATIENCE_S: Final = 120.0
_CONTROL_PATIENCE_S: Final = 20.0


class NoAnswer(Exception):
    """The advisories were not read; the text says why."""


def advisories(requirements: str, patience_s: float, command: list[str]) -> tuple[list[str], list[str]]:
    """Return what is known to be vulnerable, one line each, and the packages that nobody could tell of.

    Raises:
        NoAnswer: the program gave none in time, or none that can be read.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(requirements)
        file.flush()
        options = ["--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=patience_s)
            found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]  # Any: another program's JSON
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"no answer within {patience_s:.0f} s") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoAnswer(f"pip-audit gave no answer ({type(error).__name__})") from None
    bad = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in found
        for flaw in one.get("vulns", ())
    ]
    return bad, [one["name"] for one in found if "skip_reason" in one]


def main(arguments: list[str]) -> int:
    """Return 0 when nothing is known to be vulnerable or nobody could tell, 1 when something is."""
    parser = argparse.ArgumentParser(description="Ask the advisories about every version in the lock.")
    parser.add_argument(
        "--require", action="store_true", default=os.environ.get("ISOMON_REQUIRE_AUDIT") == "1", help="no answer is a failure"
    )
    parser.add_argument("--lock", type=Path, default=LOCK, help="file of exact versions")
    parser.add_argument("--pip-audit", nargs="+", default=[sys.executable, "-m", "pip_audit"], help="program that asks")
    options = parser.parse_args(arguments)
    try:
        if not advisories(CONTROL, _CONTROL_PATIENCE_S, options.pip_audit)[0]:
            raise NoAnswer(f"nothing is said of {CONTROL.strip()}, which has known flaws")
        bad, untold = advisories(options.lock.read_text(encoding="utf-8"), _PATIENCE_S, options.pip_audit)
    except NoAnswer as why:
        print(f"NOT AUDITED: the advisories cannot be reached from here ({why})")
        return 1 if options.require else 0
    for line in bad:
        print(line)
    print(f"{len(bad)} known flaws; nothing is known of {len(untold)} packages{': ' + ', '.join(untold[:10]) if untold else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
