"""The report's published form."""

from __future__ import annotations

import json
from pathlib import Path

from isolation_monitor.demo.report import FaultTrial, Report


def test_the_report_has_the_published_keys_and_no_others_while_all_held(tmp_path: Path) -> None:
    report = Report(faults=[FaultTrial("shared-agent")], score_recovers_s=58.2)

    report.write(tmp_path / "build" / "report.json")

    body = json.loads((tmp_path / "build" / "report.json").read_text())
    assert list(body) == ["schema", "clean", "faults", "after_heal", "rollback_s", "variant_traffic_zero_s", "rollback", "duration_s", "ok"]
    assert list(body["clean"]) == ["requests", "exposed", "violations", "pages", "score", "coverage", "evaluated"]
    assert list(body["faults"][0]) == [
        *("fault", "harm_proven", "record_s", "metric_s", "page_s", "alert", "gate_before", "gate_after"),
        *("violation_id", "kind", "grade", "victim", "offender", "stacks"),
    ]
    assert body["after_heal"] == {"score_recovers_s": 58.2}


def test_a_failed_step_is_named_and_makes_the_report_not_ok() -> None:
    body = Report(failed="wrong-socket: no page").as_json()

    assert body["ok"] is False
    assert body["failed"] == "wrong-socket: no page"
