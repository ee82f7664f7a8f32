"""`isomon demo once` as a user runs it: all six faults, on real parts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from isolation_monitor.demo import session
from isolation_monitor.demo.errors import StepFailedError
from isolation_monitor.demo.story import Story
from isolation_monitor.telemetry import names

pytestmark = pytest.mark.slow

FAULTS = ["shared-agent", "wrong-socket", "inherited-context", "session-leak", "slow-factory", "lost-event"]


async def test_the_story_holds_and_its_report_says_so(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "isolation_monitor.cli", "demo", "once", "--clean-seconds", "20", "--report", str(file)]

    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=500, check=False)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(file.read_text())
    assert report["schema"] == "demo/1"
    assert report["ok"] is True
    clean = report["clean"]
    assert (clean["violations"], clean["pages"], clean["score"], clean["coverage"]) == (0, 0, 100.0, 1.0)
    assert set(clean["evaluated"]) == set(names.DETECTORS)
    assert all(clean["evaluated"][name] for name in names.ALWAYS_AT_WORK)
    assert [trial["fault"] for trial in report["faults"]] == FAULTS
    for trial in report["faults"]:
        assert trial["harm_proven"] is True
        assert trial["gate_before"] == "pass"
        assert trial["gate_after"] == ("pass" if trial["fault"] == "slow-factory" else "fail")
        assert trial["page_s"] < 10
    for trial in report["faults"][:3]:
        assert trial["victim"] != trial["offender"]
        assert len(trial["stacks"]) == 2
        assert all(line.startswith("examples/chat/") for line in trial["stacks"])
    assert report["after_heal"]["score_recovers_s"] > 0


async def test_what_explains_a_failed_story_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(story: Story) -> None:
        raise StepFailedError("this step")

    monkeypatch.setattr(Story, "tell", fails)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "earlier.log").write_text("of another story")

    assert await session.once(Console(quiet=True), tmp_path / "report.json") == session.EXIT_FAILED

    assert json.loads((tmp_path / "report.json").read_text())["failed"] == "this step"
    kept = {file.name for file in (tmp_path / "failed").iterdir()}
    assert {"chat.log", "collector.log", "prometheus.log", "alertmanager.log", "violations.json"} <= kept
    assert "earlier.log" not in kept
    assert json.loads((tmp_path / "failed" / "violations.json").read_text()) == []
