"""What Alertmanager holds now, by its API v2: the other half of a history whose webhooks may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import httpx2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from isolation_monitor.collector import outbound
from isolation_monitor.collector.alerts.schemas import Labels, Time

_TIMEOUT_S: Final = 5.0
_LIMIT_BYTES: Final = 16 * 1024 * 1024


class NotAsked(Exception):
    """Alertmanager is away, refuses, or answers something else; the text says which."""


@dataclass(frozen=True, slots=True)
class HeldAlert:
    """One alert that Alertmanager takes for firing."""

    fingerprint: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: datetime
    receivers: tuple[str, ...]


class _Receiver(BaseModel):
    name: str


class _Alert(BaseModel):
    model_config = ConfigDict(extra="ignore")

    fingerprint: str = Field(min_length=1, max_length=64)
    labels: Labels
    annotations: Labels = Field(default_factory=dict)
    starts_at: Time = Field(alias="startsAt")
    receivers: list[_Receiver] = Field(default_factory=list)


_ALERTS: Final = TypeAdapter(list[_Alert])


class AlertmanagerHeld:
    """One Alertmanager to be asked, or all of a cluster."""

    def __init__(self, urls: Sequence[str], token: str | None) -> None:
        self._urls = tuple(f"{url}/api/v2/alerts" for url in urls)
        self._client = outbound.client({"Authorization": f"Bearer {token}"} if token else {}, _TIMEOUT_S)

    async def close(self) -> None:
        await self._client.aclose()

    async def firing(self) -> list[HeldAlert]:
        """Return all alerts that fire, silenced and inhibited ones too: they fire nevertheless.

        Of a cluster, what any member holds that answers: one that has just started has not been told of what fires.

        Raises:
            NotAsked: there is no such answer this time.
        """
        answers = await asyncio.gather(*(self._firing(url) for url in self._urls), return_exceptions=True)
        held: dict[str, HeldAlert] = {}
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failures:
            if not isinstance(failure, NotAsked) or len(failures) == len(answers):
                raise failure
        for answer in answers:
            for alert in answer if isinstance(answer, list) else ():
                known = held.get(alert.fingerprint)
                # The one that it began with, as Alertmanager itself joins them.
                if known is None or alert.starts_at < known.starts_at:
                    held[alert.fingerprint] = alert
        return list(held.values())

    async def _firing(self, url: str) -> list[HeldAlert]:
        try:
            answer = await outbound.fetched(self._client, url, _LIMIT_BYTES, active="true", silenced="true", inhibited="true")
        except outbound.AnswerTooLarge as error:
            raise NotAsked(f"Alertmanager's answer is too large: {error}") from None
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise NotAsked(f"Alertmanager cannot be reached ({type(error).__name__})") from None
        if answer.status != 200:
            raise NotAsked(f"Alertmanager answered {answer.status}")
        try:
            found = _ALERTS.validate_json(answer.body)
        except ValidationError:
            raise NotAsked("what answers is no Alertmanager with API v2") from None
        return [HeldAlert(a.fingerprint, a.labels, a.annotations, a.starts_at, tuple(r.name for r in a.receivers)) for a in found]
