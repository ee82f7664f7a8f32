"""Every alert can be caused on purpose: its recipe uses series that exist, and keeps its hands off real services."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from isolation_monitor.alerts import (
    alertmanager_config,
    blindness_alerts,
    build,
    ci_alerts,
    collector_alerts,
    container_alerts,
    probe_alerts,
    prometheus_config,
    rollout_alerts,
)
from isolation_monitor.alerts.drills import RECIPES, drilled, own_wait_s
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.settings import load_settings
from tests.real_parts.live_rules import write_live_rules
from tests.real_parts.promtool import Scenario, run_tests, write_test

ALERTS = {alert.name: alert for alert in drilled()}
RULE_FILES = [build.GENERATED / name for name in build.rules()]
SERVICE = "drill:chat:test"
INCLUDES = {
    "EventDeliveryBelow95": ["EventDeliveryBelow99"],
    "SloBurnsFast": ["SloBurnsSlowly", "SloBudgetSpent"],
    "SloBurnsSlowly": ["SloBudgetSpent"],
    "SloBudgetSpent": ["SloBurnsSlowly"],
}
"""What is below 95 is below 99 as well; Alertmanager hides the second. A new service that burns its budget has spent it, too."""


COLLECTOR_SERIES = (
    rollout_alerts.COLLECTOR_SERIES
    | blindness_alerts.COLLECTOR_SERIES
    | ci_alerts.COLLECTOR_SERIES
    | collector_alerts.COLLECTOR_SERIES
    | container_alerts.COLLECTOR_SERIES
    | probe_alerts.COLLECTOR_SERIES
)


def test_every_alert_has_exactly_one_recipe():
    assert RECIPES.keys() == ALERTS.keys()
    assert set(build.PUSHED) < ALERTS.keys()


@pytest.mark.parametrize("alert", RECIPES)
def test_a_recipe_shows_what_services_expose_on_the_page_that_carries_it(alert):
    """A drill of invented series would prove an invented alert."""
    known = {
        metric.name + suffix: metric
        for metric in names.CATALOGUE
        for suffix in (("_bucket", "_count", "_sum") if metric.type == "histogram" else ("",))
    }

    for sample in RECIPES[alert].samples:
        if sample.name in COLLECTOR_SERIES:
            of_target = {"service"} if RECIPES[alert].names_service else set()
            assert RECIPES[alert].job == "collector"
            assert (sample.endpoint, {*of_target, *sample.labels}) == ("main", COLLECTOR_SERIES[sample.name])
            continue
        metric = known[sample.name]
        assert sample.endpoint == metric.endpoint
        assert set(sample.labels) - {"le"} == set(metric.labels)
        for label, value in sample.labels.items():
            values = metric.labels.get(label)
            assert not isinstance(values, tuple) or value in values, f"{sample.name} {label}={value}"
        assert sample.labels.get("synthetic", "true") == "true"
        assert metric.possible(dict(sample.labels))


@pytest.mark.parametrize("alert", [name for name, recipe in RECIPES.items() if recipe.samples])
def test_a_recipe_fires_its_alert_and_no_page_of_another_name(alert, tmp_path: Path):
    """By the real rules; the way to the receiver is proven with the real programs in tests/cli."""
    recipe, seconds = RECIPES[alert], 900
    healthy, broken = 120, seconds - 120
    service = SERVICE if recipe.names_service else ALERTS[alert].labels["service"]
    inputs = {'up{job="collector",instance="collector"}': f"1x{seconds}"}
    for sample in recipe.samples:
        labels = {"service": SERVICE, "instance": SERVICE, "job": "isolation" if recipe.job == "services" else recipe.job, **sample.labels}
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        values = f"{sample.before:g}x{healthy - 1} "
        values += "stale" if recipe.dies else f"{sample.before + sample.jump:g}+{sample.rate:g}x{broken}"
        inputs[f"{sample.name}{{{text}}}"] = values
    inputs[f'up{{job="isolation",service="{SERVICE}",instance="{SERVICE}"}}'] = f"1x{healthy - 1} {0 if recipe.dies else 1}x{broken}"
    fires_at = healthy + int(own_wait_s(ALERTS[alert])) + 30
    by_name = f'count by (alertname, alertstate) (ALERTS{{service="{service}",alertstate="firing"}})'
    expected = {f'{{alertname="{name}",alertstate="firing"}}': 1.0 for name in {alert, *INCLUDES.get(alert, ())}}
    scenario = Scenario(alert, inputs, samples={(by_name, healthy - 1): {}, (by_name, fires_at): expected})

    result = run_tests(write_test(tmp_path / "test.yml", write_live_rules(RULE_FILES, inputs, tmp_path), [scenario], {}))

    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_of_drill_services_are_synthetic_before_they_leave_prometheus():
    """Most series have no such label, and a route to people must not depend on each alert carrying one."""
    tree = yaml.safe_load(build.configurations()["prometheus.yml"])
    (relabel,) = tree["alerting"]["alert_relabel_configs"]

    assert relabel == {"source_labels": ["service"], "regex": "drill:.+", "target_label": "synthetic", "replacement": "true"}
    assert alertmanager_config._routes()["routes"][1] == {"receiver": "drill", "matchers": ['synthetic="true"']}


def test_a_real_service_cannot_take_a_name_whose_alerts_reach_nobody():
    with pytest.raises(SettingsError, match="drill:"):
        load_settings({"service": "drill:chat"}, environ={})


def test_a_drill_that_was_killed_is_not_taken_for_an_unknown_service(tmp_path: Path):
    """Its announcement may stay behind: a target that never answers. People must not be woken for it."""
    inputs = {f'up{{job="isolation",service="{SERVICE}",instance="x"}}': "0x120"}
    query = 'count by (service) (ALERTS{alertstate="firing",alertname="IsolationTargetDown"})'
    scenario = Scenario("left behind", inputs, samples={(query, 100): {f'{{service="{SERVICE}"}}': 1.0}})

    result = run_tests(write_test(tmp_path / "test.yml", write_live_rules(RULE_FILES, inputs, tmp_path), [scenario], {}))

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_drill_that_ended_is_not_missed(tmp_path: Path):
    """A service without any target is a page; the drill's target is taken away on purpose."""
    info = f'isolation_monitor_info{{service="{SERVICE}",instance="x",version="1",mode="monitor"}}'
    inputs = {info: "1x20 stale", f'up{{job="isolation",service="{SERVICE}",instance="x"}}': "1x20 stale", "time": "0x200"}
    scenario = Scenario("ended", inputs, samples={('count(ALERTS{alertname="IsolationTargetDown"})', 180): {}})

    result = run_tests(write_test(tmp_path / "test.yml", write_live_rules(RULE_FILES, inputs, tmp_path), [scenario], {}))

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_folder_of_drills_is_read_by_the_jobs_that_a_drill_is_scraped_by():
    text = prometheus_config.render(
        isolation_targets=[], main_interval="5s", collector_target="c:1", alertmanager="a:1", rule_files=[], drill_folder="/drills"
    )
    files = {job["job_name"]: job["file_sd_configs"][0]["files"] for job in yaml.safe_load(text)["scrape_configs"]}

    assert files == {
        "isolation": ["/drills/services/*.json"],
        "isolation-main": ["/drills/services/*.json"],
        "collector": ["/drills/collector/*.json"],
    }
