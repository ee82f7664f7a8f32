"""What `isomon docker audit` finds in files of real-world shape, and the safe twins beside them that must stay quiet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isolation_monitor.cli.docker.audit import audit
from tests.cli.docker import build_cases, code_cases, python_cases, shell_cases, yaml_cases

_MARK = re.compile(r"[ ]*«([\w-]*)»")
CASES = {
    f"{module.__name__.rsplit('.', 1)[-1]}/{name}": text
    for module in (shell_cases, python_cases, yaml_cases, build_cases, code_cases)
    for name, text in module.CASES.items()
}


@pytest.mark.parametrize("name", CASES)
def test_it_finds_what_is_dangerous_and_nothing_else(name: str, tmp_path: Path) -> None:
    """A guard that cries at comments, messages and safe stops is switched off in its first week."""
    expected = sorted((number, rule) for number, line in enumerate(CASES[name].split("\n"), 1) for rule in _MARK.findall(line) if rule)
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(_MARK.sub("", CASES[name]), encoding="utf-8")

    report = audit([tmp_path])

    assert report.unread == ()
    assert sorted((finding.line, finding.rule) for finding in report.found) == expected
