"""`scripts/ci_tests.py`: what fails once and passes alone is told and let through, within a limit; nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "ci_tests.py"
ONCE = """
from pathlib import Path
import pytest

def first(name):
    mark = Path(__file__).with_name(name)
    is_first = not mark.exists()
    mark.write_text("")
    return is_first

@pytest.mark.parametrize("n", range({number}))
def test_once(n):
    assert not first(f"once-{{n}}")

def test_another():
    assert not first("another")

def test_good():
    pass
"""


def looked_at(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: slow\n")
    return subprocess.run([sys.executable, str(SCRIPT), *options], cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_fails_once_is_named_and_let_through(tmp_path: Path, workers: str) -> None:
    done = looked_at(tmp_path, ONCE.format(number=1), "--workers", workers)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "FLAKY: 2 tests" in done.stdout
    assert json.loads((tmp_path / "build/ci/flaky.json").read_text()) == ["test_it.py::test_another", "test_it.py::test_once[0]"]


def test_more_than_the_limit_is_no_chance(tmp_path: Path) -> None:
    done = looked_at(tmp_path, ONCE.format(number=2), "--workers", "0", "--flaky-limit", "2")

    assert done.returncode == 1
    assert "3 tests failed" in done.stderr
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("then", "told"),
    [("assert False", "failed twice"), ("pytest.skip('not here')", "failed twice"), ("pytest.xfail('known')", "failed twice")],
)
def test_a_second_time_must_be_a_pass(tmp_path: Path, then: str, told: str) -> None:
    source = ONCE.format(number=0) + f"\ndef test_bad():\n    assert not first('bad')\n    {then}\n"

    done = looked_at(tmp_path, source, "--workers", "0")

    assert done.returncode == 1
    assert told in done.stderr


@pytest.mark.parametrize(("source", "code"), [("def broken(:", 2), ("import pytest\n@pytest.mark.slow\ndef test_slow(): pass\n", 5)])
def test_a_run_that_ends_otherwise_is_passed_on(tmp_path: Path, source: str, code: int) -> None:
    assert looked_at(tmp_path, source, "--workers", "0").returncode == code


def test_all_is_well(tmp_path: Path) -> None:
    done = looked_at(tmp_path, "def test_good(): pass\n", "--workers", "0")

    assert (done.returncode, "FLAKY" in done.stdout) == (0, False)
