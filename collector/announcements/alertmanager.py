"""Pages by Alertmanager's API v2: as alerts like all others, so that routes, silences and inhibitions hold for them.

Members of a cluster tell each other what they notified, not what fires: each is told every alert, as Prometheus does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import httpx2

from isolation_monitor.collector.announcements.grafana import NotTold
from isolation_monitor.collector.outbound import AnswerTooLarge, client, posted

logger = logging.getLogger("isolation_monitor.collector")

_TIMEOUT_S: Final = 5.0
_OTHERS_S: Final = 1.0
"""So much longer the others have when one took the alerts."""
_ANSWER_LIMIT: Final = 64 * 1024
_SAY_AGAIN_S: Final = 60.0


class Alertmanagers:
    """One Alertmanager, or all of a cluster."""

    def __init__(self, urls: Sequence[str], token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._urls = tuple(f"{url}/api/v2/alerts" for url in urls)
        self._client = client(headers, _TIMEOUT_S)
        self._complained_s = float("-inf")

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, alerts: list[dict[str, Any]]) -> None:  # Any: JSON
        """Hand the alerts over. The same labels again are the same alert: telling twice pages once.

        Returns as soon as all have answered, or one has and the others had their time; one is enough.

        Raises:
            NotTold: each is away or refuses.
        """
        posts = [asyncio.create_task(self._post(url, alerts)) for url in self._urls]
        try:
            waiting = set(posts)
            while waiting and not any(_took(post) for post in posts):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                # One that hangs must not hold up the next page of those that do not.
                await asyncio.wait(waiting, timeout=_OTHERS_S)
        finally:
            failed = [post for post in posts if not _took(post)]
            for post in posts:
                post.cancel()
        if len(failed) == len(posts):
            await failed[0]
        elif failed:
            self._complain(len(failed))

    async def _post(self, url: str, alerts: list[dict[str, Any]]) -> None:  # Any: JSON
        try:
            answer = await posted(self._client, url, _ANSWER_LIMIT, json=alerts)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise NotTold(f"Alertmanager cannot be reached ({type(error).__name__})") from None
        except AnswerTooLarge:
            raise NotTold("what answers at Alertmanager's address sends more than Alertmanager does") from None
        if answer.status != 200:
            raise NotTold(f"Alertmanager answered {answer.status}")

    def _complain(self, failed: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            logger.warning("%d of %d Alertmanagers took no alert of ours; the others have it", failed, len(self._urls))


def _took(post: asyncio.Task[None]) -> bool:
    return post.done() and not post.cancelled() and post.exception() is None
