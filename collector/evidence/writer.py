"""The one writer of records in a process: what arrives while a commit runs goes into the next one, together.

A commit costs the same for one request as for fifty, so that records a second grow with the load while the wait stays
that of two commits. Each request is answered after the commit that holds its records, and its records are kept also when
its sender has gone meanwhile.

A group that the database refuses for good is taken apart until the records are found that it does not take: they are
named to their sender, everything else is stored. What may go well later fails the whole group, which is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from isolation_monitor.collector.evidence.domain import Batch, Rejection, Stored
from isolation_monitor.collector.evidence.intake import Held, Intake
from isolation_monitor.collector.evidence.repository import EvidenceRepository
from isolation_monitor.collector.evidence.rows import Delivery, delivery
from isolation_monitor.collector.new_violations import Pages
from isolation_monitor.collector.problems import Unavailable
from isolation_monitor.collector.storage.database import Database, RefusedByStore, StoreUnavailable

logger = logging.getLogger("isolation_monitor.collector")

GROUP_RECORDS: Final = 2_000
"""A group is closed at so many records, so that nobody waits long for the batches of others."""
_TRIES: Final = 5
"""Of a group that met another transaction in a deadlock, before its senders are asked to come again."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    delivery: Delivery
    bytes: int
    stored: asyncio.Future[Stored]


class RecordWriter:
    """Built once for a process. `start()` it in its event loop, `await close()` it."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        on_harm: Callable[[str], None],
        pages: Pages | None = None,
    ) -> None:
        """`on_harm` is told the service of each stored delivery that may be harm; it must neither wait nor fail.

        What is new to page for is kept until `pages` has told it; without them nobody is paged.
        """
        self._database = database
        self._intake = intake
        self._on_harm = on_harm
        self._pages = pages
        self._queue: deque[_Waiting] = deque()
        self._given = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def take(self, batches: Sequence[Batch], held: Held, received_at: datetime) -> Stored:
        """Store the batches of one request. When this returns, all of them are on disk.

        Raises:
            StoreUnavailable, Unavailable: nothing of it was stored.
        """
        made = delivery(batches, received_at, self._database.dialect)
        return await self.keep(made, held) if len(made) else Stored(0, 0)

    async def keep(self, what: Delivery, held: Held) -> Stored:
        """Store a delivery. When this returns, all of it is on disk; what was `held` is given back then.

        Raises:
            StoreUnavailable: nothing of it was stored.
            Unavailable: the collector is ending.
        """
        if self._task is None or self._is_closing:
            raise Unavailable("the collector is not taking records now; nothing was stored, send it again")
        waiting = _Waiting(what, held.pass_on(), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._given.set()
        # A sender that hangs up ends its request; its records go the same way as all others.
        return await asyncio.shield(waiting.stored)

    async def close(self) -> None:
        """Store what was given, then end."""
        self._is_closing = True
        self._given.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._queue or not self._is_closing:
            await self._given.wait()
            if not self._queue:
                self._given.clear()
                if self._is_closing:
                    return
                continue
            group = self._next_group()
            try:
                await self._keep(group)
            finally:
                for one in group:
                    self._intake.give_back(one.bytes)

    def _next_group(self) -> list[_Waiting]:
        group = [self._queue.popleft()]
        records = len(group[0].delivery)
        while self._queue and records + len(self._queue[0].delivery) <= GROUP_RECORDS:
            group.append(self._queue.popleft())
            records += len(group[-1].delivery)
        return group

    async def _keep(self, group: Sequence[_Waiting]) -> None:
        """Store a group and answer for it. Never raises: a writer that ended would leave every sender without an answer."""
        try:
            stored = await self._store([one.delivery for one in group])
        except StoreUnavailable as error:
            # Whoever waits behind a store that is away hears it now, not after as long a wait of its own.
            for one in (*group, *self._drained()):
                _fail(one, error)
        except Exception as error:
            # One of them is to blame. The others must not pay for it.
            if len(group) > 1:
                for one in group:
                    await self._keep([one])
            elif isinstance(error, RefusedByStore):
                await self._keep_apart(group[0], error)
            else:
                _fail(group[0], error)
        else:
            for one, numbers in zip(group, stored, strict=True):
                self._answer(one, numbers)

    async def _keep_apart(self, one: _Waiting, error: RefusedByStore) -> None:
        """Store what the database takes of a delivery, and name the rest."""
        try:
            numbers = await self._taken_of(one.delivery, error)
        except Exception as failure:
            _fail(one, failure)
        else:
            self._answer(one, numbers)

    async def _taken_of(self, delivery: Delivery, error: RefusedByStore) -> Stored:
        if len(delivery) <= 1:
            logger.warning("a record was rejected: %s", error)
            return Stored(0, 0, (Rejection(delivery.any_place(), f"cannot be stored: {error}"),))
        parts = []
        for half in delivery.halves():
            try:
                parts += await self._store([half])
            except RefusedByStore as again:
                parts.append(await self._taken_of(half, again))
        return Stored(
            sum(p.accepted for p in parts),
            sum(p.duplicate for p in parts),
            tuple(r for p in parts for r in p.refused),
        )

    async def _store(self, deliveries: Sequence[Delivery]) -> list[Stored]:
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._database.writing() as connection:
                    stored, violated = await EvidenceRepository(connection).store(deliveries, self._pages)
            except StoreUnavailable as error:
                if not error.was_deadlock or not tries_left:
                    raise
            else:
                if violated and self._pages is not None:
                    self._pages.give(violated)
                return stored
        raise AssertionError("unreachable")

    def _answer(self, one: _Waiting, stored: Stored) -> None:
        for service in one.delivery.harmed:
            self._on_harm(service)
        if not one.stored.done():
            one.stored.set_result(stored)

    def _drained(self) -> list[_Waiting]:
        waiting = list(self._queue)
        self._queue.clear()
        for one in waiting:
            self._intake.give_back(one.bytes)
        return waiting


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.stored.done():
        one.stored.set_exception(error)
        # Whoever hung up takes no exception; the loop would complain that nobody did.
        one.stored.exception()
