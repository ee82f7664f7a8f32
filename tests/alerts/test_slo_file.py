"""The SLO file: every mistake is refused with the place and the remedy, and what it says becomes the rules."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from isolation_monitor.alerts import build, slo, slo_rules
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry import names
from tests.real_parts.processes import binary
from tests.real_parts.promtool import Scenario, run_tests, series, write_test

Change = Callable[[dict[str, Any]], Any]


def written(folder: Path, *changes: Change) -> Path:
    tree = yaml.safe_load(slo.SLO_FILE.read_text())
    for change in changes:
        change(tree)
    file = folder / "slo.yml"
    file.write_text(yaml.safe_dump(tree))
    return file


def objective(number: int, **keys: Any) -> Change:
    return lambda tree: tree["objectives"][number].update(keys)


def test_the_products_promises_are_those_of_the_requirement():
    slos = slo.load()
    chat, first_event, answers = slos.objectives

    assert (slos.window, slos.min_bad_events) == ("30d", 5)
    assert (chat.objective_percent, chat.budget, chat.of) == (99.99, 0.0001, slo.SOURCES)
    assert (first_event.within_s, answers.within_s) == (1.0, 0.1)
    # Google's SRE workbook, table 5-8.
    assert [(a.action, a.long, a.short, a.burn_rate(slos.window)) for a in slos.burn_alerts] == [
        ("page", "1h", "5m", 14.4),
        ("page", "6h", "30m", 6.0),
        ("ticket", "1d", "2h", 3.0),
        ("ticket", "3d", "6h", 1.0),
    ]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("window"), "the file: window is missing"),
        (lambda t: t.update(colour="green"), "the file: unknown key 'colour'; known are window"),
        (lambda t: t.update(window="a month"), "window 'a month' is no duration: write a whole number"),
        (lambda t: t.update(window="365d"), "window 365d is too long: use 90d or less"),
        (lambda t: t.update(window=30), "window is 30: expected text in quotes"),
        (lambda t: t.update(min_bad_events=1), "min_bad_events 1 would wake somebody for a single failure: use 2 or more"),
        (lambda t: t.update(min_bad_events=True), "min_bad_events is True: expected a whole number"),
        (lambda t: t.update(objectives=[]), "objectives must be a list with at least one entry"),
        (lambda t: t.update(objectives=["chat"]), r"objectives\[0\] is no mapping of keys"),
        (lambda t: t["burn_alerts"].__delitem__(slice(0, 2)), "burn_alerts has none with action page"),
        (lambda t: t["burn_alerts"][0].update(action="call"), r"burn_alerts\[0\]: action 'call' does not exist: use one of page, ticket"),
        (lambda t: t["burn_alerts"][0].update(short="2h"), "short 2h, long 1h and window 30d must each be longer than the one before"),
        (lambda t: t["burn_alerts"][3].update(long="30d"), "long 30d and window 30d must each be longer"),
        (lambda t: t["burn_alerts"][0].update(budget_percent=101), "budget_percent is more than the whole budget"),
        (lambda t: t["burn_alerts"][0].update(budget_percent=0), "budget_percent 0 is not above 0: write 2 for 2 %"),
        (objective(1, name="chat-availability"), "the name 'chat-availability' is there twice"),
        (objective(0, name="Chat availability"), "is no name: use small letters, digits and single hyphens"),
        (objective(0, promise="two\nlines"), "promise must be one line of plain text"),
        (objective(0, indicator="availabilty"), "indicator 'availabilty' does not exist.*did you mean 'availability'"),
        (objective(0, objective_percent=100), "objective_percent 100 is not between 0 and 100: 100 leaves no budget"),
        (objective(0, objective_percent="99.9"), "objective_percent is '99.9': expected a number"),
        (objective(0, of=["requests", "emails"]), "of must be a list of some of requests, runs, handshakes"),
        (objective(0, of=["runs"]), "routes choose requests, which are not in its list `of`"),
        (objective(0, routes="("), r"objectives\[0\] \(chat-availability\): routes '\(' is no regular expression"),
        (objective(0, routes='a"b'), "holds a quote, a backslash or nothing: write"),
        (objective(1, within_ms=750), "within_ms 750 is no bound of isolation_run_time_to_first_event_seconds: use one of 10, 25, 50"),
        (objective(1, routes="/api"), "unknown key 'routes'; known are name"),
        (objective(1, withinms=1), "unknown key 'withinms', did you mean 'within_ms'"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_what_to_write(change: Change, complaint: str, tmp_path: Path):
    with pytest.raises(slo.SloError, match=complaint):
        slo.load(written(tmp_path, change))


@pytest.mark.parametrize(("text", "complaint"), [("a: [", "is no YAML"), ("[1]", "the file is no mapping"), (None, "cannot be read")])
def test_a_file_that_is_none_is_refused(text: str | None, complaint: str, tmp_path: Path):
    file = tmp_path / "slo.yml"
    if text is not None:
        file.write_text(text)

    with pytest.raises(slo.SloError, match=complaint):
        slo.load(file)


def test_any_promised_duration_can_be_a_bound_and_every_bound_promised(tmp_path: Path):
    """A bound that the page writes in another way than the rules would never match: then every event is late."""
    for bound in names.RUN_FIRST_EVENT.buckets:
        slos = slo.load(written(tmp_path, objective(1, within_ms=bound * 1000)))
        (late,) = (rule for rule in slo_rules._events(slos.objectives[1]) if rule.name == slo_rules.BAD)
        assert f'le="{bound!r}"' in late.expr


def test_promises_of_another_window_have_their_own_burn_rates_and_series(tmp_path: Path):
    slos = slo.load(written(tmp_path, lambda tree: tree.update(window="7d")))

    assert [alert.burn_rate(slos.window) for alert in slos.burn_alerts] == [3.36, 1.4, 0.7, 0.233333]
    assert slo_rules.budget_left(slos) == "service_slo:budget_left:ratio7d"


def test_other_promises_become_rules_that_promtool_accepts(tmp_path: Path):
    file = written(
        tmp_path,
        lambda tree: tree.update(window="28d", min_bad_events=20),
        objective(0, services="shop|chat-.*", routes="/api/.*"),
        objective(2, within_ms=250, services="shop"),
    )

    assert build.main(["--slo", str(file), "--out", str(tmp_path / "out")]) == 0

    done = subprocess.run(
        [binary("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "out" / "slo.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_wrong_file_is_a_usage_error_of_the_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        build.main(["--slo", str(written(tmp_path, lambda tree: tree.pop("window"))), "--out", str(tmp_path)])

    assert left.value.code == 2
    assert "window is missing" in capsys.readouterr().err


def test_a_promise_of_one_service_is_judged_for_it_and_its_drills_alone(tmp_path: Path):
    file = written(tmp_path, objective(0, services="shop", of=["runs"]), lambda tree: tree["objectives"][0].pop("routes_except"))
    build.main(["--slo", str(file), "--out", str(tmp_path)])
    services = ("shop", "drill:shop:SloBurnsFast:1f", "shopping", "chat")
    inputs = {series("isolation_runs_total", {"service": service, "outcome": "failed", "arm": "none"}): "0+1x10" for service in services}
    query = 'count by (service) (service_slo:events:increase30s{slo="chat-availability"})'
    expected = {series("", {"service": service}): 1.0 for service in services[:2]}
    scenario = Scenario("of one service", inputs, samples={(query, 300): expected}, every_s=30, step_s=30)

    done = run_tests(write_test(tmp_path / "test.yml", [tmp_path / "slo.yml"], [scenario], {}))

    assert done.returncode == 0, done.stdout


def test_windows_of_days_are_as_long_as_their_names_say(tmp_path: Path):
    """Everything failed for an hour; then all was well. Each window forgets that hour when it is older than the window."""
    minutes = 4 * 24 * 60
    labels = {"service": "chat", "slo": "chat-availability", "source": "case"}
    inputs = {
        series("service_slo:events:increase30s", labels): f"10x{minutes}",
        series("service_slo:bad_events:increase30s", labels): f"10x59 0x{minutes - 60}",
    }
    samples: dict[tuple[str, int], dict[str, float]] = {}
    for text in ("1h", "2h", "6h", "1d", "3d"):
        window = Duration(text)
        for more_s, is_burning in ((1800, True), (3600, False)):
            query = f'service_slo:budget_burn:rate{text}{{slo="chat-availability"}} > bool 0'
            moment = int(window.seconds) + more_s
            samples[query, moment] = {series("", {"service": "chat", "slo": "chat-availability"}): float(is_burning)}
    scenario = Scenario("days", inputs, samples=samples, every_s=1800, step_s=60)

    done = run_tests(write_test(tmp_path / "test.yml", [build.GENERATED / "slo.yml"], [scenario], {}))

    assert done.returncode == 0, done.stdout
