"""What is to be told and was not yet: written with what it tells of, gone when it was told."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from isolation_monitor.collector.storage.models import Base


class PageDueRow(Base):
    """Violations of one service and kind that somebody is to be paged for. Insert-only: each row is of one commit of one replica.

    A replica that lives tells it in less than a second; of one that died, another, or its next start, finds it here.
    """

    __tablename__ = "violation_pages_due"
    __table_args__ = (Index("ix_violation_pages_due_received", "received_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    service: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(100))
    requests: Mapped[int] = mapped_column(BigInteger())
    example_id: Mapped[str] = mapped_column(String(64))
    first: Mapped[datetime]
    last: Mapped[datetime]
    received_at: Mapped[datetime]
    """By the clock of the replica that took them."""
