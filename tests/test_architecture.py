"""The shape of the tree: one import name, cheap imports, imports that point one way, and nothing that names a machine or registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("telemetry", "collector", "dashboards", "alerts", "cli", "demo")


def run_python(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_is_importable_under_its_bare_name(part: str, tmp_path: Path) -> None:
    """Many services own a package called `telemetry`; theirs and ours must never shadow each other."""
    bare = run_python(f"import {part}", cwd=tmp_path)
    ours = run_python(f"import isolation_monitor.{part}", cwd=tmp_path)

    assert "ModuleNotFoundError" in bare.stderr
    assert ours.returncode == 0, ours.stderr


def test_importing_telemetry_loads_no_framework_no_database_and_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, threading, isolation_monitor.telemetry\n"
        "heavy = {'fastapi', 'starlette', 'sqlalchemy', 'alembic', 'uvicorn', 'httpx2', 'typer', 'rich', 'pydantic', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )
    done = run_python(code, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_wheel_carries_every_part_under_the_one_name_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    import zipfile

    [wheel] = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}

    assert {n.split("/")[0] for n in names} == {"isolation_monitor"}
    for part in PARTS:
        assert f"isolation_monitor/{part}/__init__.py" in names
    assert any(n.startswith("isolation_monitor/alerts/runbooks/") for n in names), "the collector serves the runbooks from the wheel"
    for file in ("templates/base.html", "templates/regions/verdicts.html", "static/page.css", "static/page.js", "static/icon.svg"):
        assert f"isolation_monitor/collector/web/{file}" in names, "the collector serves its pages from the wheel"
    assert "isolation_monitor/telemetry/clients/javascript/isolation-socket.js" in names, "services serve the client from the wheel"
    assert "isolation_monitor/py.typed" in names


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file() and not (ROOT / line).is_symlink()]


def test_no_file_names_a_machine_path_or_a_package_registry() -> None:
    # Written in pieces, or this file would name them itself.
    banned = re.compile("|".join([r"/work" + "/", r"/root" + r"/\.", "pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs"]))
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for m in banned.finditer(text)]

    assert found == []


def test_no_source_file_has_outgrown_one_subject() -> None:
    """Past 500 lines a file has two subjects; a table of names may be longer."""
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in tracked_files()
        if path.suffix == ".py" and path.name != "names.py" and "tests" not in path.parts
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 500
    ]

    assert long == []
