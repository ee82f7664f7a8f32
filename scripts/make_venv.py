"""Makes .venv with the Python that runs this, and installs the package and its development tools into it.

Exact versions come from requirements/ci.txt. A .venv that works and has the right Python is kept and brought up to
date. Standard library only. Called by scripts/setup, which chooses the Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
LOCK = CHECKOUT / "requirements" / "ci.txt"
PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--retries", "5")


def main() -> int:
    """Return 0 when .venv holds the package and everything its tests need."""
    started = time.monotonic()
    if not usable(VENV):
        print(f"Making .venv with Python {sys.version.split()[0]} ({sys.executable})", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        if not make(VENV):
            return 1
    if not install():
        return 1
    print(f"Ready after {time.monotonic() - started:.0f} s: .venv/bin/isomon --help", flush=True)
    return 0


def usable(venv: Path) -> bool:
    """Return whether the virtual environment exists, runs and has pip; its Python is not replaced behind the user's back."""
    if not (venv / "bin" / "python").exists():
        return False
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return subprocess.run([venv / "bin" / "python", "-c", check], stderr=subprocess.DEVNULL, check=False).returncode == 0


def make(venv: Path) -> bool:
    """Make the virtual environment by the first way that works here."""
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if _venv_with_pip(venv):
        return True
    # Debian and Ubuntu leave ensurepip out of python3; it comes with python3-venv.
    if os.geteuid() == 0 and shutil.which("apt-get") and sys.executable.startswith("/usr/bin/"):
        print(f"Installing Debian package: {package}", flush=True)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "--no-install-recommends", package]):
            subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        if _venv_with_pip(venv):
            return True
    if _venv_by_other_pip(venv) or _venv_by_virtualenv(venv):
        return True
    print(
        f"{sys.executable} cannot make virtual environments. Install: sudo apt-get install {package}  (then: make setup)", file=sys.stderr
    )
    return False


def install() -> bool:
    """Install the package, editable, with the `dev` extra, in the locked versions."""
    count = sum(1 for line in LOCK.read_text().splitlines() if "==" in line and not line.startswith("#"))
    print(f"Installing the package and its {count} pinned dependencies into .venv", flush=True)
    command = [VENV / "bin" / "python", "-m", "pip", *PIP_OPTIONS, "install", "--constraint", LOCK, "--editable", ".[dev]"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    ) as pip:
        lines = _show_progress(pip, count)
    if pip.returncode == 0:
        return True
    print("\n".join(lines[-25:]), file=sys.stderr)
    print(f"pip ended with {pip.returncode}; the command was: {' '.join(map(str, command))}", file=sys.stderr)
    return False


def _show_progress(pip: subprocess.Popen[str], count: int) -> list[str]:
    """Read pip's output to its end, printing a counter instead of its two hundred lines."""
    lines: list[str] = []
    collected = 0
    installing = False
    shown_at = time.monotonic()
    terminal = sys.stdout.isatty()
    for line in pip.stdout or ():
        lines.append(line.rstrip())
        collected += line.startswith(("Collecting ", "Processing ", "Requirement already satisfied"))
        installing = installing or line.startswith("Installing collected packages")
        if line.startswith("Installing collected packages") or time.monotonic() - shown_at > (0.2 if terminal else 5.0):
            shown_at = time.monotonic()
            text = "  unpacking into .venv" if installing else f"  {min(collected, count)} of {count} collected"
            print(f"\r{text:<40}" if terminal else text, end="" if terminal else "\n", flush=True)
    if terminal:
        print(f"\r{'':<40}\r", end="", flush=True)
    return lines


def _venv_with_pip(venv: Path) -> bool:
    return _run([sys.executable, "-m", "venv", venv]) and usable(venv)


def _venv_by_other_pip(venv: Path) -> bool:
    """Make it without pip and let this Python's own pip install one into it."""
    shutil.rmtree(venv, ignore_errors=True)
    return (
        _run([sys.executable, "-m", "venv", "--without-pip", venv])
        and _run([sys.executable, "-m", "pip", *PIP_OPTIONS, "--python", venv / "bin" / "python", "install", "--quiet", "pip"])
        and usable(venv)
    )


def _venv_by_virtualenv(venv: Path) -> bool:
    shutil.rmtree(venv, ignore_errors=True)
    return _run([sys.executable, "-m", "virtualenv", "--quiet", venv]) and usable(venv)


def _run(command: list[str | Path]) -> bool:
    return (
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False).returncode == 0
    )


if __name__ == "__main__":
    sys.exit(main())
