"""Does one check of one probe, by itself or through a blackbox exporter, within its timeout."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.probes.blackbox import Blackbox
from isolation_monitor.collector.probes.connecting import Phases, ProbeFailed, Seen
from isolation_monitor.collector.probes.domain import HttpModule, Probe, Result, TcpModule
from isolation_monitor.collector.probes.http_probe import check_http, warm_up
from isolation_monitor.collector.probes.tcp_probe import check_tcp

logger = logging.getLogger("isolation_monitor.collector")

_OURS: Final = ("prepare", "search", "close")
"""Phases that say nothing of the endpoint: files and authorities are read before, expressions are searched for after its answer."""


class Prober:
    """Build it, `await close()` it."""

    def __init__(self, blackbox_url: str | None, clock: Clock) -> None:
        self._clock = clock
        self._warm = asyncio.Lock()
        self._is_warm = False
        self._blackbox_url = blackbox_url
        self._blackbox = Blackbox(blackbox_url, clock) if blackbox_url else None

    async def use(self, blackbox_url: str | None) -> None:
        """Ask this exporter from now on; call it while no check is under way."""
        if blackbox_url != self._blackbox_url:
            await self.close()
            self._blackbox_url = blackbox_url
            self._blackbox = Blackbox(blackbox_url, self._clock) if blackbox_url else None

    async def check(self, probe: Probe) -> Result:
        """Return what one check came to. Never raises for what is wrong with the endpoint."""
        try:
            if probe.by == "blackbox":
                assert self._blackbox is not None
                return await self._blackbox.check(probe)
            return await self._checked(probe)
        except Exception as error:
            # A probe that breaks its prober must not end the others, nor look healthy.
            logger.exception("the probe %s could not be checked", probe.name)
            return Result(self._clock(), 0.0, "defect", type(error).__name__)

    async def _checked(self, probe: Probe) -> Result:
        async with self._warm:
            if not self._is_warm:
                await warm_up()
                self._is_warm = True
        at = self._clock()
        seen, phases = Seen(), Phases()
        result = Result(at, 0.0)
        try:
            async with asyncio.timeout(probe.timeout_s):
                if isinstance(probe.asks, HttpModule):
                    await check_http(probe, probe.asks, seen, phases)
                elif isinstance(probe.asks, TcpModule):
                    await check_tcp(probe, probe.asks, seen, phases)
        except ProbeFailed as failed:
            phases.end()
            result = replace(result, reason=failed.reason, detail=str(failed)[:500])
        except TimeoutError:
            phases.end()
            result = replace(result, reason="timeout", detail=f"nothing within {probe.timeout_s:g} s, during {phases.now}")
        took = {name: took_s for name, took_s in phases.took.items() if name not in _OURS}
        return replace(
            result,
            duration_s=sum(took.values()),
            status_code=seen.status_code,
            certificate_expires_at=seen.certificate_expires_at,
            redirects=seen.redirects,
            phases_s={name: round(took_s, 6) for name, took_s in took.items()},
        )

    async def close(self) -> None:
        if self._blackbox is not None:
            await self._blackbox.close()
