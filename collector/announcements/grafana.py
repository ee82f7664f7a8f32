"""Marks in Grafana by its HTTP API. Each carries a tag of its own, so that telling it twice makes one.

grafana-client and what it brings load only when a Grafana is configured.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from isolation_monitor.collector.announcements.domain import Mark

_TIMEOUT_S: Final = 5.0


class NotTold(Exception):
    """Nobody was told; it can be tried again. The text says why, without addresses or secrets."""


class Grafana:
    """The annotations of one Grafana."""

    def __init__(self, url: str, token: str | None) -> None:
        """`url` has no trailing slash; a path in it is where a proxy serves Grafana."""
        self._url = f"{url}/"
        self._token = token
        self._connected: Any = None  # Any: grafana-client is not typed

    def _api(self) -> Any:
        if self._connected is None:
            from grafana_client.api import AsyncGrafanaApi

            self._connected = AsyncGrafanaApi.from_url(self._url, credential=self._token, timeout=_TIMEOUT_S)
            # The token goes to the configured address and nowhere else: no redirect, no proxy or password of the environment.
            session = self._connected.client.s
            session.max_redirects = 0
            session.trust_env = False
        return self._connected

    async def close(self) -> None:
        if self._connected is not None:
            await self._connected.client.s.close()
            self._connected = None

    async def mark(self, mark: Mark) -> int:
        """Make the mark, or find it when it is there already; return its id.

        Raises:
            NotTold: Grafana is away, refuses, or something else answers at its address.
        """
        own = f"isolation-id:{mark.key}"
        try:
            there = await self._api().annotations.find_annotations(tags=[quote(own, safe="")], limit=1)
            if isinstance(there, list) and there:
                return _id(there[0])
            made = await self._api().annotations.add_annotation(
                time_from=mark.time_ms, time_to=mark.end_ms, tags=[*mark.tags, own], text=mark.text
            )
        except NotTold:
            raise
        except Exception as error:  # grafana-client lets errors of the library below it through
            raise _not_told(error) from None
        return _id(made)

    async def extend(self, number: int, mark: Mark) -> None:
        """Change the end and the text of a mark that is there.

        Raises:
            NotTold: as for `mark`.
        """
        try:
            await self._api().annotations.partial_update_annotation(
                annotations_id=number,
                time_from=mark.time_ms,
                time_to=mark.end_ms,
                tags=[*mark.tags, f"isolation-id:{mark.key}"],
                text=mark.text,
            )
        except Exception as error:
            raise _not_told(error) from None


def _id(answer: Any) -> int:  # Any: another program's JSON
    # A login page is an answer too: grafana-client returns its text.
    if not isinstance(answer, dict) or not isinstance(answer.get("id"), int):
        raise NotTold("what answers at Grafana's address is not Grafana's API")
    return int(answer["id"])


def _not_told(error: Exception) -> NotTold:
    status = getattr(error, "status_code", None)
    return NotTold(f"Grafana answered {status}" if status else f"Grafana cannot be reached ({type(error).__name__})")
