"""What is under way at once takes turns, so that no commit waits for all that came in."""

from __future__ import annotations

import asyncio
import gc
import itertools
from typing import Any

import pytest

from isolation_monitor.collector.evidence.intake import Intake
from isolation_monitor.collector.heap import heap_at_rest

DECODED, WENT_ON = "decoded", "went on"


async def test_what_goes_on_meanwhile_waits_for_one_batch_and_not_for_all() -> None:
    intake, log = Intake(1_000), []

    async def decode() -> None:
        async with intake.turn():
            log.append(DECODED)

    async def commit() -> None:
        for _ in range(16):
            await asyncio.sleep(0)
            log.append(WENT_ON)

    await asyncio.gather(*(decode() for _ in range(8)), commit(), *(decode() for _ in range(8)))

    assert log.count(DECODED) == 16
    meanwhile = log[: len(log) - log[::-1].index(WENT_ON)]
    assert (DECODED, DECODED) not in itertools.pairwise(meanwhile)


async def test_whoever_fails_in_its_turn_or_leaves_before_it_holds_up_nobody() -> None:
    intake = Intake(1_000)
    failing = asyncio.create_task(_turn_of(intake, ValueError("not a batch")))
    leaving, last = (asyncio.create_task(_turn_of(intake)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()

    with pytest.raises(ValueError, match="not a batch"):
        await failing
    await asyncio.wait_for(last, 5)
    await asyncio.wait_for(_turn_of(intake), 5)


async def _turn_of(intake: Intake, error: Exception | None = None) -> None:
    async with intake.turn():
        if error is not None:
            raise error


def test_what_stands_since_the_start_is_set_aside_and_given_back() -> None:
    with heap_at_rest():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


async def test_a_collector_serves_with_its_heap_at_rest(api: Any) -> None:
    assert (await api.get("/readyz")).status_code == 200
    assert gc.get_freeze_count() > 10_000
