"""The set-up scripts: the lock covers pyproject.toml, and installing packages never starts or blocks services for good."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock_pins_everything_that_pyproject_asks_for() -> None:
    lock = script("lock")

    assert lock.problems(lock.direct_requirements(), lock.read(lock.LOCK.read_text())) == []


def test_the_lock_holds_exact_versions_and_nothing_about_hosts() -> None:
    for line in (ROOT / "requirements" / "ci.txt").read_text().splitlines():
        assert line.startswith("#") or line.count("==") == 1, line
        assert "://" not in line


def test_a_requirement_that_is_not_pinned_or_pinned_out_of_range_is_named() -> None:
    from packaging.requirements import Requirement

    lock = script("lock")

    found = lock.problems([Requirement("alpha>=2"), Requirement("beta")], {"alpha": "1.9"})

    assert len(found) == 2
    assert "alpha" in found[0]
    assert "beta" in found[1]


def test_while_packages_are_installed_services_stay_off_and_afterwards_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = script("ensure_parts")
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(parts, "POLICY", policy)

    with parts.services_stay_off():
        during = subprocess.run([policy], check=False).returncode

    assert during == 101
    assert not policy.exists()


def test_a_policy_of_the_administrator_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = script("ensure_parts")
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(parts, "POLICY", policy)

    with parts.services_stay_off():
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"

    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_the_policy_that_a_killed_run_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = script("ensure_parts")
    policy = tmp_path / "policy-rc.d"
    policy.write_text(f"#!/bin/sh\n{parts.POLICY_MARK}\nexit 101\n")
    monkeypatch.setattr(parts, "POLICY", policy)

    with parts.services_stay_off():
        pass

    assert not policy.exists()


def test_missing_parts_are_named_with_the_packages_and_the_containers_that_bring_them(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "ISOMON_PROMETHEUS": str(tmp_path / "nothing")}

    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "ensure_parts.py", "--no-install"], env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "apt-get install --no-install-recommends prometheus" in done.stderr
    assert "docker compose -f docker-compose.monitoring.yml up" in done.stderr


def test_bare_make_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    for target in ("setup", "demo", "demo-once", "test", "test-slow", "check", "bench", "up"):
        assert f"make {target} " in listed
