"""Pages by Alertmanager's API v2: as alerts like all others, so that routes, silences and inhibitions hold for them."""

from __future__ import annotations

from typing import Any, Final

import httpx2

from isolation_monitor.collector.announcements.grafana import NotTold

_TIMEOUT_S: Final = 5.0


class Alertmanager:
    """One Alertmanager. Redirects are not followed: a token must not travel to another host."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = f"{url}/api/v2/alerts"
        self._client = httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, alerts: list[dict[str, Any]]) -> None:  # Any: JSON
        """Hand the alerts over. The same labels again are the same alert: telling twice pages once.

        Raises:
            NotTold: Alertmanager is away or refuses.
        """
        try:
            answer = await self._client.post(self._url, json=alerts)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise NotTold(f"Alertmanager cannot be reached ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise NotTold(f"Alertmanager answered {answer.status_code}")
