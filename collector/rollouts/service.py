"""Rollouts, told in domain words: watch one, apply a file, take steps, look at them, and say who gets what."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from isolation_monitor.collector.background import Nudge
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.problems import Conflict, NotFound
from isolation_monitor.collector.rollouts.domain import (
    OFF,
    Action,
    Alarm,
    Rollout,
    RolloutEvent,
    RolloutPlan,
    RolloutState,
    StagedRollout,
    StepRefused,
    Who,
    after,
    refuse_apply,
    soak_tick,
    step,
)
from isolation_monitor.collector.rollouts.repository import RolloutRepository
from isolation_monitor.collector.rollouts.spec import RolloutSpec
from isolation_monitor.collector.storage.database import Database

Json = dict[str, Any]  # Any: JSON


class Gate(Protocol):
    """Judges a rollout; the answer is `gate/v1`."""

    async def evaluate(self, name: str, stage: str = "") -> Json: ...


class Overtaken(Conflict):
    """Somebody else changed the rollout first."""


class RolloutService:
    def __init__(self, database: Database, clock: Clock, changed: Nudge | None = None) -> None:
        """`changed` is nudged after each change is on disk."""
        self._database = database
        self._clock = clock
        self._changed = changed

    async def watch(self, plan: RolloutPlan) -> Rollout:
        """Start watching a rollout from now on. Asking again with the same plan changes nothing, not even the start.

        Raises:
            Conflict: the name is taken by a rollout with another plan.
        """
        async with self._database.writing() as connection:
            repository = RolloutRepository(connection)
            await repository.add(plan, self._now())
            rollout = await repository.get(plan.name)
        if rollout is None or rollout.staged is not None or rollout.plan != plan:
            raise Conflict(f"rollout {plan.name!r} exists with another plan: a rollout never changes, start one under a new name")
        return rollout

    async def apply(self, spec: RolloutSpec, who: Who) -> RolloutEvent | None:
        """Store a rollout's file: a new one waits for its start, a known one goes on by the new file. None: it was so already.

        Raises:
            Conflict: the name is taken by a watched rollout, or the change would move users between variants.
        """
        now = self._now()
        async with self._database.writing() as connection:
            repository = RolloutRepository(connection)
            await repository.serialize()
            old = await repository.staged(spec.rollout, lock=True)
            if old is None:
                if await repository.get(spec.rollout) is not None:
                    raise Conflict(f"{spec.rollout} is already watched without a file: choose another name")
                state = RolloutState(
                    spec.rollout, spec.service, "ready", OFF, 0.0, spec.internal_users, spec.holdback_percent, 1, now, who.reason, who.actor
                )  # fmt: skip
                await repository.insert(spec, state, now)
                event = await self._record(repository, "apply", None, state, who)
            elif dict(old.spec.source) == dict(spec.source):
                return None
            else:
                refusal = refuse_apply(old, spec)
                if refusal is not None:
                    raise Conflict(refusal)
                event = await self._replace(repository, old, spec, who, now)
        self._tell(spec.service)
        return event

    async def change(self, name: str, action: Action, who: Who, *, expected_revision: int | None = None) -> bool:
        """Take a step and say whether anything changed.

        The state, the gate's latch and the history are one transaction: a killed collector has done all of it or nothing.

        Raises:
            NotFound: there is none of this name.
            Overtaken: it is not at `expected_revision` any more.
            Conflict: it is only watched, or its state does not allow the step.
        """
        async with self._database.writing() as connection:
            repository = RolloutRepository(connection)
            await repository.serialize()
            old = await self._staged(repository, name, lock=True)
            if expected_revision is not None and old.state.revision != expected_revision:
                raise Overtaken(f"{name} is at revision {old.state.revision}, not {expected_revision}: look at it again")
            try:
                taken = step(old.spec, old.state, action)
            except StepRefused as error:
                raise Conflict(str(error)) from None
            if taken is None:
                return False
            state = after(old.spec, old.state, taken, who, self._now())
            if not await repository.save(old.spec, state, old.state.revision, taken):
                raise Overtaken(f"{name} was changed by somebody else at this moment: look at it again")
            await self._record(repository, action, old.state, state, who)
        self._tell(state.service)
        return True

    async def soak(self, rollout: StagedRollout, verdict: str, monotonic_s: float | None, longest_s: float) -> StagedRollout:
        """Count one look at a running stage and return the rollout with its soak time; see `domain.soak_tick`."""
        now = self._clock()
        async with self._database.writing() as connection:
            repository = RolloutRepository(connection)
            current = await repository.staged(rollout.state.name, lock=True)
            if current is None or current.state.revision != rollout.state.revision:
                return rollout
            wall_s = None if current.soaked_at is None else (now - current.soaked_at).total_seconds()
            soaked_s = current.soaked_s + soak_tick(verdict, monotonic_s, wall_s, longest_s)
            await repository.soak(current.state.name, current.state.revision, soaked_s, now)
            return replace(current, soaked_s=soaked_s, soaked_at=now)

    async def get(self, name: str, services: Collection[str] | None = None) -> Rollout:
        """Return a rollout; only of `services`, where they are given.

        Raises:
            NotFound: there is none of this name.
        """
        async with self._database.reading() as connection:
            rollout = await RolloutRepository(connection).get(name)
        if rollout is None or (services is not None and rollout.plan.service not in services):
            raise NotFound(_missing(name))
        return rollout

    async def staged(self, name: str) -> StagedRollout:
        """Return a rollout with a file.

        Raises:
            NotFound: there is none of this name.
            Conflict: it is only watched.
        """
        async with self._database.reading() as connection:
            return await self._staged(RolloutRepository(connection), name)

    async def all(self, service: str | None = None) -> list[Rollout]:
        async with self._database.reading() as connection:
            return await RolloutRepository(connection).all(service)

    async def live(self) -> list[StagedRollout]:
        """Return the rollouts that harm takes back: running, held, or complete and watched still."""
        now = self._clock()
        async with self._database.reading() as connection:
            serving = await RolloutRepository(connection).of_service(None, serving=True)
        return [rollout for rollout in serving if rollout.is_live(now)]

    async def live_one(self, name: str) -> StagedRollout | None:
        """Return a rollout with a file; None where harm does not take it back. Errors as for `staged`."""
        rollout = await self.staged(name)
        return rollout if rollout.is_live(self._clock()) else None

    async def alarms(self, rollout: StagedRollout) -> list[Alarm]:
        """Return the alerts that ask for a rollback of this rollout's service since it started."""
        async with self._database.reading() as connection:
            return await RolloutRepository(connection).alarms(rollout.state.service, rollout.started_at)

    async def history(self, name: str, limit: int) -> list[RolloutEvent]:
        """Return the newest changes of a rollout, newest first.

        Raises:
            NotFound: there is none of this name.
        """
        async with self._database.reading() as connection:
            repository = RolloutRepository(connection)
            if await repository.get(name) is None:
                raise NotFound(_missing(name))
            return await repository.history(name, limit)

    async def rules(self, service: str | None = None) -> tuple[int, list[Json]]:
        """Return who gets what, as plain values, and the revision of it all: it grows with each change of any rollout."""
        async with self._database.reading() as connection:
            repository = RolloutRepository(connection)
            # The sequence first: a change between both reads is then read once more, never missed.
            revision = await repository.newest_sequence()
            return revision, [_rule(rollout) for rollout in await repository.of_service(service)]

    async def _replace(self, repository: RolloutRepository, old: StagedRollout, spec: RolloutSpec, who: Who, now: datetime) -> RolloutEvent:
        before = old.state
        state = RolloutState(
            before.name, spec.service, before.status, before.stage, before.percent, spec.internal_users, spec.holdback_percent,
            before.revision + 1, now, who.reason, who.actor,
        )  # fmt: skip
        if not await repository.save(spec, state, before.revision):
            raise Overtaken(f"{before.name} was changed by somebody else at this moment: look at it again")
        return await self._record(repository, "apply", before, state, who)

    async def _record(
        self, repository: RolloutRepository, action: Action, old: RolloutState | None, new: RolloutState, who: Who
    ) -> RolloutEvent:
        event = RolloutEvent(
            uuid.uuid4().hex, await repository.next_sequence(), new.name, new.service, new.revision, action,
            "none" if old is None else old.status, new.status, OFF if old is None else old.stage, new.stage,
            who.actor, who.reason, who.decision_id, new.changed_at,
        )  # fmt: skip
        await repository.record(event)
        return event

    async def _staged(self, repository: RolloutRepository, name: str, *, lock: bool = False) -> StagedRollout:
        found = await repository.staged(name, lock=lock)
        if found is None:
            if await repository.get(name) is None:
                raise NotFound(_missing(name))
            raise Conflict(f"{name} is only watched: it has no stages, apply a file under a new name")
        return found

    def _now(self) -> datetime:
        # Records name times in milliseconds: a finer start would put a violation of the same millisecond before it.
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def _tell(self, service: str) -> None:
        if self._changed is not None:
            self._changed.give(service)


def _missing(name: str) -> str:
    return f"there is no rollout {name[:100]!r}: isomon rollout apply FILE, or POST /v1/rollouts to watch one only"


def _rule(rollout: StagedRollout) -> Json:
    state = rollout.state
    internal = state.internal_users
    return {
        "key": state.name,
        "service": state.service,
        "variants": {"on": True, "off": False},
        "enabled": state.serves,
        "percent": state.percent,
        "internal": dict(internal) if isinstance(internal, Mapping) else list(internal),
        "holdback_percent": state.holdback_percent,
        "revision": state.revision,
    }
