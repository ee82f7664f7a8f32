#!/usr/bin/env python3
"""Makes sure that the real parts are here: Prometheus and Alertmanager; for the tests PostgreSQL, Redis, Node.js and Chromium, too.

Uses Debian's and Ubuntu's packages when it may install them (root and apt-get), without starting their services.
Otherwise it names exactly what to install. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "src"))

from isolation_monitor.demo import binaries  # noqa: E402 - the package is not installed yet
from isolation_monitor.demo.errors import COMPOSE_HINT, PartMissingError  # noqa: E402

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "# isolation-monitor: no service starts while its packages are installed"
APT_OPTIONS = ("-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")


def main() -> int:
    """Return 0 when every part is there, or missing ones are allowed; 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--for", dest="purpose", choices=("demo", "tests"), default="demo", help="which parts are needed (default: demo)")
    parser.add_argument("--optional", action="store_true", help="say what is missing but succeed, unless ISOMON_REQUIRE_REAL=1")
    parser.add_argument("--no-install", action="store_true", help="only look, install nothing")
    options = parser.parse_args()
    wanted = binaries.TEST_PARTS if options.purpose == "tests" else binaries.STACK_PARTS

    found, missing = binaries.find_all(wanted)
    if missing and not options.no_install and may_install():
        install(sorted({package for error in missing for package in error.packages}))
        found, missing = binaries.find_all(wanted)
    for part in found:
        print(f"  {part.part.name:<14} {part.version_text:<8} {part.path}")
    if not missing:
        return 0
    optional = options.optional and os.environ.get("ISOMON_REQUIRE_REAL") != "1"
    for error in missing:
        print(f"  {'skipped' if optional else 'MISSING'}: {error}", file=sys.stderr)
    if optional:
        print("  Tests that need these parts skip.", file=sys.stderr)
        return 0
    print(f"  {install_command(missing)}\n  {COMPOSE_HINT}", file=sys.stderr)
    return 1


def may_install() -> bool:
    """Return whether this is root on a system with apt-get."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_command(missing: list[PartMissingError]) -> str:
    """Return the line to type, as root, that installs what is missing."""
    packages = sorted({package for error in missing for package in error.packages})
    return f"Install with: sudo apt-get install --no-install-recommends {' '.join(packages)}"


def install(packages: list[str]) -> None:
    """Install Debian packages without starting the services they bring; a failure is printed, not raised."""
    print(f"Installing Debian packages (their services stay off): {' '.join(packages)}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with services_stay_off():
        # The lists of a fresh machine are empty, those of an old one name packages that are gone: always refresh first.
        for command in (
            ["apt-get", *APT_OPTIONS, "update", "-q"],
            ["apt-get", *APT_OPTIONS, "install", "-q", "-y", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, check=False
            )
            if done.returncode != 0:
                print("\n".join(done.stdout.splitlines()[-15:]), file=sys.stderr)
                print(f"  {' '.join(command)} ended with {done.returncode}", file=sys.stderr)
            else:
                print(f"  done: {' '.join(command[:1] + command[5:])}", flush=True)


@contextmanager
def services_stay_off() -> Iterator[None]:
    """Tell Debian's packages, by policy-rc.d, to start no service; a policy that exists already is left as it is."""
    ours_of_a_killed_run = POLICY.is_file() and POLICY_MARK in POLICY.read_text(errors="replace")
    if POLICY.exists() and not ours_of_a_killed_run:
        yield
        return
    # Ended by a signal, the policy must go all the same: it would keep every later package's service off.
    previous = {number: signal.signal(number, _exit_by_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        POLICY.write_text(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_by_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
