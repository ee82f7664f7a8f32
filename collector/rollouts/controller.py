"""The one who acts: looks at every live rollout and takes it back, advances it or leaves it as it is.

It looks in rounds, and at once when records or alerts of a service arrived. A nudge only says "look": what it acts on is
in the store, so that nothing is lost when the process is killed between hearing and acting. Each replica has one; the
revision that a decision was made for must still be there when the change is written, so two never both act.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from isolation_monitor.collector.background import Nudge, whole
from isolation_monitor.collector.problems import NotFound, Problem
from isolation_monitor.collector.rollouts.domain import CONTROLLER, Move, StagedRollout, Who, alarm_against, next_move
from isolation_monitor.collector.rollouts.service import Gate, Overtaken, RolloutService
from isolation_monitor.collector.storage.database import StoreUnavailable

logger = logging.getLogger("isolation_monitor.collector")

_TRIES = 5
"""Each lost race means that somebody else changed the rollout; more in a row than this is left to the next round."""
_RETRY_S = 0.5
_REST_S = 0.2
_LONGEST_TICKS = 3
"""One look may add this many rounds to a soak time: more means that nobody looked in between."""
_COMPLAIN_EVERY_S = 60.0


class RolloutController:
    def __init__(
        self, service: RolloutService, gate: Gate, nudge: Nudge, interval_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`nudge` names services of which records or alerts arrived. `monotonic` never jumps: soak times rest on it."""
        self._service = service
        self._gate = gate
        self._nudge = nudge
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._looked: dict[tuple[str, int], float] = {}
        self._complained_at = float("-inf")
        self.rounds = 0
        """Rounds that came to their end, since the process started."""

    async def run(self) -> None:
        """Look until cancelled. Rounds and nudges are apart: a slow round never holds up a record."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds())
            group.create_task(self._nudges())

    async def _rounds(self) -> None:
        while True:
            await whole(self.look())
            self.rounds += 1
            await asyncio.sleep(self._interval_s)

    async def _nudges(self) -> None:
        while True:
            services = await self._nudge.taken()
            if await whole(self.look(services)):
                # A storm of records that are no harm after all is not a storm of evaluations, each of which is kept.
                await asyncio.sleep(_REST_S)
                continue
            # The store was away: what was told must not wait for the next round.
            await asyncio.sleep(_RETRY_S)
            for service in services:
                self._nudge.give(service)

    async def look(self, services: set[str] | None = None) -> bool:
        """Look once at the live rollouts, of these services or of all; False when something kept it from looking."""
        try:
            live = await self._service.live()
        except Exception as error:
            self._complain(error)
            return False
        if services is None:
            known = {(rollout.state.name, rollout.state.revision) for rollout in live}
            self._looked = {key: at for key, at in self._looked.items() if key in known}
        chosen = [rollout for rollout in live if services is None or rollout.state.service in services]
        # A round counts soak time; a nudge only looks for harm, so that a storm of records is no storm of ticks.
        return all(await asyncio.gather(*(self._look_at(rollout, counts=services is None) for rollout in chosen)))

    async def _look_at(self, rollout: StagedRollout, *, counts: bool) -> bool:
        try:
            await self._act(rollout, counts=counts)
        except NotFound:
            return True
        except Exception as error:
            # Whatever it is, the next round tries again and the other rollouts are looked at.
            self._complain(error)
            return False
        return True

    async def _act(self, rollout: StagedRollout, *, counts: bool) -> None:
        name = rollout.state.name
        for _ in range(_TRIES):
            move = await self._judge(rollout, counts=counts)
            if move is None:
                return
            who = Who(CONTROLLER, move.reason, move.decision_id)
            try:
                changed = await self._service.change(name, move.action, who, expected_revision=rollout.state.revision)
            except Overtaken:
                now_live = await self._service.live_one(name)
                if now_live is None:
                    return
                rollout = now_live
                continue
            if changed:
                logger.warning("rollout %s: %s (%s)", name, move.action, move.reason)
            return

    async def _judge(self, rollout: StagedRollout, *, counts: bool) -> Move | None:
        state = rollout.state
        alarm = alarm_against(rollout, await self._service.alarms(rollout))
        if alarm is not None:
            # Prometheus has judged already: the gate would ask it again, and might not reach it.
            return alarm
        answer = await self._gate.evaluate(state.name, state.stage)
        if counts and state.status == "running":
            now, key = self._monotonic(), (state.name, state.revision)
            last = self._looked.get(key)
            self._looked[key] = now
            since = None if last is None else now - last
            rollout = await self._service.soak(rollout, str(answer.get("verdict")), since, _LONGEST_TICKS * self._interval_s)
        return next_move(rollout, answer)

    def _complain(self, error: Exception) -> None:
        now = self._monotonic()
        if now - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = now
            expected = isinstance(error, (StoreUnavailable, Problem))
            logger.warning("rollouts could not be looked at: %s", error, exc_info=None if expected else error)
