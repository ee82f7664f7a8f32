"""Rule tests run without the rules that stay empty: what is left out must be empty indeed, or a test would be blind."""

from __future__ import annotations

import promql_parser as promql
import pytest

from isolation_monitor.alerts import build
from tests.alerts.scenarios import SCENARIOS
from tests.real_parts.live_rules import can_yield, live_rules, write_live_rules
from tests.real_parts.promtool import Scenario, run_tests, write_test

RULE_FILES = [build.GENERATED / name for name in build.rules()]
ALIVE = {"here": [{"kind": "a"}], "recorded": None}


@pytest.mark.parametrize(
    "expression",
    [
        *("here", 'here{kind="a"}', 'here{kind=~"a|b"}', 'here{kind!="b"}', 'here{kind!~"b.*"}', 'here{other=""}', 'recorded{any="thing"}'),
        *("sum by (kind) (rate(here[5m])) > 0", "gone or here", "here unless gone", "here + on (kind) recorded", "-(here)"),
        *(
            "absent(gone)",
            "absent_over_time(gone[1m])",
            "vector(1)",
            "vector(time())",
            "hour()",
            "scalar(gone)",
            "1 + 1",
            '{__name__=~"h.*"}',
        ),
        *("max_over_time(here[5m:1m])", "here - last_over_time(here[5m] offset 10s)", "histogram_quantile(0.9, here)"),
    ],
)
def test_what_may_have_a_value_is_kept(expression):
    assert can_yield(promql.parse(expression), ALIVE)


@pytest.mark.parametrize(
    "expression",
    [
        *("gone", 'here{kind="b"}', 'here{kind!="a"}', 'here{kind=~"b"}', 'here{kind!~"a"}', 'here{other!=""}', "gone unless here"),
        *("here and on (kind) gone", "here + gone", "here > bool gone", "gone * 0", "sum(rate(gone[5m]))", "max_over_time(gone[5m:1m])"),
        *("histogram_quantile(0.9, gone)", 'label_replace(gone, "a", "b", "", "")', "gone or here and gone", "0 * gone"),
    ],
)
def test_what_reads_only_what_is_not_there_is_empty(expression):
    assert not can_yield(promql.parse(expression), ALIVE)


def test_a_rule_is_kept_for_what_another_records_and_one_that_reads_alerts_always():
    rules = [
        {"alert": "Last", "expr": "second > 0"},
        {"record": "second", "expr": "sum(first)"},
        {"record": "first", "expr": "here"},
        {"alert": "Never", "expr": "gone > 0"},
        {"alert": "Meta", "expr": 'ALERTS{alertname="Last"}'},
    ]

    assert {rule.get("alert") or rule["record"] for rule in live_rules(rules, ['here{kind="a"}'])} == {"first", "second", "Last", "Meta"}


@pytest.mark.parametrize("scenario", SCENARIOS[:: len(SCENARIOS) // 3], ids=lambda scenario: scenario.name)
def test_promtool_sees_the_same_series_and_alerts_with_and_without_the_others(scenario, tmp_path):
    """By what it prints of an expectation that is not met: every series that there is, with its labels and its value."""
    everything, moment = '{__name__!=""}', min(120, *scenario.firing, *(moment for _, moment in scenario.samples))
    question = Scenario("everything", scenario.inputs, samples={(everything, moment): {}}, every_s=scenario.every_s, step_s=scenario.step_s)

    seen = []
    for number, files in enumerate((RULE_FILES, write_live_rules(RULE_FILES, scenario.inputs, tmp_path))):
        result = run_tests(write_test(tmp_path / f"{number}.yml", files, [question], {}))
        assert result.returncode == 1
        seen.append((result.stdout + result.stderr).replace(f"{number}.yml", "test.yml"))

    assert "got:" in seen[0]
    assert "DeadMansSwitch" in seen[0]
    assert seen[1] == seen[0]
