"""Whose a file of code is, under the layouts that installers make; and that every question of this kind has this answer."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import sqlalchemy
import starlette

from isolation_monitor import telemetry
from isolation_monitor.telemetry import stacks
from isolation_monitor.telemetry.code_files import owner_of


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        (__file__, "application"),
        (asyncio.__file__, "interpreter"),
        (starlette.__file__, "installed"),
        (sqlalchemy.__file__, "installed"),
        (telemetry.__file__, "monitor"),
        ("/usr/lib/python3/dist-packages/flask/app.py", "installed"),
        ("/srv/shop/orders.py", "application"),
        ("<string>", "nobody"),
    ],
)
def test_a_file_is_of_whoever_brought_it(file: str, owner: str) -> None:
    assert owner_of(file) == owner
    assert stacks.is_library(file) == (owner != "application")


def test_a_file_linked_into_an_environment_is_installed(tmp_path: Path) -> None:
    """As `uv` with `--link-mode symlink` does: the copy for all environments lies elsewhere."""
    kept, folder = tmp_path / "cache" / "sdk.py", tmp_path / "site-packages"
    kept.parent.mkdir()
    folder.mkdir()
    kept.write_text("")
    (folder / "sdk.py").symlink_to(kept)
    (tmp_path / "linked").symlink_to(folder)

    assert owner_of(str(folder / "sdk.py")) == "installed"
    assert owner_of(str(tmp_path / "linked" / "sdk.py")) == "installed"
    assert owner_of(str(kept)) == "application"


def test_nobody_else_in_telemetry_knows_where_packages_are_installed() -> None:
    folder = Path(telemetry.__file__).parent
    knowing = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"sysconfig|site-packages", path.read_text()) and path.name != "code_files.py"
    }

    # Reads lines of stacks that another process, on another machine, may have written.
    assert knowing <= {"two_sided.py"}
