"""`scripts/audit.py`: a clean answer means that somebody looked; without anybody to ask it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, pathlib, sys
asked = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().split()
found = []
for line in asked:
    name, _, version = line.partition("==")
    flaws = [{"id": "FLAW-1", "fix_versions": ["9.9"]}] if line in KNOWN else []
    found.append({"name": name, "version": version, "vulns": flaws} if name not in UNTOLD else {"name": name, "skip_reason": "none"})
print(json.dumps({"dependencies": found}))
"""


def audit(tmp_path: Path, known: tuple[str, ...], untold: tuple[str, ...] = (), *options: str) -> subprocess.CompletedProcess[str]:
    """Run the audit of two packages; in place of pip-audit a program that knows these flaws."""
    lock, program = tmp_path / "lock.txt", tmp_path / "program.py"
    lock.write_text("one==1.0\ntwo==2.0\n")
    program.write_text(f"KNOWN, UNTOLD = {known!r}, {untold!r}\n{PROGRAM}")
    command = [sys.executable, "scripts/audit.py", *options, "--lock", str(lock), "--pip-audit", sys.executable, str(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_known_flaw_fails_and_says_where_it_is_mended(tmp_path: Path) -> None:
    done = audit(tmp_path, ("jinja2==2.11.2", "two==2.0"))

    assert done.returncode == 1
    assert "two 2.0: FLAW-1, mended in 9.9" in done.stdout


def test_a_clean_answer_names_what_nobody_could_tell_of(tmp_path: Path) -> None:
    done = audit(tmp_path, ("jinja2==2.11.2",), ("one",))

    assert done.returncode == 0
    assert "0 known flaws; nothing is known of 1 packages: one" in done.stdout


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--require",), 1)])
def test_advisories_that_do_not_know_the_known_flaw_are_none(tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    """A mirror that answers every question with nothing must not read as a clean bill."""
    done = audit(tmp_path, ("two==2.0",), (), *options)

    assert done.returncode == code
    assert "NOT AUDITED" in done.stdout


def test_the_real_program_takes_these_options(tmp_path: Path) -> None:
    """Whether or not it reaches anybody: an option that it does not know would read as an outage for ever."""
    done = subprocess.run([sys.executable, "-m", "pip_audit", "--help"], capture_output=True, text=True, check=False, timeout=120)

    for option in ("--requirement", "--no-deps", "--disable-pip", "--format", "--progress-spinner"):
        assert option in done.stdout
