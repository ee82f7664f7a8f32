"""`isomon gate backtest --prometheus`: a verdict for each minute of a range that a real Prometheus remembers."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.real_parts.past import Past, hours_ago, prometheus_with
from tests.real_parts.prometheus import Prometheus

START, MINUTES = hours_ago(), 30
CONTROL, CANARY = 1080, 120
"""Requests a minute of each arm."""


def write_past() -> Past:
    past, chance = Past(START, MINUTES), random.Random(3)

    def arm(rollout: str, which: str, requests: Sequence[float], rate: float) -> None:
        failed = [sum(chance.random() < rate for _ in range(int(of))) if of == of else 0.0 for of in requests]
        about = {"service": "shop", "rollout": rollout, "arm": which, "instance": "a"}
        past.counter("isolation_gate_requests_total", about | {"outcome": "error"}, failed)
        past.counter(
            "isolation_gate_requests_total", about | {"outcome": "ok"}, [of - bad for of, bad in zip(requests, failed, strict=True)]
        )

    for rollout in ("healthy", "harmful", "violating", "quiet", "broken"):
        arm(rollout, "off", [CONTROL] * MINUTES, 0.005)
    arm("healthy", "on", [CANARY] * MINUTES, 0.005)
    arm("harmful", "on", [CANARY] * MINUTES, 0.055)
    arm("violating", "on", [CANARY] * MINUTES, 0.005)
    arm("quiet", "on", [2] * MINUTES, 0)
    arm("broken", "on", [CANARY] * 10 + [math.nan] * (MINUTES - 10), 0)
    for rollout in ("healthy", "violating"):
        grown = [1.0 if rollout == "violating" and minute == 6 else 0.0 for minute in range(MINUTES)]
        about = {"service": "shop", "rollout": rollout, "arm": "on", "grade": "crossed"}
        past.counter("isolation_gate_violations_total", about, grown)
    return past


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus_with(tmp_path_factory.mktemp("past"), write_past().text()) as server:
        yield server


def backtest(server: Prometheus, rollout: str, *more: str, service: str = "shop") -> subprocess.CompletedProcess[str]:
    begin, end = (datetime.fromtimestamp(START + 60 * minute, UTC).strftime("%Y-%m-%dT%H:%MZ") for minute in (0, MINUTES))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ISOMON_")}
    command = [sys.executable, "-m", "isolation_monitor.cli", "gate", "backtest", "--prometheus", server.url]
    command += ["--service", service, "--rollout", rollout, "--start", begin, "--end", end, "--trigger", "error_rate", *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def looks(server: Prometheus, rollout: str, *more: str) -> tuple[int, dict[str, Any]]:
    done = backtest(server, rollout, "--json", *more)
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_half_hour_has_a_verdict_for_each_minute_and_passes(remembering: Prometheus) -> None:
    code, answer = looks(remembering, "healthy")

    assert (code, answer["schema"], answer["verdict"], answer["rolled_back"]) == (0, "gate-backtest/1", "pass", False)
    assert [look["minute"] for look in answer["looks"]] == list(range(START // 60, START // 60 + MINUTES))
    assert {look["percent"] for look in answer["looks"]} == {10.0}
    assert [look["metrics"]["canary_requests"] for look in answer["looks"]] == [CANARY * (n + 1) for n in range(MINUTES)]
    # Without errors 418 requests would do; four minutes have 480, the first ones cannot say.
    first = answer["first_pass_after_looks"]
    assert {look["verdict"] for look in answer["looks"][: first - 1]} == {"inconclusive"}
    assert first > 4


def test_harm_is_rolled_back_at_its_look_and_stays_so(remembering: Prometheus) -> None:
    code, answer = looks(remembering, "harmful")
    first = answer["rolled_back_after_looks"]

    assert (code, answer["verdict"], answer["rolled_back"]) == (10, "fail", True)
    assert first <= 15
    assert [look["latched"] for look in answer["looks"]] == [False] * first + [True] * (MINUTES - first)
    reason = answer["looks"][first - 1]["reasons"][0]
    assert (reason["trigger"], reason["state"]) == ("error_rate", "fail")
    assert datetime.fromisoformat(answer["rolled_back_at"]).timestamp() == START + first * 60


def test_one_violation_is_rolled_back_at_its_minute(remembering: Prometheus) -> None:
    code, answer = looks(remembering, "violating")

    assert (code, answer["rolled_back_after_looks"]) == (10, 7)
    assert answer["looks"][6]["reasons"][0]["trigger"] == "isolation"


def test_few_requests_are_inconclusive_and_say_how_many_are_missing(remembering: Prometheus) -> None:
    code, answer = looks(remembering, "quiet")
    missing = [reason for reason in answer["looks"][-1]["reasons"] if reason["code"] == "min_samples"]

    assert (code, answer["verdict"]) == (20, "inconclusive")
    assert {look["verdict"] for look in answer["looks"]} == {"inconclusive"}
    assert any(reason["need"] > reason["have"] for reason in missing)


def test_numbers_that_are_none_are_an_error(remembering: Prometheus) -> None:
    code, answer = looks(remembering, "broken")

    assert (code, answer["verdict"]) == (30, "error")
    assert "nan" in [reason["code"] for reason in answer["looks"][-1]["reasons"]]


def test_people_read_when_it_would_have_been_rolled_back(remembering: Prometheus) -> None:
    done = backtest(remembering, "harmful")

    assert done.returncode == 10
    assert "stays failed" in done.stdout
    assert f"of {MINUTES}" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("service", "rollout"), [("shop", "unheard-of"), ("another", "healthy")])
def test_a_range_without_a_request_is_said_and_leaves_with_2(remembering: Prometheus, service: str, rollout: str) -> None:
    done = backtest(remembering, rollout, "--json", service=service)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"Prometheus has no request of rollout {rollout} of service {service}" in done.stderr
