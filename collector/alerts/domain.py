"""One delivered alert in plain values, and what makes it the same one when it is delivered again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Status = Literal["firing", "resolved"]

ASKED: Final = "asked"
"""Group and receiver of what was asked for, not delivered."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert in one state. `ends_at` is None while it fires."""

    group_key: str
    receiver: str
    status: Status
    fingerprint: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: datetime
    ends_at: datetime | None

    @property
    def alertname(self) -> str:
        return self.labels.get("alertname", "")[:200] or "unnamed"

    @property
    def id(self) -> str:
        """Identity by group key, fingerprint, start and status: Alertmanager repeats deliveries on purpose."""
        parts = (self.group_key, self.fingerprint, self.starts_at.isoformat(), self.status)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ReceivedNotification:
    """A stored notification: when it first came, when last, and how often."""

    notification: Notification
    id: str
    received_at: datetime
    last_received_at: datetime
    deliveries: int


@dataclass(frozen=True, slots=True)
class ToldFiring:
    """An alert that was told of as firing; `is_resolved` when its end was told of after that."""

    notification: Notification
    last_received_at: datetime
    is_resolved: bool


@dataclass(frozen=True, slots=True)
class NotificationQuery:
    """What to list; None does not narrow. `since` is inclusive and by first arrival. Newest first."""

    since: datetime | None = None
    alertname: str | None = None
    status: str | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None
    service: str | None = None
    """The alert's label of that name."""
    until: datetime | None = None
