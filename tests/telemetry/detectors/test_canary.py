"""Canaries: a planted value in another tenant's answer is a proof, and its own tenant may read it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors import canary
from isolation_monitor.telemetry.detectors.canary import matcher
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.lab import Lab
from tests.telemetry.conftest import Client

CANARY = "canary of tenant one 77"


def service() -> FastAPI:
    app = FastAPI()

    @app.get("/search")
    async def search() -> dict[str, str]:
        return {"found": f"<b>{CANARY}</b>"}

    return app


async def test_a_canary_in_anothers_answer_is_a_crossing(monitor: IsolationMonitor) -> None:
    monitor.canary(CANARY, owner="one")
    client = Client(monitor.instrument(service()))

    await client.get("/search", user="one")
    assert monitor.violations() == []
    await client.get("/search", user="two")

    assert [(violation.kind, violation.grade) for violation in monitor.violations()] == [(names.CANARY, "crossed")]


async def test_in_block_mode_the_answer_with_a_canary_is_withheld(make_monitor: Callable[..., IsolationMonitor]) -> None:
    monitor = make_monitor(detectors=("canary=block",))
    monitor.canary(CANARY, owner="one")

    answer = await Client(monitor.instrument(service())).get("/search", user="two")

    assert answer.status == 500
    assert CANARY.encode() not in answer.body


def test_a_short_canary_is_refused(monitor: IsolationMonitor) -> None:
    with pytest.raises(SettingsError, match="at least 12"):
        monitor.canary("short", owner="one")


@pytest.mark.parametrize("native", [True, False])
def test_both_matchers_find_every_value_also_where_one_begins_another(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if native:
        pytest.importorskip("ahocorasick_rs")
    else:
        monkeypatch.setattr(canary, "NATIVE", None)
    values = [f"canary number {n} of many (.*)" for n in range(500)]
    find = matcher(values)

    assert set(find(" -- ".join(values[100:120]))) == set(values[100:120])
    assert list(find("nothing of the kind")) == []


def test_the_planted_fault_is_reported_as_synthetic_and_leaves_nothing(monitor: IsolationMonitor) -> None:
    monitor.detection.canary.plant(Lab(monitor.principals))

    assert [violation.synthetic for violation in monitor.violations(synthetic=True)] == [True]
    assert monitor.detection.canary._owners == {}
