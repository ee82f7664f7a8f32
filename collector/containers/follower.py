"""Follows one Docker engine: its events as they come, and a listing of all containers every few seconds.

After each gap (the engine restarted, this collector did, another replica has followed until now) it reads the events that the engine
still remembers, then compares with a listing: see `lives`. What happened is stored before it is counted, so nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.container_metrics import ContainerMetrics, Shown
from isolation_monitor.collector.containers.domain import (
    Command,
    EngineEvent,
    EngineState,
    Happening,
    Rules,
    Tracked,
    VolumeEvent,
    after_use,
    happening_id,
    still_unused,
)
from isolation_monitor.collector.containers.lives import Lives
from isolation_monitor.collector.containers.repository import ContainerRepository, around, explains
from isolation_monitor.collector.containers.storms import UNKNOWN_ACTOR, Storms, who
from isolation_monitor.collector.storage.database import Database, StoreUnavailable

if TYPE_CHECKING:
    # Who follows no engine needs no client for it.
    from isolation_monitor.collector.containers.engine import Engine, EngineInfo

logger = logging.getLogger("isolation_monitor.collector")

_TICK_S: Final = 0.5
_RETRY_S: Final = 1.0
_LEAD_EVERY_S: Final = 5.0
_SAY_AGAIN_S: Final = 600.0
_TOGETHER: Final = 200
"""Events that are stored at a time."""
_REMEMBER_REMOVED: Final = timedelta(minutes=10)
_CATCH_UP_S: Final = 0.5
"""A listing is compared so much later, when the events that came before it have arrived."""


class Follower:
    """One engine's follower; `run` it as a task."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Engine],
        database: Database,
        leads: Callable[[], Coroutine[Any, Any, bool]],
        metrics: ContainerMetrics,
        clock: Clock,
        rules: Rules,
        *,
        interval_s: float = 10.0,
        prefix: str = "",
    ) -> None:
        """`prefix` stands before container names in metrics, where several engines are followed."""
        self._name = name
        self._connect = connect
        self._database = database
        self._leads = leads
        self._metrics = metrics
        self._clock = clock
        self._rules = rules
        self._interval_s = interval_s
        self._prefix = prefix
        self._lives: Lives | None = None
        self._storms = Storms(name, rules.cooldown)
        self._state: EngineState | None = None
        self._unsaved: list[Happening] = []
        self._judged: list[tuple[str, str]] = []
        """What `Lives.judged` has told, and nobody has counted yet."""
        self._ahead = timedelta(0)
        """By how much the engine's clock is ahead of ours."""
        self._images: dict[str, datetime | None] = {}
        self._restarts_shown: dict[str, int] = {}
        self._saved: tuple[EngineState | None, float] = (None, float("-inf"))
        self._complained_s = float("-inf")
        self._lead_checked_s = float("-inf")
        self.rounds = 0
        """Listings that were compared, since the process started."""

    async def run(self) -> None:
        """Follow until cancelled, whenever this replica leads."""
        while True:
            try:
                if not await self._is_leading():
                    self._let_go()
                    await asyncio.sleep(min(self._interval_s, _LEAD_EVERY_S))
                    continue
                # The store first: an engine that answers while nothing can be stored is not being followed.
                lives = await whole(self._remembered())
                async with self._connected() as engine:
                    await self._follow(engine, lives)
            except StoreUnavailable as error:
                # The store has an alert of its own; the engine may be well. What happened is kept, or found by the next listing.
                self._complain(error)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                self._complain(error)
                await whole(self._store_the_last())
                await whole(self._away(error))
                await asyncio.sleep(_RETRY_S)

    async def _is_leading(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._lead_checked_s = now
        return await whole(self._leads())

    def _let_go(self) -> None:
        self._lives, self._state = None, None
        self._unsaved.clear()
        self._judged.clear()
        self._storms = Storms(self._name, self._rules.cooldown)
        self._restarts_shown.clear()
        self._metrics.left(self._name)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Engine]:
        engine = self._connect()
        try:
            yield engine
        finally:
            await engine.close()

    async def _follow(self, engine: Engine, lives: Lives) -> None:
        """Catch up, then follow until the engine is away or another replica leads."""
        known, is_first_look = self._state, self._is_first_look
        info = await engine.info()
        self._ahead = info.now - self._clock()
        if known is not None and known.engine_id != info.id:
            # Another engine answers at this address: what is remembered is of the other's containers.
            known = replace(known, engine_id=info.id, events_until=None, unused_volumes={})
        until = known.events_until if known is not None else None
        self._metrics.followed(self._name, is_up=True)
        if until is not None:
            for event in await engine.events(until + timedelta(microseconds=1), info.now):
                if not isinstance(event, VolumeEvent):
                    self._take(lives, event)
                elif known is not None:
                    known = replace(known, unused_volumes=after_use(known.unused_volumes, event))
        seen = await engine.containers()
        self._unsaved += lives.listing(seen, info.now, is_certain=True)
        if is_first_look:
            # Restarts of before our time are not ours to count.
            self._restarts_shown = {one.id: one.restarts for one in lives.present}
        caught_up = max(info.now, until) if until is not None else info.now
        self._found_again(known, info, caught_up)
        self._show(lives)
        await whole(self._save(lives))
        await self._stream(engine, lives, caught_up)

    @property
    def _is_first_look(self) -> bool:
        return self._state is None or self._state.events_until is None

    async def _remembered(self) -> Lives:
        if self._lives is None:
            async with self._database.reading() as connection:
                repository = ContainerRepository(connection)
                self._state = next((one for one in await repository.engines() if one.name == self._name), None)
                removed_since = self._clock() - _REMEMBER_REMOVED
                tracked = [one for _, one in await repository.tracked(self._name, removed_since)]
            self._lives = Lives(self._name, self._rules, tracked, is_first_look=self._is_first_look)
            self._restarts_shown = {one.id: one.restarts for one in tracked}
        return self._lives

    def _found_again(self, known: EngineState | None, info: EngineInfo, until: datetime) -> None:
        now = self._clock()
        was_down = known is not None and not known.is_up
        if was_down and known is not None:
            detail = {"to": "up", "down_s": round((now - known.since).total_seconds(), 1)}
            self._unsaved.append(_engine_event(self._name, info.now, detail))
        since = known.since if known is not None and known.is_up else now
        volumes = known.dangling_volumes if known is not None else None
        unused = known.unused_volumes if known is not None else {}
        self._state = EngineState(self._name, info.id, True, since, now, until, info.version, "", volumes, unused)

    async def _stream(self, engine: Engine, lives: Lives, since: datetime) -> None:
        queue: asyncio.Queue[EngineEvent | VolumeEvent | BaseException] = asyncio.Queue()
        reading = asyncio.create_task(_read(engine.stream(since + timedelta(microseconds=1)), queue))
        measuring: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        try:
            while True:
                await self._drain(engine, lives, queue, _TICK_S)
                self._storms_over(await whole(self._actors()))
                if loop.time() >= due_s:
                    due_s = loop.time() + self._interval_s
                    at = self._clock() + self._ahead
                    seen = await engine.containers()
                    await self._drain(engine, lives, queue, _CATCH_UP_S)
                    self._unsaved += lives.listing(seen, at, is_certain=False)
                    await self._look_around(engine, lives)
                    if measuring is None or measuring.done():
                        measuring = asyncio.create_task(self._measure(engine, lives))
                    self.rounds += 1
                if queue.empty():
                    # What waits may be the removal that a kill was a part of.
                    self._judged += lives.judged(self._clock() + self._ahead)
                    self._unsaved += lives.told_late
                    lives.told_late.clear()
                self._show(lives)
                await whole(self._save(lives))
                if loop.time() - self._lead_checked_s > _LEAD_EVERY_S and not await self._is_leading():
                    return
        finally:
            for task in filter(None, (reading, measuring)):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _drain(
        self, engine: Engine, lives: Lives, queue: asyncio.Queue[EngineEvent | VolumeEvent | BaseException], within_s: float
    ) -> None:
        """Take what has come, waiting at most `within_s` for the first."""
        try:
            async with asyncio.timeout(within_s):
                told = await queue.get()
        except TimeoutError:
            return
        started = set()
        for _ in range(_TOGETHER):
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, VolumeEvent):
                self._volume_used(told)
            else:
                self._take(lives, told)
                if told.action in ("create", "start"):
                    started.add(told.container_id)
            if queue.empty():
                break
            told = queue.get_nowait()
        for container_id in started:
            # Now, while it is there: its policy, limit and stop signal are in no event.
            if (seen := await engine.look(container_id)) is not None:
                lives.describe(seen)

    def _take(self, lives: Lives, event: EngineEvent) -> None:
        self._unsaved += lives.event(event)
        if self._state is not None and (self._state.events_until is None or event.at > self._state.events_until):
            self._state = replace(self._state, events_until=event.at)
        self._storms.add(lives.commands)
        lives.commands.clear()

    def _volume_used(self, event: VolumeEvent) -> None:
        if self._state is not None:
            self._state = replace(self._state, unused_volumes=after_use(self._state.unused_volumes, event))

    async def _actors(self) -> Callable[[Command], str]:
        oldest = self._storms.oldest
        if oldest is None:
            return lambda _command: UNKNOWN_ACTOR
        async with self._database.reading() as connection:
            actions = await ContainerRepository(connection).actions(*around([oldest, self._clock() + self._ahead]))

        def actor_of(command: Command) -> str:
            action = who(actions, command.container_id, command.container, command.at)
            return UNKNOWN_ACTOR if action is None else action.actor

        return actor_of

    def _storms_over(self, actor_of: Callable[[Command], str]) -> None:
        self._unsaved += self._storms.due(self._clock() + self._ahead, actor_of)

    async def _look_around(self, engine: Engine, lives: Lives) -> None:
        volumes = await engine.dangling_volumes()
        wanted = {one.image_id for one in lives.present if one.image_id}
        self._images = {image: self._images[image] for image in wanted if image in self._images}
        for image in wanted - self._images.keys():
            self._images[image] = await engine.image_created(image)
        for one in lives.present:
            created = self._images.get(one.image_id)
            if created != one.image_created_at:
                one.image_created_at = created
                lives.changed.add(one.id)
        if self._state is not None:
            unused = still_unused(volumes, self._state.unused_volumes, self._clock() + self._ahead, self._rules)
            self._state = replace(self._state, seen_at=self._clock(), dangling_volumes=len(volumes), unused_volumes=unused)

    async def _measure(self, engine: Engine, lives: Lives) -> None:
        """Ask each running container what it uses; the engine takes a second or two for it, which events do not wait for."""

        async def one_of(one: Tracked) -> None:
            usage = await engine.usage(one.id)
            if usage is not None and one.is_open:
                one.memory_bytes, one.cpu_seconds = usage.memory_bytes, usage.cpu_seconds
                lives.changed.add(one.id)

        await asyncio.gather(*(one_of(one) for one in lives.present if one.is_open), return_exceptions=True)

    async def _save(self, lives: Lives) -> None:
        """Store what changed, then count what is new.

        Raises:
            StoreUnavailable: nothing was stored; it is all kept for the next time.
        """
        changed, happened, judged, state = set(lives.changed), list(self._unsaved), list(self._judged), self._state
        saved, saved_s = self._saved
        now, now_s = self._clock(), asyncio.get_running_loop().time()
        if not changed and not happened and not judged and (state == saved or now_s - saved_s < _LEAD_EVERY_S):
            return
        explained, hosts = await self._explained(happened)
        async with self._database.writing() as connection:
            repository = ContainerRepository(connection)
            if state is not None:
                await repository.save_engine(state)
            await repository.save_containers(self._name, [lives.tracked[one] for one in changed if one in lives.tracked], now)
            new = await repository.add_events(explained, hosts, now) if explained else set()
        self._saved = (state, now_s)
        lives.changed -= changed
        del self._unsaved[: len(happened)]
        del self._judged[: len(judged)]
        for container, what in judged:
            if what == "kill":
                self._metrics.killed(self._prefix + container)
            else:
                self._metrics.survived_oom(self._prefix + container)
        self._count(lives, [one for one in explained if one.id in new])
        gone = now + self._ahead - _REMEMBER_REMOVED
        for container_id in [one.id for one in lives.tracked.values() if one.removed_at is not None and one.removed_at < gone]:
            del lives.tracked[container_id]
            self._restarts_shown.pop(container_id, None)

    async def _explained(self, happened: list[Happening]) -> tuple[list[Happening], list[str | None]]:
        """Write to what happened who did it, where somebody told."""
        done_by_somebody = [one.time for one in happened if explains(one.kind)]
        if not done_by_somebody:
            return happened, [None] * len(happened)
        async with self._database.reading() as connection:
            actions = await ContainerRepository(connection).actions(*around(done_by_somebody))
        explained, hosts = [], []
        for one in happened:
            action = who(actions, one.container_id, one.container, one.time) if explains(one.kind) and one.actor is None else None
            explained.append(one if action is None else replace(one, actor=action.actor))
            hosts.append(None if action is None else action.host)
        return explained, hosts

    def _count(self, lives: Lives, new: list[Happening]) -> None:
        for one in new:
            match one.kind:
                case "death":
                    self._metrics.exited(self._prefix + (one.container or ""), one.reason or "unknown")
                case "removal":
                    self._metrics.removed(str(one.detail["mode"]))
                case "command_storm":
                    self._metrics.stormed()
                case "stop_sigkill":
                    self._metrics.stop_needed_sigkill()
        for tracked in lives.tracked.values():
            before = self._restarts_shown.get(tracked.id, 0)
            if tracked.restarts > before:
                self._metrics.restarted(self._prefix + tracked.name, tracked.restarts - before)
            self._restarts_shown[tracked.id] = tracked.restarts

    def _show(self, lives: Lives) -> None:
        now = self._clock() + self._ahead
        present = lives.present
        volumes = self._state.dangling_volumes if self._state is not None else None
        orphaned = self._state.orphan_volumes(now, self._rules) if self._state is not None else []
        self._metrics.show(
            self._name,
            (
                Shown(
                    self._prefix + one.name, one.status, one.shown_health,
                    one.image_created_at.timestamp() if one.image_created_at is not None else None,
                    one.memory_bytes if one.is_open else None, one.memory_limit, one.cpu_seconds if one.is_open else None,
                    one.cpu_limit,
                )
                for one in present
            ),
            orphans=sum(one.is_orphan(now, self._rules) for one in present),
            expired=sum(one.is_expired(now) for one in present),
            dangling_volumes=volumes,
            orphan_volumes=None if volumes is None else len(orphaned),
        )  # fmt: skip

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            expected = isinstance(error, StoreUnavailable) or type(error).__name__ == "EngineAway"
            text = "containers of the Docker engine %r are not followed: %s"
            logger.warning(text, self._name, error, exc_info=None if expected else error)

    async def _store_the_last(self) -> None:
        """Store what came together with the end of the stream: an engine's last events are the deaths that it causes.

        Until the engine is back nobody would be told of them, and a collector that ends meanwhile would lose them.
        """
        if self._lives is None:
            return
        try:
            await self._save(self._lives)
        except Exception as error:
            # It stays in memory; the follower must go on whatever the store says.
            self._complain(error)

    async def _away(self, error: Exception) -> None:
        """The engine is away: show it, and write it down once."""
        self._metrics.followed(self._name, is_up=False)
        now, known, text = self._clock(), self._state, f"{error}"[:500]
        if known is not None and not known.is_up:
            return
        down = EngineState(self._name, "", False, now, now) if known is None else known
        down = replace(down, is_up=False, since=now, error=text)
        happened = _engine_event(self._name, now + self._ahead, {"to": "down", "error": text})
        try:
            async with self._database.writing() as connection:
                repository = ContainerRepository(connection)
                await repository.save_engine(down)
                await repository.add_events([happened], [None], now)
        except StoreUnavailable:
            # It is written down at the next try.
            return
        self._state = down


def _engine_event(engine: str, at: datetime, detail: dict[str, Any]) -> Happening:  # Any: JSON
    return Happening(happening_id(engine, "engine", detail["to"], at.isoformat()), engine, at, "engine", detail=detail)


async def _read(events: AsyncIterator[EngineEvent | VolumeEvent], queue: asyncio.Queue[EngineEvent | VolumeEvent | BaseException]) -> None:
    """Put events into the queue, and what ended them."""
    try:
        async for event in events:
            queue.put_nowait(event)
    except Exception as error:
        queue.put_nowait(error)
