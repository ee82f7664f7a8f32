"""Alertmanager's webhook, version 4, at the HTTP edge. Unknown fields are ignored: Alertmanager may add some."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from isolation_monitor.collector.alerts.domain import Notification
from isolation_monitor.collector.body import parsed
from isolation_monitor.collector.clock import parse_time


def _time(value: object) -> object:
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError("is not RFC 3339 text")
    return parse_time(value)


Time = Annotated[datetime, BeforeValidator(_time)]
Text = Annotated[str, StringConstraints(max_length=8000)]
Labels = Annotated[dict[Annotated[str, StringConstraints(max_length=300)], Text], Field(max_length=100)]


class AlertIn(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels = Field(default_factory=dict)
    starts_at: Time = Field(alias="startsAt")
    ends_at: Time | None = Field(default=None, alias="endsAt")
    fingerprint: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class WebhookIn(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    version: Literal["4"]
    group_key: Annotated[str, StringConstraints(min_length=1, max_length=4000)] = Field(alias="groupKey")
    receiver: Annotated[str, StringConstraints(max_length=200)] = ""
    alerts: Annotated[list[AlertIn], Field(max_length=5000)]


def parse_webhook(body: bytes) -> list[Notification]:
    """Return the alerts of one delivery.

    Raises:
        MalformedBody: not JSON.
        Invalid: not version 4 of the webhook.
    """
    webhook = parsed(body, WebhookIn, "not a webhook of Alertmanager, version 4: ")
    return [
        Notification(
            webhook.group_key,
            webhook.receiver,
            alert.status,
            alert.fingerprint,
            alert.labels,
            alert.annotations,
            alert.starts_at,
            # While an alert fires, its end is a guess (or the year 1, Go's zero time).
            alert.ends_at if alert.status == "resolved" else None,
        )
        for alert in webhook.alerts
    ]
