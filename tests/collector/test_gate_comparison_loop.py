"""A staged rollout whose arms differ, from the series in a real Prometheus to the flag that is off, and the twin that is well.

The minutes are over: Prometheus has them as blocks, and the collector's clock is moved through them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.gates.replay import canonical
from tests.collector.conftest import SEND, Api, bearer, until
from tests.real_parts.collector import collector
from tests.real_parts.past import Past, hours_ago, prometheus_with
from tests.real_parts.prometheus import Prometheus
from tests.real_parts.rollouts import SLOW_ROUNDS

START, MINUTES = hours_ago(), 25
SERVICES = {"sick": 0.055, "well": 0.005}
"""Share of the canary's requests that fail, by service; of the control's it is 0.5 % always."""
CONTROL, CANARY = 1080, 120


def write_past() -> Past:
    past, chance = Past(START, MINUTES), random.Random(17)
    for service, rate in SERVICES.items():
        instance = {"service": service, "job": "isolation", "instance": f"{service}:80"}
        past.gauge("up", instance, 1)
        past.counter("isolation_checks_total", instance | {"detector": "instance_reuse", "result": "pass"}, CONTROL)
        isolated = instance | {"transport": "http", "verdict": "isolated", "exposed": "true"}
        for arm, requests, share in (("on", CANARY, rate), ("off", CONTROL, 0.005)):
            failed = [sum(chance.random() < share for _ in range(requests)) for _ in range(MINUTES)]
            about = instance | {"rollout": "checkout", "arm": arm}
            past.counter("isolation_gate_requests_total", about | {"outcome": "error"}, failed)
            past.counter("isolation_gate_requests_total", about | {"outcome": "ok"}, [requests - number for number in failed])
            past.counter("isolation_requests_total", isolated | {"arm": arm}, requests)
            past.counter(
                "isolation_violations_total", instance | {"kind": "wrong_socket", "grade": "crossed", "synthetic": "false", "arm": arm}
            )
    return past


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus_with(tmp_path_factory.mktemp("past"), write_past().text()) as server:
        yield server


@pytest.fixture
def begun(make_api: Callable[..., Any], sqlite_url: str, remembering: Prometheus) -> Callable[..., Any]:
    """Return a context manager: a collector at the beginning of those minutes, and a rollout of a service in its stage of 10 %."""

    @asynccontextmanager
    async def begin(service: str, **changes: object) -> AsyncIterator[Api]:
        async with make_api(sqlite_url, prometheus_url=remembering.url, rollout_interval_s=0.1) as api:
            api.clock.now = datetime.fromtimestamp(START, UTC)
            stages = [{"name": "canary10", "percent": 10, "soak": "1h"}, {"name": "full", "percent": 100, "soak": "1h"}]
            asked = {"stages": stages, "triggers": ["isolation", "cascade", "error_rate"]} | changes
            applied = await api.apply(service=service, **asked)
            assert applied.status_code == 201, applied.text
            assert (await api.step("start")).status_code == 200
            yield api

    return begin


async def users_with_it(api: Api) -> int:
    """Return how many of a hundred users get `on`."""
    on = 0
    for user in range(100):
        body = {"context": {"targetingKey": f"user-{user}"}}
        answer = await api.client.post("/ofrep/v1/evaluate/flags/checkout", json=body, headers=bearer(SEND))
        assert answer.status_code == 200, answer.text
        on += answer.json()["variant"] == "on"
    return on


def minute(number: int) -> datetime:
    """Return a moment at which Prometheus has surely been read up to this minute's end."""
    return datetime.fromtimestamp(START + 60 * number + 20, UTC)


async def decision(api: Api, decision_id: str) -> dict[str, Any]:
    answer = await api.get(f"/v1/gates/checkout/decisions/{decision_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def replayed(folder: Path, database_url: str, decision_id: str) -> subprocess.CompletedProcess[str]:
    """Let `isomon gate replay` ask a collector that was started on the same database later."""
    with collector(folder, database_url=database_url, migrated=False, settings=SLOW_ROUNDS) as later:
        (folder / "token").write_text(later.read_token)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ISOMON_")}
        command = [sys.executable, "-m", "isolation_monitor.cli", "gate", "replay", f"checkout/{decision_id}"]
        command += ["--collector", later.url, "--token-file", str(folder / "token")]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def said(stored: dict[str, Any]) -> str:
    return canonical({name: stored["answer"][name] for name in ("verdict", "reasons", "metrics")}) + "\n"


async def test_an_arm_that_fails_more_often_is_taken_back_and_the_decision_replays(
    begun: Callable[..., Any], sqlite_url: str, tmp_path: Path
) -> None:
    async with begun("sick") as api:
        api.clock.now = minute(5)
        early = await api.gate("checkout")
        served_before = await users_with_it(api)

        api.clock.now = minute(20)
        await until(lambda: is_rolled_back(api))
        event, state = (await api.history())[0], await api.state()
        stored = await decision(api, event["decision_id"])
        await until(lambda: nobody_has_it(api))
        after = await api.gate("checkout")

    assert (early["verdict"], served_before > 0) == ("inconclusive", True)
    assert (event["actor"], event["action"], event["from_stage"], state["stage"]) == ("isolation-monitor", "rollback", "canary10", "off")
    assert event["reason"].startswith("error_rate: ")
    assert (stored["verdict"], stored["answer"]["stage"]) == ("fail", "canary10")
    assert [(reason["trigger"], reason["code"]) for reason in stored["answer"]["reasons"] if reason["state"] == "fail"] == [
        ("error_rate", "above_margin")
    ]
    # The stage's first minute is left alone: samples of before reach into it.
    assert stored["answer"]["metrics"]["canary_requests"] == 19 * CANARY
    assert stored["answer"]["metrics"]["control_requests"] == 19 * CONTROL
    assert (after["verdict"], after["latched"]) == ("fail", True)
    done = replayed(tmp_path / "later", sqlite_url, event["decision_id"])
    assert (done.returncode, done.stdout) == (0, said(stored)), done.stderr


async def test_the_twin_that_fails_no_more_often_passes_and_stays_where_it_is(
    begun: Callable[..., Any], sqlite_url: str, tmp_path: Path
) -> None:
    async with begun("well") as api:
        verdicts = []
        for number in range(2, MINUTES):
            api.clock.now = minute(number)
            verdicts.append((await api.gate("checkout"))["verdict"])
        # The controller looks by itself, at the same minutes: several times more.
        seen = api.app.state.rollout_controller.rounds
        await until(lambda: api.app.state.rollout_controller.rounds > seen + 2)
        answer, state, history = await api.gate("checkout"), await api.state(), await api.history()
        served = await users_with_it(api)
        stored = await decision(api, answer["decision_id"])

    assert "fail" not in verdicts
    assert "error" not in verdicts
    assert (verdicts[0], verdicts[-1], answer["verdict"]) == ("inconclusive", "pass", "pass")
    assert (state["status"], state["stage"], served > 0) == ("running", "canary10", True)
    assert [event["action"] for event in history] == ["start", "apply"]
    done = replayed(tmp_path / "later", sqlite_url, answer["decision_id"])
    assert (done.returncode, done.stdout) == (0, said(stored)), done.stderr


ALONE: dict[str, Any] = {"stages": [{"name": "full", "percent": 100, "soak": "1h"}], "holdback_percent": 0, "slo_error_percent": 2}
"""Everybody has it at once: nobody is left to compare with."""


async def test_without_a_control_a_broken_promise_takes_it_back(begun: Callable[..., Any], sqlite_url: str, tmp_path: Path) -> None:
    async with begun("sick", **ALONE) as api:
        served_before = await users_with_it(api)
        api.clock.now = minute(20)
        await until(lambda: is_rolled_back(api))
        event = (await api.history())[0]
        stored = await decision(api, event["decision_id"])
        await until(lambda: nobody_has_it(api))

    assert (served_before, event["actor"], event["action"]) == (100, "isolation-monitor", "rollback")
    assert [(reason["trigger"], reason["code"]) for reason in stored["answer"]["reasons"] if reason["state"] == "fail"] == [
        ("error_rate", "above_slo")
    ]
    assert "the 2 % that are promised" in event["reason"]
    assert (stored["config"]["comparison"]["percent"], stored["config"]["comparison"]["slo_error_percent"]) == (100, 2)
    done = replayed(tmp_path / "later", sqlite_url, event["decision_id"])
    assert (done.returncode, done.stdout) == (0, said(stored)), done.stderr


async def test_without_a_control_a_kept_promise_passes(begun: Callable[..., Any]) -> None:
    async with begun("well", **ALONE) as api:
        api.clock.now = minute(5)
        early = await api.gate("checkout")
        api.clock.now = minute(24)
        late = await api.gate("checkout")

    assert (early["verdict"], late["verdict"], late["reasons"]) == ("inconclusive", "pass", [])
    assert late["metrics"]["canary_error_percent_high"] < 2
    assert "control_requests" not in late["metrics"]


async def is_rolled_back(api: Api) -> bool:
    return bool((await api.state())["status"] == "rolled_back")


async def nobody_has_it(api: Api) -> bool:
    return await users_with_it(api) == 0
