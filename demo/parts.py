"""Clients to the parts of a running stack, for its driver and for a second terminal alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2

from isolation_monitor.demo.chat_api import Chat
from isolation_monitor.demo.collector_api import Collector
from isolation_monitor.demo.promql import Prometheus, probe
from isolation_monitor.demo.state import Urls

REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """One client per part."""

    urls: Urls
    chat: Chat
    collector: Collector
    prometheus: Prometheus
    _clients: dict[str, httpx2.AsyncClient]

    async def missing(self, name: str) -> str | None:
        """Return None when the part (`chat`, `collector`, `prometheus`, `alertmanager`) is ready, else what it says."""
        return await probe(self._clients[name], "/readyz" if name in ("chat", "collector") else "/-/ready")


@asynccontextmanager
async def connect(urls: Urls, read_token: str) -> AsyncIterator[Parts]:
    """Open clients to all parts; nothing is asked yet. `read_token` opens the collector's reading routes."""
    read = {"Authorization": f"Bearer {read_token}"}
    async with AsyncExitStack() as open_clients:
        clients = {
            name: await open_clients.enter_async_context(_client(url, read if name == "collector" else None))
            for name, url in (
                ("chat", urls.chat),
                ("collector", urls.collector),
                ("prometheus", urls.prometheus),
                ("alertmanager", urls.alertmanager),
            )
        }
        yield Parts(urls, Chat(clients["chat"]), Collector(clients["collector"]), Prometheus(clients["prometheus"]), clients)


def _client(url: str, headers: dict[str, str] | None) -> httpx2.AsyncClient:
    # Proxies of the environment are not for loopback.
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=REQUEST_TIMEOUT_S, trust_env=False)
