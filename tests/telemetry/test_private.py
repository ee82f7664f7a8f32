"""Declared private sources: one line tells whose everything is that a function returns."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.errors import SettingsError
from tests.telemetry.conftest import Client, user_of


async def test_a_cache_without_the_user_in_its_key_is_found_at_the_first_wrong_answer(monitor: IsolationMonitor) -> None:
    """Without the declaration such a cache looks like one of public content."""
    app = FastAPI()
    cache: dict[str, str] = {}

    @monitor.private
    async def load(user: str) -> dict[str, str]:
        return {"number": f"{user}-7f3a9c41d2".encode().hex()}

    @app.get("/profile")
    async def profile(request: Request) -> dict[str, str]:
        if "profile" not in cache:
            cache["profile"] = (await load(user_of(request.scope) or ""))["number"]
        return {"number": cache["profile"]}

    client = Client(monitor.instrument(app))
    for user in ("ana", "ben"):
        await client.get("/profile", user=user)

    found = [violation for violation in monitor.violations() if violation.kind == names.FOREIGN_CONTENT]
    assert [violation.grade for violation in found] == ["crossed"]
    assert found[0].offender is not None
    assert found[0].offender.principal == monitor.principals.named("ben").hash


def test_the_result_passes_unchanged_and_outside_of_requests_nothing_is_learned(monitor: IsolationMonitor) -> None:
    kept = object()

    @monitor.private
    def load() -> object:
        """Documented."""
        return kept

    assert load() is kept
    assert load.__doc__ == "Documented."
    assert monitor.detection.foreign_content.ownership.entries == {}


def test_a_generator_cannot_be_declared(monitor: IsolationMonitor) -> None:
    def generate() -> object:
        yield 1

    with pytest.raises(SettingsError, match="returns the private value"):
        monitor.private(generate)


async def test_the_owner_can_be_told_from_the_arguments_so_that_a_request_for_the_wrong_user_is_seen(monitor: IsolationMonitor) -> None:
    """A confused request loads another user's value itself: in its own context, by the wrong id."""
    app = FastAPI()

    @monitor.private(by=lambda user: user)
    def number_of(user: str) -> str:
        return f"{user}-7f3a9c41d2".encode().hex()

    @app.get("/number")
    async def number() -> dict[str, str]:
        return {"number": number_of("ana")}

    client = Client(monitor.instrument(app))
    await client.get("/number", user="ana")
    assert monitor.violations() == []
    await client.get("/number", user="ben")

    assert [(v.kind, v.grade) for v in monitor.violations()] == [(names.FOREIGN_CONTENT, "crossed")]
