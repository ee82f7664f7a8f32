"""Finding the programs that the stack runs: names, versions and what is said when one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation_monitor.demo.binaries import ALERTMANAGER, PROMETHEUS, find, parse_version
from isolation_monitor.demo.errors import PartMissingError


def program(folder: Path, name: str, version: str) -> Path:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{version}'\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("prometheus, version 2.42.0+ds (branch: debian/sid, revision: 2.42.0+ds-5+b5)", (2, 42, 0)),
        ("alertmanager, version 0.25.0 (branch: , revision: )", (0, 25, 0)),
        ("postgres (PostgreSQL) 16.4 (Ubuntu 16.4-0ubuntu0.24.04.2)", (16, 4)),
        ("prometheus, version 3.0.0-rc.1", (3, 0, 0)),
        ("v20.20.2", (20, 20, 2)),
        ("Chromium 156.0.8078.79 built on Debian GNU/Linux 12 (bookworm)", (156, 0, 8078, 79)),
        ("no number at all", None),
    ],
)
def test_versions_are_read_as_the_programs_print_them(text: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("name", ["alertmanager", "prometheus-alertmanager"])
def test_alertmanager_is_found_under_either_name(tmp_path: Path, name: str) -> None:
    file = program(tmp_path, name, "alertmanager, version 9.9.9")

    assert find(ALERTMANAGER, {"ISOMON_ALERTMANAGER": str(file)}).version == (9, 9, 9)
    assert find(ALERTMANAGER, {"PATH": str(tmp_path)}).path.exists()


def test_a_program_that_is_too_old_is_refused_with_its_version_and_the_remedy(tmp_path: Path) -> None:
    """Ubuntu 22.04 has Prometheus 2.31, whose rules cannot `keep_firing_for`: starting it would fail later and worse."""
    file = program(tmp_path, "prometheus", "prometheus, version 2.31.2")

    with pytest.raises(PartMissingError) as refused:
        find(PROMETHEUS, {"ISOMON_PROMETHEUS": str(file)})

    assert "2.31.2" in str(refused.value)
    assert "2.42" in str(refused.value)
    assert "apt-get install prometheus" in str(refused.value)


def test_a_program_that_is_nowhere_is_named_with_package_and_setting(tmp_path: Path) -> None:
    with pytest.raises(PartMissingError) as refused:
        find(PROMETHEUS, {"ISOMON_PROMETHEUS": str(tmp_path / "nothing")})

    assert "not installed" in str(refused.value)
    assert "ISOMON_PROMETHEUS" in str(refused.value)
