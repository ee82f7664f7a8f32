"""A collector over rollouts that a test changes, monitors that follow it, and what they count of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.real_parts.flag_server import SEND, Rollouts, flag_server, rule

ROLLOUT = "checkout-v2"


def requests(monitor: Any, arm: str, outcome: str = "ok", rollout: str = ROLLOUT) -> float:
    """Return how many requests that evaluated a rollout's flag the gate counts in an arm."""
    return float(monitor.registry.value(names.GATE_REQUESTS, rollout=rollout, arm=arm, outcome=outcome))


async def answer(send: Any) -> None:
    """Answer 200 with nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def rollouts() -> Rollouts:
    return Rollouts(rule(ROLLOUT))


@pytest.fixture
def collector_url(rollouts: Rollouts) -> Iterator[str]:
    with flag_server(rollouts) as url:
        yield url


@pytest.fixture
def following(make_monitor: Callable[..., IsolationMonitor], collector_url: str) -> Callable[..., IsolationMonitor]:
    """Make a monitor that follows the collector, and wait until it knows the rules."""

    def make(**settings: Any) -> IsolationMonitor:
        # The collector runs in this process too: what plants faults must not take its database for the service's.
        defaults = {"collector_url": collector_url, "collector_token": SEND, "self_test_interval_s": 0}
        monitor = make_monitor(**defaults | settings)
        monitor.flags.follower.start()
        assert monitor.flags.follower.wait_ready(30)
        return monitor

    return make
