"""Tells listeners of each change of a rollout, at least once, in order, and never in the way of the change itself.

What is still untold stands in the history, so a restart tells it. Replicas claim an event before they tell it; when one
dies while telling, another does it once more after the claim has run out. Listeners know an event by its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from isolation_monitor.collector.background import Nudge, whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.rollouts.domain import RolloutEvent
from isolation_monitor.collector.rollouts.repository import RolloutRepository
from isolation_monitor.collector.storage.database import Database

logger = logging.getLogger("isolation_monitor.collector")

Listener = Callable[[RolloutEvent], Awaitable[None]]

_BATCH = 100
_LEASE_S = 30.0
_LISTENER_TIMEOUT_S = 10.0
_INTERVAL_S = 5.0


class Announcer:
    def __init__(self, database: Database, clock: Clock, changed: Nudge, listeners: Sequence[Listener]) -> None:
        """`listeners` may still grow after this; `changed` is nudged when there is something to tell."""
        self._database = database
        self._clock = clock
        self._changed = changed
        self._listeners = listeners

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                await whole(self.tell())
            except Exception as error:
                # The store is away, or a defect: nothing is lost, it stands in the history.
                logger.debug("changes of rollouts were not announced: %s", error)
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with a change, and nothing ends.
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._changed.taken()

    async def tell(self) -> None:
        """Tell of every change that nobody was told about yet."""
        async with self._database.reading() as connection:
            waiting = await RolloutRepository(connection).unannounced(self._clock(), _BATCH)
        for event in waiting:
            async with self._database.writing() as connection:
                claimed = await RolloutRepository(connection).claim(event.id, self._clock(), _LEASE_S)
            if not claimed:
                continue
            told = await asyncio.gather(*(self._told(listener, event) for listener in list(self._listeners)))
            if all(told):
                async with self._database.writing() as connection:
                    await RolloutRepository(connection).announced(event.id, self._clock())

    async def _told(self, listener: Listener, event: RolloutEvent) -> bool:
        try:
            async with asyncio.timeout(_LISTENER_TIMEOUT_S):
                await listener(event)
        except Exception as error:
            logger.warning("a listener was not told that rollout %s is %s: %r", event.rollout, event.to_status, error)
            return False
        return True
