"""Every alert has one runbook that a tired person can follow, and every link of an alert has the right shape."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import promql_parser
import pytest
import yaml

from isolation_monitor.alerts import blindness_alerts, build, ci_alerts, collector_alerts, container_alerts, probe_alerts
from isolation_monitor.alerts.rollout_alerts import COLLECTOR_SERIES
from isolation_monitor.alerts.series import series_of
from isolation_monitor.collector.announcements.domain import ALERT
from isolation_monitor.collector.ci_metrics import CiMetrics, SuiteNumbers
from isolation_monitor.collector.container_metrics import ContainerMetrics, Shown
from isolation_monitor.collector.gate_metrics import GateMetrics
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.probe_metrics import ProbeMetrics, ProbeShown
from isolation_monitor.telemetry import names
from tests.alerts.scenarios import DASHBOARDS, LINKS

HEADINGS = ["Meaning", "Impact", "First five minutes", "Fix", "How to silence"]
RULES = [alert.name for alert in build.alerts()]
ALERTS = [*RULES, *build.PUSHED]
COLLECTOR = {sample.name for family in CollectorMetrics().registry.collect() for sample in family.samples} | {
    # Without a sample before an engine is followed; a counter's family has no suffix.
    family.name + "_total" * (family.type == "counter")
    for family in CollectorMetrics().registry.collect()
}
"""What the collector itself exposes."""


def sections(alert: str) -> dict[str, str]:
    text = (build.RUNBOOKS / f"{alert}.md").read_text()
    return dict(re.findall(r"^## (.+?)\n\n(.+?)(?=\n## |\Z)", text, flags=re.M | re.S))


def queries(alert: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```promql\n(.*?)```", sections(alert)["First five minutes"], flags=re.S)]


def test_each_alert_has_exactly_one_rule_and_one_runbook():
    assert len(ALERTS) == len(set(ALERTS))
    assert {file.stem for file in build.RUNBOOKS.iterdir()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_answers_the_five_questions(alert):
    found = sections(alert)

    assert list(found) == HEADINGS
    assert all(len(text.strip()) > 40 for text in found.values())
    assert (build.RUNBOOKS / f"{alert}.md").read_text().startswith(f"# {alert}\n")


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_has_queries_that_parse_and_read_what_exists(alert):
    exposed = {
        sample
        for metric in names.CATALOGUE
        for sample in ([f"{metric.name}_bucket", f"{metric.name}_count"] if metric.type == "histogram" else [metric.name])
    }
    written = [yaml.safe_load(text) for text in build.rules().values()]
    recorded = {rule["record"] for tree in written for group in tree["groups"] for rule in group["rules"] if "record" in rule}

    assert len(queries(alert)) >= 2
    for query in queries(alert):
        promql_parser.parse(query)
        assert series_of(query).keys() <= exposed | recorded | COLLECTOR | {"up", "ALERTS"}, query


@pytest.mark.parametrize("alert", build.alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_who_what_and_where_to_look(alert):
    from isolation_monitor.alerts.model import Links

    rule = alert.as_rule(Links(build.DEFAULT_BASE_URL, build.DEFAULT_GRAFANA_URL))

    assert rule["labels"]["severity"] in {"critical", "error", "warning"}
    assert rule["labels"]["action"] in {"page", "ticket"}
    assert (rule["labels"]["severity"] == "warning") <= (rule["labels"]["action"] == "ticket")
    assert (rule["labels"].get("rollback") == "true") <= (rule["labels"]["action"] == "page")
    assert "service" in rule["labels"] or "service" in alert.expr
    assert len(rule["annotations"]["description"]) > 80
    assert "$value" not in rule["annotations"]["summary"]
    assert {name: text for name, text in rule["annotations"].items() if name.endswith("_url")} == LINKS[alert.name]
    assert not any("{{" in value for value in rule["labels"].values()), "a value in a label makes each change a new alert"


def test_links_follow_the_base_urls_of_the_generator():
    written = build.rules("https://collector.example.org/", "https://grafana.example.org/")

    for text in written.values():
        for rule in (rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule):
            runbook, dashboard = urlsplit(rule["annotations"]["runbook_url"]), urlsplit(rule["annotations"]["dashboard_url"])
            assert (runbook.scheme, runbook.netloc, runbook.path) == ("https", "collector.example.org", f"/runbooks/{rule['alert']}")
            assert dashboard.netloc == "grafana.example.org"
            assert dashboard.path.removeprefix("/d/") in {"isolation-overview", *DASHBOARDS}
            assert {"from", "to"} <= parse_qs(dashboard.query).keys()


def test_without_grafana_no_alert_links_a_dashboard():
    assert not any("dashboard_url" in text for text in build.rules("http://127.0.0.1:1", None).values())


def test_the_rollback_triggers_are_those_that_gates_know():
    assert {alert.name for alert in build.alerts() if alert.rollback} == {
        "IsolationViolation",
        "WebSocketIsolationViolation",
        "IsolationScoreBelow100",
        "SessionLeak",
        "EventDeliveryBelow95",
        "ResolutionConflict",
        "Cascade",
        "RolloutErrors",
        "RolloutLatency",
    }


def test_the_alert_that_the_collector_pushes_is_the_one_that_has_a_runbook():
    assert build.PUSHED == (ALERT,)


def test_the_collectors_series_in_rules_are_what_it_exposes():
    found = GateMetrics()
    found.evaluated("r", "pass", 1.0)
    found.answered({"rollout": "r", "service": "s", "verdict": "pass", "verdict_code": 1})
    exposed = {sample.name: frozenset(sample.labels) for family in found.collect() for sample in family.samples}

    assert {name: exposed[name] for name in COLLECTOR_SERIES} == COLLECTOR_SERIES


def test_the_collectors_counters_in_rules_are_what_it_exposes():
    exposed = {sample.name: frozenset(sample.labels) for family in CollectorMetrics().registry.collect() for sample in family.samples}

    wanted = blindness_alerts.COLLECTOR_SERIES | collector_alerts.COLLECTOR_SERIES
    assert {name: exposed[name] for name in wanted} == wanted


def test_the_series_of_containers_in_rules_are_what_the_collector_exposes():
    found = ContainerMetrics()
    found.show("docker", [Shown("web", "running", "healthy", 1.0, 1, 2, 3.0)], orphans=0, expired=0, dangling_volumes=0, orphan_volumes=0)
    exposed = {sample.name: frozenset(sample.labels) for family in found.collect() for sample in family.samples}

    assert {name: exposed[name] for name in container_alerts.COLLECTOR_SERIES} == container_alerts.COLLECTOR_SERIES


def test_the_numbers_of_suites_in_rules_are_what_the_collector_exposes():
    found = CiMetrics()
    found.show([SuiteNumbers("unit", {"pass": 1}, dict.fromkeys(ci_alerts.COLLECTOR_SERIES, 1.0))])
    exposed = {sample.name: frozenset(sample.labels) for family in found.collect() for sample in family.samples}

    assert {name: exposed[name] for name in ci_alerts.COLLECTOR_SERIES} == ci_alerts.COLLECTOR_SERIES


def test_the_collectors_series_of_probes_in_rules_are_what_it_exposes():
    found = ProbeMetrics()
    found.checked("login", ProbeShown("shop", True, 0.1, 1.0, 1.0, 60.0, 200, 2.0))
    exposed = {sample.name: frozenset(sample.labels) for family in found.collect() for sample in family.samples}

    assert {name: exposed[name] for name in probe_alerts.COLLECTOR_SERIES} == probe_alerts.COLLECTOR_SERIES
