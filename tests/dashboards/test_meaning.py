"""What the dashboards say agrees with the alerts, the runbooks and the metrics that exist."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from isolation_monitor.alerts import ci_alerts
from isolation_monitor.alerts.build import RUNBOOKS, alerts, rule_groups
from isolation_monitor.alerts.model import Recording
from isolation_monitor.alerts.thresholds import load
from isolation_monitor.collector.ci_metrics import SuiteNumbers
from isolation_monitor.collector.container_metrics import Shown
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.probe_metrics import ProbeShown
from isolation_monitor.dashboards import experience
from isolation_monitor.telemetry import names
from tests.dashboards.boards import UIDS, board, boards, expressions, panels, selectors

T = load()
ZERO = (1,)
"""Alerts on any growth fire above 0; the first whole number above is 1."""

LIMITS: dict[str, tuple[float, ...]] = {
    "Foreign data left the service": ZERO,
    "Could have crossed": ZERO,
    "Isolation score": (100,),
    "Are we blind?": (2,),
    "Coverage": (1 - T.blindness.max_unverified_ratio,),
    "Exposure": (),
    "Pages firing": ZERO,
    "Delivery rate": (T.delivery.rollback_below_percent, T.delivery.page_below_percent),
    "Oldest event without an answer": (),
    "Longest queue of a user": (),
    "Largest queue of a user": (),
    "Events lost": ZERO,
    "Runs incomplete": ZERO,
    "Complete and in order": (),
    "Runs not in order": ZERO,
    "Handshakes that failed": (T.connections.max_failed_ratio,),
    "Share of handshakes that failed": (T.connections.max_failed_ratio,),
    "Let in as nobody or another": ZERO,
    "Connection ids of another user": ZERO,
    "Events with nowhere to go": ZERO,
    "Connections open": (),
    "Connections dead": (),
    "Runs stuck": ZERO,
    "Events on a wrong socket": ZERO,
    "Runs under way": (),
    "Run duration, slowest 5 %": (),
    "Share violated and unverified": (T.blindness.max_unverified_ratio,),
    "Failures that touched nobody else": (100,),
    "Instance creation, slowest 5 %": (T.creation.max_creation_s * 1000,),
    "Instance reset, slowest 5 %": (T.creation.max_reset_s * 1000,),
    "Wait for a database connection, slowest 5 %": (T.sessions.max_wait_s * 1000,),
    # No alert of its own: the wait for a connection has one.
    "Pool in use": (0.8,),
    "Fullest pool": (0.8,),
    "Containment": (100,),
    "Failures that escaped": ZERO,
    "Cascades": ZERO,
    "Requests that stopped the loop": ZERO,
    "Requests that starved": ZERO,
    "Workers that died": ZERO,
    "Served by the variant": (),
    "Violations with the variant": ZERO,
    "Without an arm": (),
    "Workers out of touch": ZERO,
    "Wait, slowest 5 %": (T.sessions.max_wait_s * 1000,),
    "Sessions leaked": ZERO,
    "Dirty handovers": ZERO,
    "Shared connections": ZERO,
    "Reads of others' rows": ZERO,
    "Creation, slowest 5 %": (T.creation.max_creation_s * 1000,),
    "Reset, slowest 5 %": (T.creation.max_reset_s * 1000,),
    "Instances made": (),
    "Given to a second request": ZERO,
    "Reused across users": ZERO,
    "State shared by all": ZERO,
    "Memory": (),
    "Open files": (),
    "Threads": (),
    "Tasks": (),
    "Child processes": (),
    "Growing without a pause": ZERO,
    "Run ids resolved": (T.resolution.page_below_percent,),
    "Share of run ids resolved": (T.resolution.page_below_percent,),
    "Led nowhere": ZERO,
    "Sources disagreed": ZERO,
    "Foreign threads served": ZERO,
    "Foreign threads denied": (),
    "Resolution, slowest 5 %": (),
    # The second is no alert's: below a quarter, be careful.
    "Error budget left": (experience.SPENT, experience.LOW_BUDGET),
    "Fastest burn, 1h": (14.4,),
    "Fastest burn, 6h": (6,),
    "Requests that failed": (),
    "Answers, slowest 5 %": (),
    "First event, slowest 5 %": (),
    "Gates that failed": ZERO,
    "Gates that cannot look": ZERO,
    "Evidence so far": (),
    "Longest wait": (T.rollouts.max_waiting_s,),
    "Waiting for a verdict": (T.rollouts.max_waiting_s,),
    "Violations with it": ZERO,
    "Certificates: days left": (T.probes.certificate_days,),
    "Share that has it": (),
    "Phases that hang": ZERO,
    "Slowest start-up": (T.lifecycle.max_startup_s,),
    "Latest worker ready since": (),
    "Clean-up steps forced": ZERO,
    "Duration of clean-ups": (T.lifecycle.max_cleanup_s,),
    "Errors of the new version beyond the old": (T.rollouts.max_error_percent,),
    "Slowness of the new version beyond the old": (T.rollouts.max_slower_percent,),
    "Engines that answer": (1,),
    "Running": (),
    "Unhealthy": ZERO,
    "Out of memory": ZERO,
    "Removed by force": ZERO,
    "Command storms": ZERO,
    "Memory, of what each may use": (T.containers.max_memory_ratio,),
    "Passed, worst suite": (T.ci.min_pass_ratio, 1),
    "Flaky, worst suite": (0.001, T.ci.max_flaky_ratio),
    "Longest run": (T.ci.max_duration_s,),
    "Longest without a run": (T.ci.missing_after_s,),
    "Passed tests": (T.ci.min_pass_ratio,),
    "Flaky tests": (T.ci.max_flaky_ratio,),
    "Duration": (T.ci.max_duration_s,),
    "Duration, now by before": (T.ci.max_trend_ratio,),
    "Peak memory": (T.ci.max_memory_bytes,),
}


def limits(panel: dict[str, Any]) -> tuple[float, ...]:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
    return tuple(step["value"] for step in steps if step.get("value") is not None)


def test_thresholds_are_those_of_the_alerts():
    for tree in boards():
        for panel in panels(tree):
            is_drawn = panel["type"] == "stat" or limits(panel)
            # Some graphs have the title of their tile, and no line to draw at one.
            if is_drawn and not (panel["type"] == "timeseries" and LIMITS[panel["title"]] == ZERO):
                assert limits(panel) == pytest.approx(LIMITS[panel["title"]]), panel["title"]


def test_columns_of_the_public_numbers_have_the_thresholds_of_the_alerts():
    (table,) = (panel for panel in panels(board("isolation-overview")) if panel["title"] == "The public numbers by service")
    found = {
        override["matcher"]["options"]: tuple(step["value"] for step in entry["value"]["steps"] if step.get("value") is not None)
        for override in table["fieldConfig"]["overrides"]
        for entry in override["properties"]
        if entry["id"] == "thresholds"
    }

    assert found == {
        "Score": (100,),
        "Containment": (100,),
        "Creation p95": (T.creation.max_creation_s * 1000,),
        "Delivery": (T.delivery.rollback_below_percent, T.delivery.page_below_percent),
        "Wrong sockets": ZERO,
        "Leaked sessions": ZERO,
    }


def test_every_alert_is_named_by_a_panel_with_a_link_to_its_runbook():
    linked: dict[str, set[str]] = {}
    for tree in boards():
        for panel in panels(tree):
            for link in panel.get("links", ()):
                alert = link["title"].removeprefix("Runbook ")
                assert link["url"] == f"http://localhost:8400/runbooks/{alert}"
                assert alert in panel["description"], panel["title"]
                linked.setdefault(alert, set()).add(tree["uid"])

    # Exactly the alerts that exist: a renamed one fails here.
    assert linked.keys() == {alert.name for alert in alerts()}


def test_an_alert_opens_a_dashboard_that_exists_and_has_a_panel_about_it():
    for alert in alerts():
        named = {
            panel["title"]
            for panel in panels(board(alert.dashboard))
            for link in panel.get("links", ())
            if link["title"].endswith(f" {alert.name}")
        }
        assert named, f"{alert.name} opens {alert.dashboard}, where no panel names it"


def test_every_linked_runbook_exists():
    assert [alert.name for alert in alerts() if not (RUNBOOKS / f"{alert.name}.md").is_file()] == []


def exposed() -> dict[str, set[str]]:
    """Sample names with their labels: of the catalogue, of the collector, and of the recorded series."""
    found: dict[str, set[str]] = {}
    for metric in names.CATALOGUE:
        labels = set(metric.labels) | {"service", "instance", "job"}
        for name in (
            (metric.name, f"{metric.name}_bucket", f"{metric.name}_count", f"{metric.name}_sum")
            if metric.type == "histogram"
            else (metric.name,)
        ):
            found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    collector = CollectorMetrics()
    collector.batch_stored(1, 0, 0, 0.01)
    collector.service_sent("key", "chat", 1)
    collector.alert_received("DeadMansSwitch", "firing")
    collector.gate_evaluated("canary", "pass", 1.0, 0.01)
    collector.gate_answered(
        {
            "rollout": "canary",
            "service": "chat",
            "verdict": "pass",
            "verdict_code": 1,
            "metrics": {"requests": 1},
            "thresholds": {"min_owed_events": 1},
        }
    )
    shown = Shown("web", "running", "healthy", 1.0, 1, 2, 3.0, 0.5)
    collector.containers.show("docker", [shown], orphans=0, expired=0, dangling_volumes=0, orphan_volumes=0)
    collector.ci.show([SuiteNumbers("unit", {"pass": 1}, dict.fromkeys(ci_alerts.COLLECTOR_SERIES, 1.0))])
    collector.probes.checked("login", ProbeShown("chat", True, 0.1, 1.0, 1.0, 60.0, 200, 2.0))
    for family in text_string_to_metric_families(collector.render().decode()):
        for sample in family.samples:
            # A drill's invented collector carries `synthetic`.
            found.setdefault(sample.name, {"instance", "job", "synthetic"}).update(sample.labels)
    for groups in rule_groups().values():
        for rule in (rule for group in groups for rule in group.rules if isinstance(rule, Recording)):
            found.setdefault(rule.name, {"service", "instance", "detector", "rollout"}).update(rule.labels)
    return found


def test_no_panel_reads_a_metric_or_label_that_does_not_exist():
    known = exposed() | {
        "up": {"job", "instance", "synthetic"},
        "scrape_duration_seconds": {"job", "instance", "synthetic"},
        "ALERTS": {"alertname", "alertstate", "service", "severity", "action", "synthetic"},
    }
    for tree in boards():
        for where, expr in expressions(tree):
            for metric, matchers, _ in selectors(expr):
                assert metric in known, f"{where}: {metric}"
                assert set(matchers) - {"__name__"} <= known[metric], f"{where}: {metric}"


def test_every_metric_of_the_catalogue_is_seen_somewhere_or_left_out_on_purpose():
    read = {metric for tree in boards() for _, expr in expressions(tree) for metric, _, _ in selectors(expr)}
    recorded_from = {names.RECLASSIFIED.name}

    unseen = {metric.name for metric in names.CATALOGUE} - {name.removesuffix("_bucket").removesuffix("_count") for name in read}
    unseen -= {metric.name for metric in names.CATALOGUE if metric.name in read}

    # Read through a recorded series.
    assert unseen == recorded_from


def test_the_first_row_answers_whose_data_whether_we_see_and_how_much():
    tree = board("isolation-overview")
    first = [item["title"] for item in tree["panels"] if item["type"] != "row"][:6]

    assert tree["panels"][0]["title"].startswith("Is anyone seeing another's data")
    assert first == ["Foreign data left the service", "Could have crossed", "Isolation score", "Are we blind?", "Coverage", "Exposure"]


def test_the_delivery_rate_says_which_rung_it_measures():
    """ "Delivered" would be read as "arrived": it means what the connection can tell."""
    for panel in panels(board("event-delivery")):
        if panel["title"].startswith("Delivery rate"):
            assert any(words in panel["description"] for words in ("highest rung", "floor"))


@pytest.mark.parametrize("uid", UIDS)
def test_titles_do_not_shout_and_stay_short(uid):
    assert all(len(panel["title"]) <= 60 for panel in panels(board(uid)))
