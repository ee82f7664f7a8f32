"""The alerts that the collector posts for violations have the labels of the rules' own: else Alertmanager would page twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from isolation_monitor.alerts import build
from isolation_monitor.alerts.pushed import alert_on_violation, lasts
from isolation_monitor.alerts.thresholds import load
from isolation_monitor.collector.announcements.domain import Links
from isolation_monitor.collector.announcements.violation_alerts import alert_of_violations
from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.telemetry.names import KIND_GRADES
from tests.real_parts.promtool import run_tests, series

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KINDS = [kind for kind, grades in KIND_GRADES.items() if set(grades) & {"crossed", "reachable"}]


def posted(kind: str, service: str = "chat") -> dict[str, Any]:
    found = NewViolations(service, kind, 1, "v-1", NOW, NOW)
    return alert_of_violations(found, Links("http://collector", "http://grafana"), {}, load(), NOW)


def test_every_kind_has_the_labels_with_which_its_rule_fires(tmp_path: Path) -> None:
    """The real rules, evaluated by promtool: all kinds at once."""
    inputs, expected = [], {}
    for kind in KINDS:
        grade = "crossed" if "crossed" in KIND_GRADES[kind] else "reachable"
        labels = {"service": "chat", "kind": kind, "grade": grade, "arm": "none", "synthetic": "false"}
        inputs.append({"series": series("isolation_violations_total", labels), "values": "0 0 0 1 1 1 1"})
        found = dict(posted(kind)["labels"])
        expected.setdefault(found.pop("alertname"), []).append({"exp_labels": found})
    rules = tmp_path / "rules.yml"
    groups = [group for name in build.rules() for group in yaml.safe_load((build.GENERATED / name).read_text())["groups"]]
    for group in groups:
        # Its texts are the rule's own; what makes it the same alert is its labels.
        group["rules"] = [{key: value for key, value in rule.items() if key != "annotations"} for rule in group["rules"] if "alert" in rule]
    rules.write_text(yaml.safe_dump({"groups": [group for group in groups if group["rules"]]}))
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1s",
        "tests": [
            {
                "interval": "1s",
                "input_series": inputs,
                "alert_rule_test": [{"eval_time": "5s", "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))

    done = run_tests(tmp_path / "test.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(expected) == {"IsolationViolation", "WebSocketIsolationViolation", "ResolutionConflict"}


def test_it_says_what_the_rule_says_and_where_both_sides_are() -> None:
    alert = posted("instance_reuse", "chat & co")

    assert alert["annotations"] == {
        "summary": "chat & co: isolation broken (instance_reuse)",
        "description": (
            "1 request of chat & co with instance_reuse, the last at 2026-01-01T12:00:00.000Z: told by the service's own records. "
            "Roll back first, then read both sides on the linked page."
        ),
        "runbook_url": "http://collector/runbooks/IsolationViolation",
        "page_url": "http://collector/violations/v-1",
        "dashboard_url": "http://grafana/d/isolation-overview?var-service=chat+%26+co&from=now-30m&to=now",
    }
    assert alert["generatorURL"] == "http://collector/violations/v-1"


def test_it_lasts_as_long_as_the_rules_alert_does() -> None:
    alert, rule = posted("wrong_socket"), alert_on_violation("wrong_socket", load())

    assert (alert["startsAt"], alert["endsAt"]) == ("2026-01-01T12:00:00.000Z", "2026-01-01T12:01:10.000Z")
    assert rule.keep_firing_for == "60s"
    assert lasts(load()).total_seconds() == 70


def test_an_invented_service_of_a_drill_wakes_nobody() -> None:
    assert posted("wrong_socket", "drill:chat:x")["labels"]["synthetic"] == "true"
