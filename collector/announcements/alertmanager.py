"""Pages by Alertmanager's API v2: as alerts like all others, so that routes, silences and inhibitions hold for them."""

from __future__ import annotations

from typing import Any, Final

import httpx2

from isolation_monitor.collector.announcements.grafana import NotTold
from isolation_monitor.collector.outbound import AnswerTooLarge, client, posted

_TIMEOUT_S: Final = 5.0
_ANSWER_LIMIT: Final = 64 * 1024


class Alertmanager:
    """One Alertmanager."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = f"{url}/api/v2/alerts"
        self._client = client(headers, _TIMEOUT_S)

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, alerts: list[dict[str, Any]]) -> None:  # Any: JSON
        """Hand the alerts over. The same labels again are the same alert: telling twice pages once.

        Raises:
            NotTold: Alertmanager is away or refuses.
        """
        try:
            answer = await posted(self._client, self._url, _ANSWER_LIMIT, json=alerts)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise NotTold(f"Alertmanager cannot be reached ({type(error).__name__})") from None
        except AnswerTooLarge:
            raise NotTold("what answers at Alertmanager's address sends more than Alertmanager does") from None
        if answer.status != 200:
            raise NotTold(f"Alertmanager answered {answer.status}")
