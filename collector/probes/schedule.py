"""When each probe is checked: by one replica, each at its own interval, spread out, and only so many at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from isolation_monitor.collector.background import whole
from isolation_monitor.collector.probes.domain import Probe, Result, State
from isolation_monitor.collector.probes.prober import Prober
from isolation_monitor.collector.probes.service import ProbeService
from isolation_monitor.collector.probes.watched_file import WatchedFile

logger = logging.getLogger("isolation_monitor.collector")

ASK_LEADER_S: Final = 5.0
JITTER: Final = 0.1
"""Share of the interval by which a check comes earlier or later: probes of one interval drift apart."""
SPREAD_S: Final = 10.0
"""The first checks after a start are spread over so much, or an interval where that is shorter."""
CONFIRM_AFTER_S: Final = 5.0
CONFIRMATIONS: Final = 3
"""So many checks after a failure come sooner: what failed once is known within seconds to have failed, or not."""


class ProbeSchedule:
    """Checks while this replica leads; `await run()` until cancelled."""

    def __init__(
        self,
        service: ProbeService,
        prober: Prober,
        leads: Callable[[], Awaitable[bool]],
        at_once: int,
        file: WatchedFile | None,
        random_: random.Random | None = None,
    ) -> None:
        self._file = file
        self._service = service
        self._prober = prober
        self._leads = leads
        self._room = asyncio.Semaphore(at_once)
        self._random = random_ or random.Random()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        try:
            while self._file is not None:
                try:
                    await self._read_again(self._file)
                    await self._look()
                except Exception as error:
                    logger.warning("probes wait: %s", error)
                await asyncio.sleep(ASK_LEADER_S)
        finally:
            await self._stop()
            await self._prober.close()

    async def _read_again(self, file: WatchedFile) -> None:
        asked = await file.changed()
        self._service.file_problem(file.problem)
        if asked is not None:
            await self._stop()
            await self._prober.use(asked.blackbox_url)
            self._service.replace(asked.probes)

    async def _look(self) -> None:
        is_leading = await self._leads()
        if is_leading and not self._tasks:
            await whole(self._service.begin())
            self._tasks = [asyncio.create_task(self._look_after(probe)) for probe in self._service.probes.values()]
        elif self._tasks and not is_leading:
            await self._stop()

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._service.end()

    async def _look_after(self, probe: Probe) -> None:
        await asyncio.sleep(self._random.uniform(0, min(SPREAD_S, probe.interval_s)))
        while True:
            async with self._room:
                began = time.monotonic()
                result: Result = await self._prober.check(probe)
            try:
                state = await whole(self._service.took(probe, result))
                pause_s = pause_after(probe, state, self._random.uniform(-JITTER, JITTER))
            except Exception:
                logger.exception("the result of probe %s is lost", probe.name)
                pause_s = probe.interval_s
            await asyncio.sleep(max(0.0, began + pause_s - time.monotonic()))


def pause_after(probe: Probe, state: State, jitter: float) -> float:
    """Return how many seconds lie between the beginning of this check and that of the next one; `jitter` is within ±0.1."""
    if 0 < state.failures <= CONFIRMATIONS:
        return min(probe.interval_s, CONFIRM_AFTER_S)
    return probe.interval_s * (1 + jitter)
