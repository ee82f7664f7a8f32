"""The shell of `isomon`: what it lists, what it says when something is missing, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isolation_monitor.cli.commands import COMMANDS


def isomon(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `isomon`, after some code that breaks the installation in the wanted way."""
    code = f"import sys\n{before}\nfrom isolation_monitor.cli.main import main\nmain({list(arguments)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def without(*modules: str) -> str:
    """Code after which importing these modules fails, as where they are not installed."""
    return f"""
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_help_lists_every_sub_command_and_shows_examples() -> None:
    done = isomon("--help")

    assert done.returncode == 0
    assert "isomon gate check" in done.stdout
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_sub_command_works(name: str) -> None:
    from importlib.util import find_spec

    if find_spec(COMMANDS[name].module) is None:
        pytest.skip(f"{COMMANDS[name].module} is not written yet")

    done = isomon(name, "--help")

    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_version_is_printed() -> None:
    from isolation_monitor import __version__

    assert isomon("--version").stdout == f"isomon {__version__}\n"


def test_an_unknown_sub_command_is_a_usage_error() -> None:
    assert isomon("no-such-command").returncode == 2


def test_without_typer_it_says_what_to_install() -> None:
    done = isomon("gate", "check", "r1", before=without("typer"))

    assert done.returncode == 2
    assert "isolation-monitor[cli]" in done.stderr


def test_an_installation_without_the_demonstration_still_has_its_other_commands() -> None:
    """Telemetry and the shell alone: help lists everything, and a missing package is named with its extra."""
    bare = without("fastapi", "sqlalchemy", "alembic", "websockets", "yaml", "uvicorn")

    listed = isomon("--help", before=bare)
    gate = isomon("gate", "--help", before=bare)
    demo = isomon("demo", "up", before=bare)

    assert listed.returncode == 0
    assert gate.returncode == 0, gate.stderr
    assert demo.returncode == 2
    assert "isolation-monitor[demo]" in demo.stderr


def test_asking_a_demonstration_that_does_not_run_fails_with_a_remedy(tmp_path: Path) -> None:
    done = isomon("demo", "inject", "shared-agent", "--state-file", str(tmp_path / "none.json"))

    assert done.returncode == 1
    assert "make demo" in done.stderr
