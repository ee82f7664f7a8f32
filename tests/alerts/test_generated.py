"""What is committed is what the generator writes, and Prometheus's and Alertmanager's own tools accept it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

from isolation_monitor.alerts import alertmanager_config, build, prometheus_config, thresholds
from isolation_monitor.alerts.series import series_of
from isolation_monitor.telemetry import names
from tests.real_parts.processes import binary


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_committed_files_are_what_the_generator_writes(tmp_path: Path):
    build.main(["--out", str(tmp_path)])

    fresh = {file.name: file.read_text() for file in tmp_path.iterdir()}
    committed = {file.name: file.read_text() for file in build.GENERATED.iterdir()}
    assert committed == fresh, "run: python -m isolation_monitor.alerts.build"


def test_promtool_accepts_every_rule_with_all_its_lints():
    files = [str(build.GENERATED / name) for name in build.rules()]

    result = run(binary("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *files)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"metrics_token_file": "token", "collector_token_file": "token"},
        {"file_sd": ["services.json"], "dns_sd": ("chat", 8000), "isolation_targets": []},
        {"main_interval": "5s", "scrape_interval": "500ms"},
        {"drill_folder": "drills"},
    ],
    ids=["plain", "tokens", "discovery", "faster", "drills"],
)
def test_promtool_accepts_each_form_of_the_prometheus_configuration(more, tmp_path: Path):
    settings = {
        "isolation_targets": ["127.0.0.1:8000", "127.0.0.1:8001"],
        "main_interval": "15s",
        "collector_target": "127.0.0.1:8400",
        "alertmanager": "127.0.0.1:9093",
        "rule_files": [str(build.GENERATED / name) for name in build.rules()],
    }
    (tmp_path / "token").write_text("secret")
    (tmp_path / "services.json").write_text(json.dumps([{"targets": ["127.0.0.1:8002"]}]))
    for job in ("services", "collector"):
        (tmp_path / "drills" / job).mkdir(parents=True)
        (tmp_path / "drills" / job / "drill.json").write_text(json.dumps([{"targets": ["127.0.0.1:8003"]}]))
    (tmp_path / "prometheus.yml").write_text(prometheus_config.render(**settings | more))

    result = run(binary("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))

    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout


def test_an_interval_of_a_form_nobody_wrote_is_refused():
    with pytest.raises(ValueError, match="write 15s or 1m"):
        prometheus_config.render(isolation_targets=[], main_interval="soon", collector_target="c:1", alertmanager="a:1", rule_files=[])


def test_both_configurations_of_the_compose_file_are_written_and_valid_yaml():
    for name, text in build.configurations().items():
        assert yaml.safe_load(text), name
        assert "&id" not in text


def test_every_rule_names_only_metrics_and_labels_that_the_catalogue_has():
    """A rule on a metric that nobody exposes is silent for ever."""
    exposed = {sample: _labels(metric, sample) for metric in names.CATALOGUE for sample in _samples(metric)}

    for name, labels in build.series_used():
        assert name in exposed, f"{name} is not in telemetry/names.py"
        assert labels <= exposed[name] | {"service"}, f"{name} has no label {labels - exposed[name]}"


def test_every_label_value_in_a_rule_is_one_that_the_catalogue_has():
    """`verdict="isolatet"` parses well and never matches."""
    closed = {sample: metric.labels for metric in names.CATALOGUE for sample in _samples(metric)}

    for name, label, operator, value in _matchers():
        allowed = closed.get(name, {}).get(label)
        if isinstance(allowed, tuple) and operator in (promql.MatchOp.Equal, promql.MatchOp.NotEqual):
            assert value in allowed, f'{name}{{{label} "{value}"}}'
        if isinstance(allowed, tuple) and operator in (promql.MatchOp.Re, promql.MatchOp.NotRe):
            assert set(value.split("|")) <= set(allowed), f'{name}{{{label} "{value}"}}'


def test_each_detector_has_an_activity_by_which_its_silence_is_known_or_a_reason_to_be_quiet():
    from isolation_monitor.alerts.recording import DETECTOR_ACTIVITY, NO_ACTIVITY

    assert set(DETECTOR_ACTIVITY).isdisjoint(NO_ACTIVITY)
    assert {*DETECTOR_ACTIVITY, *NO_ACTIVITY} == set(names.DETECTORS)
    assert all(len(reason) > 20 for reason in NO_ACTIVITY.values())


def test_each_public_series_is_recorded_by_service():
    recorded = {rule["record"] for group in yaml.safe_load(build.rules()["recording.yml"])["groups"] for rule in group["rules"]}

    assert recorded >= {*names.PUBLIC_SERIES, names.ISOLATION_SCORE_STATE}


def test_thresholds_that_lie_on_buckets_are_told_exactly():
    """A percentile between two bucket bounds is a guess; at a bound it is exact."""
    t = thresholds.load()

    assert t.creation.max_creation_s in names.INSTANCE_CREATE.buckets
    assert t.creation.max_reset_s in names.INSTANCE_RESET.buckets
    assert t.sessions.max_wait_s in names.DB_CONNECTION_WAIT.buckets


def test_every_range_holds_four_scrapes_of_the_page_it_reads():
    """With fewer, one late scrape leaves a rate without samples, and an alert without a voice."""
    pace_s = {sample: 1 if metric.endpoint == "isolation" else 15 for metric in names.CATALOGUE for sample in _samples(metric)}

    for name, range_s in _ranges():
        if name in pace_s:
            assert range_s >= 4 * pace_s[name], name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("window: 10s", "window: soon"), "violation.window is 'soon'"),
        (("  max_creation_s: 0.01\n", ""), r"missing \['max_creation_s'\]"),
        (("score:\n", "score:\n  colour: green\n"), r"unknown \['colour'\]"),
        (("page_below_percent: 99", "page_below_percent: 98.5"), "expected int"),
    ],
)
def test_a_wrong_threshold_file_says_what_is_wrong(change, complaint, tmp_path: Path):
    file = tmp_path / "thresholds.yml"
    file.write_text(thresholds.THRESHOLDS_FILE.read_text().replace(*change, 1))

    with pytest.raises(thresholds.ThresholdsError, match=complaint):
        thresholds.load(file)


def test_text_for_people_needs_the_template():
    with pytest.raises(ValueError, match=r"isolation\.tmpl"):
        alertmanager_config.render(webhook_url="http://localhost/", webhook_token_file="t", slack_url_file="s")


def _samples(metric: names.Metric) -> list[str]:
    return [metric.name + suffix for suffix in ("_bucket", "_count", "_sum")] if metric.type == "histogram" else [metric.name]


def _labels(metric: names.Metric, sample: str) -> set[str]:
    return set(metric.labels) | ({"le"} if sample.endswith("_bucket") else set())


def _nodes():
    def walk(node):
        yield node
        for attribute in ("lhs", "rhs", "expr", "vector_selector"):
            if (child := getattr(node, attribute, None)) is not None:
                yield from walk(child)
        for argument in getattr(node, "args", ()):
            yield from walk(argument)

    for groups in build.rule_groups().values():
        for group in groups:
            for rule in group.rules:
                assert series_of(rule.expr) is not None
                yield from walk(promql.parse(rule.expr))


def _matchers():
    for node in _nodes():
        if isinstance(node, promql.VectorSelector):
            for matcher in node.matchers.matchers:
                yield node.name, matcher.name, matcher.op, matcher.value


def _ranges():
    for node in _nodes():
        if isinstance(node, promql.MatrixSelector):
            yield node.vector_selector.name, node.range.total_seconds()
