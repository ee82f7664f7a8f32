"""Every alert, proven by promtool: fires with exact labels and texts, silent just below, resolves, fresh series, reset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isolation_monitor.alerts import build
from tests.alerts.scenarios import LINKS, NO_SERVICE, SCENARIOS
from tests.real_parts.live_rules import write_live_rules
from tests.real_parts.promtool import run_tests, write_test

RULE_FILES = [build.GENERATED / name for name in build.rules()]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_rules_do_what_the_scenario_says(scenario, tmp_path: Path):
    rules = write_live_rules(RULE_FILES, scenario.inputs, tmp_path)

    result = run_tests(write_test(tmp_path / "test.yml", rules, [scenario], LINKS))

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_fires_and_stays_silent_in_some_scenario():
    """An alert without a test is a page that nobody has ever seen."""
    fired = {scenario.alert for scenario in SCENARIOS if any(scenario.firing.values())}
    silent = {scenario.alert for scenario in SCENARIOS if scenario.firing and _silent_services(scenario)}
    every = {alert.name for alert in build.alerts()}

    assert fired == every
    # Those that speak of no service have silent moments, or series, in their scenarios; the dead man's switch has none.
    assert silent == every - NO_SERVICE


def _silent_services(scenario) -> set[str]:
    given = set(re.findall(r'service="([^"]+)"', " ".join(scenario.inputs)))
    return given - {alert.labels["service"] for firing in scenario.firing.values() for alert in firing}
