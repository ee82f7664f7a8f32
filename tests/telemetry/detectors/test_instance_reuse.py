"""Declared factories: the same object for two users is a violation with both stacks; fresh ones are proven fresh."""

from __future__ import annotations

import json
from typing import Any

import pytest


class Agent:
    def __init__(self, user: str = "") -> None:
        self.user = user


class Slotted:
    __slots__ = ()


def service(make: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        agent = make()
        agent = await agent if hasattr(agent, "__await__") else agent
        body = json.dumps({"class": type(agent).__name__}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize("kind", [Agent, Slotted])
async def test_one_instance_for_two_users_is_found_with_both_stacks(monitor, client, samples, kind) -> None:
    cached = kind()

    @monitor.factory("agent", scope="request")
    def create_agent() -> Any:
        return cached

    calls = client(monitor.instrument(service(create_agent)))
    await calls.get("/", user="ann")
    await calls.get("/", user="bob")

    [violation] = monitor.violations()
    assert (violation.kind, violation.grade) == ("instance_reuse", "reachable")
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert violation.offender.principal == monitor.principals.named("bob").hash
    assert "test_instance_reuse.py" in violation.victim.stack[-1]
    assert "test_instance_reuse.py" in violation.offender.stack[-1]
    assert samples(monitor, "isolation_instance_shared_total", component="agent") == 1


async def test_fresh_instances_are_counted_and_silent(monitor, client, samples) -> None:
    @monitor.factory("agent")
    async def create_agent() -> Agent:
        return Agent()

    calls = client(monitor.instrument(service(create_agent)))
    for n in range(50):
        await calls.get("/", user=f"user-{n % 7}")

    assert monitor.violations() == []
    assert samples(monitor, "isolation_checks_total", detector="instance_reuse", result="pass") == 50
    assert samples(monitor, "isolation_instance_create_duration_seconds_count", component="agent") == 50


async def test_one_instance_for_two_requests_of_one_user_is_hygiene_and_leaves_the_score_alone(monitor, client, samples) -> None:
    cached = Agent()
    calls = client(monitor.instrument(service(monitor.factory("agent")(lambda: cached))))

    await calls.get("/", user="ann")
    await calls.get("/", user="ann")

    assert [v.grade for v in monitor.violations()] == ["hygiene"]
    assert samples(monitor, "isolation_requests_total", verdict="violated") == 0


async def test_scope_user_allows_one_users_requests_to_share(monitor, client) -> None:
    cached = Agent()
    calls = client(monitor.instrument(service(monitor.factory("agent", scope="user")(lambda: cached))))

    await calls.get("/", user="ann")
    await calls.get("/", user="ann")
    assert monitor.violations() == []

    await calls.get("/", user="bob")
    assert [v.grade for v in monitor.violations()] == ["reachable"]


async def test_a_singleton_class_is_found_and_stays_itself(monitor, client) -> None:
    class Single:
        made: Any = None

        def __new__(cls) -> Any:
            cls.made = cls.made or super().__new__(cls)
            return cls.made

    declared = monitor.factory("single")(Single)
    assert declared is Single

    calls = client(monitor.instrument(service(Single)))
    await calls.get("/", user="ann")
    await calls.get("/", user="bob")

    assert [v.kind for v in monitor.violations()] == ["instance_reuse"]
    monitor.uninstrument()
    assert "__init__" not in vars(Single)


def test_generator_factories_hand_exceptions_to_the_hosts_own_generator(monitor) -> None:
    """FastAPI throws the endpoint's exception into a dependency; the dependency's own handling must run."""
    seen: list[str] = []

    @monitor.factory("session")
    def make() -> Any:
        try:
            yield Agent()
        except ValueError as error:
            seen.append(str(error))
            raise
        finally:
            seen.append("closed")

    generator = make()
    next(generator)
    with pytest.raises(ValueError, match="boom"):
        generator.throw(ValueError("boom"))

    assert seen == ["boom", "closed"]


async def test_async_generator_factories_do_the_same(monitor) -> None:
    seen: list[str] = []

    @monitor.factory("session")
    async def make() -> Any:
        try:
            yield Agent()
        except ValueError as error:
            seen.append(str(error))
            raise
        finally:
            seen.append("closed")

    generator = make()
    await generator.__anext__()
    with pytest.raises(ValueError, match="boom"):
        await generator.athrow(ValueError("boom"))

    assert seen == ["boom", "closed"]


async def test_a_factorys_own_exception_passes_unchanged(monitor) -> None:
    error = RuntimeError("no model")

    @monitor.factory("agent")
    def create() -> Agent:
        raise error

    with pytest.raises(RuntimeError) as caught:
        create()

    assert caught.value is error


async def test_slow_creation_is_reported_when_it_is_the_rule_and_not_once(make_monitor, client, samples) -> None:
    from isolation_monitor.telemetry.detectors.slow_creation import SlowCreation

    monitor = make_monitor()
    slow = SlowCreation(monitor.ledger, budget_ms=10)

    for duration in [0.001] * 8 + [0.2] + [0.001] * 8:
        slow.created("agent", duration, None)
    assert monitor.violations() == []

    for _ in range(5):
        slow.created("agent", 0.04, None)
    assert [v.kind for v in monitor.violations()] == ["slow_creation"]


async def test_the_reset_method_is_timed(monitor, samples) -> None:
    class Pooled:
        def reset(self) -> str:
            return "clean"

    @monitor.factory("pooled", scope="process", reset="reset")
    def make() -> Pooled:
        return Pooled()

    assert make().reset() == "clean"
    assert samples(monitor, "isolation_instance_reset_duration_seconds_count", component="pooled") == 1
