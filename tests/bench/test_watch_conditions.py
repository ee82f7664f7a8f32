"""The benchmark of conditions that are caused for real: it leaves no alert out, judges fairly, and its way is whole."""

from __future__ import annotations

import pytest

from bench import watch_conditions
from bench.watch_causes import CAUSES
from bench.watch_conditions import Told
from isolation_monitor.alerts import ci_alerts, container_alerts, lifecycle_alerts, probe_alerts, thresholds


def test_every_alert_of_containers_ci_probes_and_lifecycle_is_caused() -> None:
    parts = (container_alerts, ci_alerts, probe_alerts, lifecycle_alerts)
    alerts = {rule.name for part in parts for group in part.groups(thresholds.load()) for rule in group.rules}

    assert {cause.alert for cause in CAUSES} == alerts
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)
    assert set(watch_conditions.QUICK) <= alerts


def test_one_that_was_not_notified_is_named_and_fails() -> None:
    told = [Told("Fast", 0.0, 2.0), Told("Patient", 15.0, 8.0), Told("Lost", 0.0, None, "no notification within 120 s")]

    arrived, every = watch_conditions.rows_of(told[:2]), watch_conditions.rows_of(told)

    assert [(row.name, row.value, row.ok) for row in arrived[:3]] == [
        ("real condition notified, slowest", 8.0, True),
        ("real condition notified, p95", 8.0, True),
        ("real conditions caused and notified", 2, True),
    ]
    assert [(row.name, row.note) for row in arrived[3:]] == [("real Fast", ""), ("real Patient", "and for: 15 s")]
    assert [row.ok for row in every[:3]] == [False, True, False]
    assert every[0].note == "Lost: no notification within 120 s"


@pytest.mark.slow
async def test_one_of_each_kind_is_caused_for_real_and_notified() -> None:
    """That it is soon is the benchmark's to say; here the way is whole, for a machine of any speed."""
    rows = {row.name: row for row in await watch_conditions.rows(quick=True)}

    assert rows["real conditions caused and notified"].value == len(watch_conditions.QUICK), rows
