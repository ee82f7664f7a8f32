"""The provider under the real OpenFeature SDK, against a real collector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.flags.bucketing import FlagRule, variant_of
from isolation_monitor.telemetry.flags.hook import ArmHook
from isolation_monitor.telemetry.flags.provider import IsolationFlagProvider
from tests.real_parts.flag_server import SEND, Rollouts, flag_server, rule
from tests.real_parts.processes import eventually, free_port
from tests.telemetry.flags.conftest import answer, requests

ANN = EvaluationContext(targeting_key="ann")


@pytest.fixture
def opened() -> Iterator[Callable[[Any], OpenFeatureClient]]:
    """Give a monitor's provider to the SDK; return its client once it is ready."""

    def open(monitor: Any, *, ready: bool = True) -> OpenFeatureClient:
        api.set_provider(IsolationFlagProvider(monitor.flags))
        client = api.get_client()
        if ready:
            eventually(lambda: client.get_provider_status().value == "READY", "the provider is ready")
        return client

    yield open
    api.clear_hooks()
    api.clear_providers()


def test_users_get_what_the_rule_says(following, opened, rollouts):
    flags = opened(following())
    expected = FlagRule("checkout-v2", True, 50.0)

    for n in range(200):
        details = flags.get_boolean_details("checkout-v2", False, EvaluationContext(targeting_key=f"user-{n}"))
        variant, reason = variant_of(expected, f"user-{n}", {})
        assert (details.variant, str(details.reason), details.value) == (variant, reason, variant == "on")


def test_a_rollback_reaches_the_code(following, opened, rollouts):
    rollouts.set("checkout-v2", percent=100.0)
    flags = opened(following())
    eventually(lambda: flags.get_boolean_value("checkout-v2", False, ANN), "it is on")

    rollouts.set("checkout-v2", enabled=False)

    eventually(lambda: not flags.get_boolean_value("checkout-v2", True, ANN), "it is off")
    assert str(flags.get_boolean_details("checkout-v2", True, ANN).reason) == "DISABLED"


def test_the_application_is_told_of_changes(following, opened, rollouts):
    flags = opened(following())
    told: list[Any] = []
    flags.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, told.append)

    rollouts.set("another")

    eventually(lambda: told, "it is told")
    assert set(told[0].flags_changed) == {"checkout-v2", "another"}


@pytest.mark.parametrize(
    ("key", "context", "code"),
    [
        ("unknown", ANN, ErrorCode.FLAG_NOT_FOUND),
        ("checkout-v2", None, ErrorCode.TARGETING_KEY_MISSING),
        ("checkout-v2", EvaluationContext(attributes={"plan": "free"}), ErrorCode.TARGETING_KEY_MISSING),
        ("text", ANN, ErrorCode.TYPE_MISMATCH),
    ],
)
def test_what_cannot_be_evaluated_is_the_codes_default(following, opened, rollouts, key, context, code):
    rollouts.set("text", percent=100.0, variants={"on": "new", "off": "old"})
    monitor = following()
    flags = opened(monitor)
    eventually(lambda: "text" in monitor.flags.follower.rules, "both are known")

    for default in (False, True):
        details = flags.get_boolean_details(key, default, context)
        assert (details.value, details.error_code, str(details.reason)) == (default, code, "ERROR")


def test_values_of_any_type_can_be_rolled_out(following, opened, rollouts):
    for key, value in {"text": "new", "whole": 3, "broken": 0.5, "table": {"limit": 3}}.items():
        rollouts.set(key, percent=100.0, variants={"on": value, "off": None})
    monitor = following()
    flags = opened(monitor)
    eventually(lambda: len(monitor.flags.follower.rules) == 5, "all are known")

    assert flags.get_string_value("text", "old", ANN) == "new"
    assert flags.get_integer_value("whole", 1, ANN) == 3
    assert flags.get_float_value("broken", 0.1, ANN) == 0.5
    assert flags.get_object_value("table", {}, ANN) == {"limit": 3}


def test_an_outage_changes_no_answer(make_monitor, opened):
    rollouts, users = Rollouts(rule("checkout-v2")), [EvaluationContext(targeting_key=f"user-{n}") for n in range(50)]
    with flag_server(rollouts) as url:
        monitor = make_monitor(collector_url=url, collector_token=SEND)
        flags = opened(monitor)
        before = [flags.get_boolean_details("checkout-v2", False, user) for user in users]
    eventually(lambda: monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="failed") >= 3, "the collector is away")

    after = [flags.get_boolean_details("checkout-v2", False, user) for user in users]

    assert after == before
    assert {one.value for one in after} == {True, False}


async def test_on_an_event_loop_the_start_waits_for_nobody(make_monitor, monkeypatch):
    """Earlier SDKs initialise where the provider is set: in an application's start, that is the event loop's thread."""
    monitor = make_monitor(collector_url=f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(monitor.flags.follower, "wait_ready", lambda _: pytest.fail("the loop would stand still"))

    IsolationFlagProvider(monitor.flags).initialize(EvaluationContext())


def test_before_anything_is_known_the_codes_default_is_answered(make_monitor, opened):
    monitor = make_monitor(collector_url=f"http://127.0.0.1:{free_port()}")
    flags = opened(monitor)

    details = flags.get_boolean_details("checkout-v2", True, ANN)

    assert (details.value, details.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)


def test_flags_work_on_while_the_monitor_is_switched_off(following, opened, rollouts):
    """The kill switch ends watching. What users get is no business of it."""
    monitor = following(mode="off")
    flags = opened(monitor)
    rollouts.set("checkout-v2", percent=100.0)

    eventually(lambda: flags.get_boolean_value("checkout-v2", False, ANN), "the change arrives")


async def test_an_evaluation_labels_the_request_that_it_runs_for(following, opened, client, rollouts):
    monitor = following()
    flags = opened(monitor)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = EvaluationContext(targeting_key=scope["path"].strip("/") or None)
        await flags.get_boolean_value_async("checkout-v2", False, user)
        await answer(send)

    calls = client(monitor.instrument(app))
    given = [variant_of(FlagRule("checkout-v2", True, 50.0), f"user-{n}", {})[0] for n in range(20)]
    for n in range(20):
        await calls.get(f"/user-{n}", user=f"user-{n}")
    await calls.get("/", user="nobody")

    assert [requests(monitor, arm) for arm in names.ARMS] == [given.count("on"), given.count("off"), 1]
    assert monitor.registry.value(names.FLAG_EVALUATIONS, rollout="checkout-v2", reason="error") == 1


async def test_another_providers_flags_label_too_by_the_hook_and_its_names_for_variants(monitor, client):
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

    flag = InMemoryFlag("treatment", {"treatment": True, "control": False})
    api.set_provider_and_wait(InMemoryProvider({"theirs": flag}))
    api.add_hooks([ArmHook(monitor.flags, arms={"treatment": "on", "control": "off"})])
    try:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert api.get_client().get_boolean_value("theirs", False)
            await answer(send)

        await client(monitor.instrument(app)).get("/", user="ann")
    finally:
        api.clear_hooks()
        api.clear_providers()

    assert requests(monitor, "on", rollout="theirs") == 1


def test_telemetry_loads_no_openfeature():
    """The SDK is an extra: a service without it must not even notice."""
    code = (
        "import sys; sys.modules['openfeature'] = None\n"
        "import isolation_monitor.telemetry, isolation_monitor.telemetry.flags.flags\n"
        "import isolation_monitor.collector.app\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
