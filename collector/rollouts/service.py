"""Rollouts, told in domain words: start one, look at one."""

from __future__ import annotations

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.problems import Conflict, NotFound
from isolation_monitor.collector.rollouts.domain import Rollout, RolloutPlan
from isolation_monitor.collector.rollouts.repository import RolloutRepository
from isolation_monitor.collector.storage.database import Database


class RolloutService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def start(self, plan: RolloutPlan) -> Rollout:
        """Start watching a rollout from now on. Asking again with the same plan changes nothing, not even the start.

        Raises:
            Conflict: the name is taken by a rollout with another plan.
        """
        async with self._database.writing() as connection:
            repository = RolloutRepository(connection)
            now = self._clock()
            # Records name times in milliseconds: a finer start would put a violation of the same millisecond before it.
            await repository.add(plan, now.replace(microsecond=now.microsecond // 1000 * 1000))
            rollout = await repository.get(plan.name)
        if rollout is None or rollout.plan != plan:
            raise Conflict(f"rollout {plan.name!r} exists with another plan: a rollout never changes, start one under a new name")
        return rollout

    async def get(self, name: str) -> Rollout:
        """Return a rollout.

        Raises:
            NotFound: there is none of this name.
        """
        async with self._database.reading() as connection:
            rollout = await RolloutRepository(connection).get(name)
        if rollout is None:
            raise NotFound(f"there is no rollout {name[:100]!r}: start it with POST /v1/rollouts")
        return rollout
