"""The seventeen rules of Grafana's dashboard-linter, done again on the committed files, without exclusions.

Two of them speak of `job` and `instance`. Our series are told apart by `service`, which the product puts on every one
of them, so `service` takes the place of `job`; recorded series have no instance.
"""

from __future__ import annotations

from typing import Any

import promql_parser as promql
import pytest

from isolation_monitor.alerts.build import rule_groups
from isolation_monitor.alerts.model import Recording
from isolation_monitor.dashboards.layout import DATASOURCE_UID, ROLLOUT_UID
from isolation_monitor.telemetry import names
from tests.dashboards.boards import UIDS, board, expressions, filled, panels, selectors, walk

UNITS = {"none", "bytes", "short", "percent", "percentunit", "s", "ms", "reqps", "ops", "cps", "d"}
RECORDED = {rule.name for groups in rule_groups().values() for group in groups for rule in group.rules if isinstance(rule, Recording)}
COLLECTOR_PREFIXES = ("isolation_collector_", "isolation_gate_", "isolation_container_", "isolation_ci_", "isolation_probe_")
"""The collector serves every service: its own numbers belong to none."""
ABOUT_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds"}

pytestmark = pytest.mark.parametrize("tree", [board(uid) for uid in UIDS], ids=UIDS)


def variable(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(item) for item in tree["templating"]["list"] if item["name"] == name)


def test_the_data_source_is_a_variable_with_the_provisioned_one_chosen(tree):
    """template-datasource-rule."""
    found = variable(tree, "datasource")

    assert (found["type"], found["query"], found["label"]) == ("datasource", "prometheus", "Data source")
    assert found["current"]["value"] == DATASOURCE_UID


@pytest.mark.parametrize("name", ["service", "instance"])
def test_service_and_instance_are_chosen_from_what_there_is(tree, name):
    """template-job-rule (by service), template-instance-rule."""
    found = variable(tree, name)

    assert found["type"] == "query"
    assert found["multi"]
    assert found["includeAll"]
    # All services, but for the invented ones of alert drills.
    assert found["allValue"] == {"service": "[^:]+", "instance": ".*"}[name]
    assert found["datasource"]["uid"] == "${datasource}"


def test_the_instance_depends_on_the_chosen_service(tree):
    assert 'service=~"$service"' in variable(tree, "instance")["query"]


def test_the_rollout_is_chosen_on_its_own_dashboard_and_every_series_there_is_of_it(tree):
    if tree["uid"] != ROLLOUT_UID:
        assert [item["name"] for item in tree["templating"]["list"]] == ["datasource", "service", "instance"]
        return
    found = variable(tree, "rollout")

    assert (found["multi"], found["includeAll"], found["allValue"]) == (True, True, ".*")
    assert 'service=~"$service"' in found["query"]
    for where, expr in expressions(tree):
        for metric, matchers, _ in selectors(expr):
            # Violations and alerts are marked on every dashboard alike.
            if "/ annotation " not in where or metric.startswith("isolation_gate"):
                assert matchers.get("rollout") == "chosen_rollout", f"{where}: {metric}"


def test_queries_of_variables_parse(tree):
    """template-label-promql-rule."""
    for name in (item["name"] for item in tree["templating"]["list"] if item["type"] == "query"):
        query = variable(tree, name)["query"]
        assert query.startswith("label_values(")
        metric, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        promql.parse(filled(metric))
        assert label == name


def test_variables_reload_when_the_time_range_changes(tree):
    """template-on-time-change-reload-rule."""
    assert {item["refresh"] for item in tree["templating"]["list"] if item["type"] == "query"} == {2}


def test_each_panel_and_query_uses_the_data_source_variable(tree):
    """panel-datasource-rule."""
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(tree):
        assert panel["datasource"] == wanted, panel["title"]
        assert all(target["datasource"] == wanted for target in panel["targets"]), panel["title"]


def test_each_panel_has_a_title_and_a_description_of_what_is_good_and_what_to_do(tree):
    """panel-title-description-rule, and more: a stranger at night must know what to do."""
    for panel in panels(tree):
        assert panel["title"]
        words = panel["description"].split("\n\n")[0]
        assert len(words) > 60, panel["title"]
        assert any(good in words.lower() for good in ("good", "must stay", "should", "normal")), (
            f"{panel['title']} does not say what is good"
        )
        assert words.count(".") >= 2, f"{panel['title']} does not say what to do"


def test_each_panel_has_a_known_unit(tree):
    """panel-units-rule."""
    for panel in panels(tree):
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]


def test_each_panel_has_queries_with_different_letters(tree):
    """panel-no-targets-rule."""
    for panel in panels(tree):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters, panel["title"]
        assert len(set(letters)) == len(letters), panel["title"]


def test_every_query_is_promql_and_none_is_logql(tree):
    """target-promql-rule; target-logql-rule and target-logql-auto-rule hold as nothing here asks a log store."""
    for where, expr in expressions(tree):
        try:
            promql.parse(filled(expr))
        except ValueError as error:
            pytest.fail(f"{where}: {error}")


def test_rates_use_the_rate_interval_and_counts_the_range_on_the_screen(tree):
    """target-rate-interval-rule. A fixed window would skip data when zoomed out."""
    for where, expr in expressions(tree):
        for node, above in walk(promql.parse(expr.replace("$__rate_interval", "1h").replace("$__range", "2h").replace("$", ""))):
            if isinstance(node, promql.MatrixSelector) and above[-1].func.name in ("rate", "irate"):
                assert node.range.total_seconds() == 3600, where


def test_every_scraped_series_is_of_the_chosen_service(tree):
    """target-job-rule, by service."""
    for where, expr in expressions(tree):
        for metric, matchers, _ in selectors(expr):
            if not metric.startswith(COLLECTOR_PREFIXES) and not (metric in ABOUT_PROMETHEUS and "service" not in matchers):
                assert "chosen_service" in matchers.get("service", ""), f"{where}: {metric}"


def test_alerts_are_of_the_chosen_service_or_concern_everybody(tree):
    for where, expr in expressions(tree):
        for metric, matchers, _ in selectors(expr):
            if metric == "ALERTS" and matchers.get("alertname") != "DeadMansSwitch":
                assert {"chosen_service", "isolation-monitor", "isolation-collector"} <= set(matchers["service"].split("|")), where


def test_every_scraped_series_is_of_the_chosen_instance(tree):
    """target-instance-rule."""
    scraped = {metric.name for metric in names.CATALOGUE}
    for where, expr in expressions(tree):
        for metric, matchers, _ in selectors(expr):
            if metric in scraped or metric.removesuffix("_bucket").removesuffix("_count") in scraped:
                assert matchers.get("instance") == "chosen_instance", f"{where}: {metric}"
            elif metric in RECORDED:
                assert "instance" not in matchers, f"{where}: {metric} is recorded, it has no instance"


def test_counters_are_read_by_rate_or_increase(tree):
    """target-counter-agg-rule."""
    for where, expr in expressions(tree):
        for metric, _, above in selectors(expr):
            if (
                metric.endswith(("_total", "_count", "_bucket", "_sum"))
                and metric not in RECORDED
                and not metric.startswith("db_client_connection_count")
            ):
                calls = [node.func.name for node in above if isinstance(node, promql.Call)]
                assert {"rate", "increase"} & set(calls), f"{where}: {metric}"


def test_the_dashboard_cannot_be_edited_in_the_browser(tree):
    """uneditable-dashboard: a change would be lost at the next start."""
    assert tree["editable"] is False
