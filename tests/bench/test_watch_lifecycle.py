"""The benchmark of start-up and clean-up, in short."""

from __future__ import annotations

import pytest

from bench import watch_lifecycle


async def test_an_application_that_is_ready_costs_nearly_nothing() -> None:
    row = await watch_lifecycle.idle(50)

    assert row.value is not None
    # Of a second, on a machine of any speed.
    assert 0 < row.value < 50_000


@pytest.mark.slow
async def test_the_reference_service_keeps_its_times() -> None:
    rows = await watch_lifecycle.rows(quick=True)

    assert [row.name for row in rows] == ["chat: ready", "chat: ended after SIGTERM", "idle, ready"]
    assert all(row.value is not None for row in rows)
