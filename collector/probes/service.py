"""Probes, told in domain words: keep what came of each check, show it, and say how each endpoint is now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.probe_metrics import ProbeMetrics, ProbeShown
from isolation_monitor.collector.probes import repository
from isolation_monitor.collector.probes.domain import Probe, Result, State, after, word_of
from isolation_monitor.collector.storage.database import Database, RefusedByStore, StoreUnavailable

logger = logging.getLogger("isolation_monitor.collector")


@dataclass(frozen=True, slots=True)
class ProbeNow:
    """A probe of the file, its state, and that in a word: ok, slow, failing, unknown."""

    probe: Probe
    state: State | None
    word: str


class ProbeService:
    def __init__(self, database: Database, metrics: ProbeMetrics, clock: Clock, probes: Sequence[Probe]) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._states: dict[str, State] = {}
        self.probes = {probe.name: probe for probe in probes}
        """Those of the operator's file, by name."""
        self.problem = ""
        """Why the file, as it was changed, is not followed."""

    def replace(self, probes: Sequence[Probe]) -> None:
        """Take what the changed file asks for; call it between `end` and `begin`, or where another replica checks."""
        self.probes = {probe.name: probe for probe in probes}

    def file_problem(self, problem: str) -> None:
        """Note why the changed file cannot be used; empty when it can."""
        self.problem = problem
        self._metrics.file_is_valid = not problem

    async def begin(self) -> None:
        """Take over from whoever checked before: what is fresh of it still holds, what the file names no more is forgotten.

        Raises:
            StoreUnavailable: the store is away.
        """
        async with self._database.writing() as connection:
            await repository.forget_all_but(connection, self.probes)
            self._states = await repository.states(connection)
        now = self._clock()
        for probe in self.probes.values():
            state = self._states.get(probe.name)
            if state is not None and now - state.last.at <= probe.fresh_for:
                self._show(probe, state, (now - state.last.at).total_seconds())

    def end(self) -> None:
        """Another replica checks from now on."""
        self._states.clear()
        self._metrics.clear()

    async def took(self, probe: Probe, result: Result) -> State:
        """Show a result and store it. While the store is away the metrics go on, and the change is stored with the next result."""
        state, is_change = after(self._states.get(probe.name), probe, result)
        self._show(probe, state)
        try:
            async with self._database.writing() as connection:
                await repository.keep(connection, state, is_change=is_change)
        except (StoreUnavailable, RefusedByStore) as error:
            logger.warning("the result of probe %s is not stored: %s", probe.name, error)
            if is_change:
                return state
        self._states[probe.name] = state
        return state

    async def now(self, service: str | None = None) -> list[ProbeNow]:
        """Return every probe of the file, failing ones first.

        Raises:
            StoreUnavailable: the store cannot answer now.
        """
        async with self._database.reading() as connection:
            states = await repository.states(connection)
        moment = self._clock()
        wanted = [probe for probe in self.probes.values() if service in (None, probe.service)]
        found = [ProbeNow(probe, states.get(probe.name), word_of(probe, states.get(probe.name), moment)) for probe in wanted]
        return sorted(found, key=lambda one: (_ORDER.index(one.word), one.probe.name))

    async def changes(self, probe: str, limit: int) -> list[Result]:
        """Return the last changes of one probe, newest first. Raises StoreUnavailable."""
        async with self._database.reading() as connection:
            return await repository.changes(connection, probe, limit)

    def _show(self, probe: Probe, state: State, ago_s: float = 0.0) -> None:
        last, expires = state.last, state.certificate_expires_at
        shown = ProbeShown(
            probe.service, last.is_success, last.duration_s, probe.slow_after_s, last.at.timestamp(), probe.fresh_for.total_seconds(),
            last.status_code, None if expires is None else expires.timestamp(),
        )  # fmt: skip
        self._metrics.checked(probe.name, shown, ago_s)


_ORDER = ("failing", "unknown", "slow", "ok")
