"""The collector's background tasks end when they are told to, whatever arrives at that moment."""

from __future__ import annotations

import asyncio

import pytest

from isolation_monitor.collector.background import Nudge, whole
from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.rollouts.announcer import Announcer


@pytest.mark.parametrize("is_told_first", [True, False])
async def test_a_change_that_comes_with_the_end_does_not_swallow_the_end(monkeypatch: pytest.MonkeyPatch, *, is_told_first: bool) -> None:
    async def nothing_to_tell(_self: Announcer) -> None:
        return None

    monkeypatch.setattr(Announcer, "tell", nothing_to_tell)
    for turns in range(8):
        changed = Nudge()
        task = asyncio.create_task(Announcer(None, utc_now, changed, []).run())  # type: ignore[arg-type]  # it reads nothing
        for _ in range(6):
            await asyncio.sleep(0)
        if is_told_first:
            changed.give("chat")
            for _ in range(turns):
                await asyncio.sleep(0)
        task.cancel()
        if not is_told_first:
            changed.give("chat")

        done, _ = await asyncio.wait([task], timeout=10)

        assert done, f"it goes on after {turns} turns of the loop"
        assert task.cancelled()


async def test_work_of_many_steps_is_told_of_the_end_and_waited_for() -> None:
    """Whoever stops the collector does not wait for a long round of expiry, nor is a statement cut off in its middle."""
    has_begun, is_ending, is_whole = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal is_whole
        has_begun.set()
        await is_ending.wait()
        await asyncio.sleep(0)
        is_whole = True

    task = asyncio.create_task(whole(work(), is_ending.set))
    await has_begun.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=10)

    assert done
    assert task.cancelled()
    assert is_whole
