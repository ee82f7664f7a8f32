"""The report of one violation as text: what an engineer needs, from any record, and no more of this host than its own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry import advice, names, two_sided

RECORD: dict[str, Any] = {
    "id": "0197-1",
    "time": "2026-01-01T12:00:00.000Z",
    "kind": "instance_reuse",
    "grade": "reachable",
    "summary": "agent: one instance was given to two principals",
    "fingerprint": "9f2c",
    "resource": {"type": "instance", "name": "agent", "detail": {"class": "shop.Agent", "serial": 12}},
    "victim": {"principal": "a1b2", "request_id": "1-1", "route": "GET /x", "stack": ["shop.py:2 make"], "events": []},
    "offender": {
        "principal": "c3d4",
        "request_id": "1-2",
        "run_id": "run-7",
        "task": "Task-4 handler #7f",
        "trace_id": "ab" * 16,
        "stack": ["/opt/venv/lib/python3.11/site-packages/lib/x.py:7 call", "shop.py:2 make"],
        "events": [{"time": "2026-01-01T12:00:00.250Z", "what": "entered over http"}, {"time": None, "what": "answered 200"}],
    },
    "detail": {},
    "revision": "4f2a9c1",
    "affected": {"principals": 3, "runs": 1, "active": 12, "at_least": True},
}


def test_the_report_names_both_sides_the_resource_and_what_to_do_first() -> None:
    text = two_sided.as_text(RECORD, runbooks="http://collector:8400/")

    assert [line.split()[0] for line in text.splitlines() if line.startswith(("victim", "between", "offender"))] == [
        "victim",
        "between",
        "offender",
    ]
    for part in (
        "a1b2",
        "c3d4",
        "run run-7",
        f"trace {'ab' * 16}",
        "Task-4 handler",
        "serial: 12",
        "4f2a9c1",
        "at least 3 users of 12 active",
    ):
        assert part in text
    assert "12:00:00.250  entered over http" in text
    assert "http://collector:8400/runbooks/IsolationViolation" in text
    assert advice.first_step("instance_reuse") in text


def test_frames_of_the_application_are_marked_and_shown_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text("def make():\n    return AGENT\n")
    monkeypatch.chdir(tmp_path)

    text = two_sided.as_text(RECORD)

    assert "> shop.py:2 make\n               return AGENT" in text
    assert ">" not in next(line for line in text.splitlines() if "site-packages" in line)


@pytest.mark.parametrize("place", ["{outside}:1 f", "../secret.py:1 f", "note.txt:1 f", "shop.py:99 f", "shop.py f", "<string>:1 f", ""])
def test_only_python_files_below_the_working_directory_are_shown(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record comes from another host: naming a file there must not show one of ours."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (tmp_path / "secret.py", inside / "note.txt"):
        path.write_text("secret\n")
    (inside / "shop.py").write_text("x = 1\n")
    monkeypatch.chdir(inside)

    assert two_sided.source_line(place.format(outside=tmp_path / "secret.py")) == ""


def test_control_characters_of_a_record_never_reach_the_terminal() -> None:
    text = two_sided.as_text(RECORD | {"summary": "\x1b[2Jgone\x07"})

    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("broken", [{}, {"victim": 7, "offender": [], "resource": "x"}, {"kind": "of_tomorrow", "affected": []}])
def test_records_of_other_versions_are_shown_as_far_as_they_can_be_read(broken: dict[str, Any]) -> None:
    assert "offender" in two_sided.as_text(broken)
    assert "offender" in two_sided.as_text({**RECORD, **broken, "victim": {"stack": [1, None], "events": ["x", {}]}})


@pytest.mark.parametrize("kind", names.KIND_GRADES)
def test_every_kind_has_a_meaning_a_first_step_and_a_runbook(kind: str) -> None:
    runbooks = {path.stem for path in (Path(__file__).parents[2] / "alerts" / "runbooks").glob("*.md")}

    assert len(advice.meaning(kind)) > 20
    assert kind in advice.FIRST_STEPS
    assert {advice.runbook(kind, grade) for grade in names.GRADES} <= runbooks
