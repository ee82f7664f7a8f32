"""Tables that are made from evidence by the replica that leads, for questions over long times; nothing is in them that is not in records.

What is said of a span (a UTC day, an hour) holds while its mark is there and done. Triggers of the database take the mark away in
the same transaction that changes what it was made from; whoever asks then reads the hourly counts or the records themselves.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

from sqlalchemy import BigInteger, Boolean, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from isolation_monitor.collector.storage.models import Base

DAY: Final = "day"
HOUR: Final = "hour"
"""Kinds of spans: of a day the sums are kept, of an hour (SQLite only) who is mentioned in its violations."""
APART: Final = "apart"
"""No span: while a mark of this kind is there (SQLite, never after a commit), the triggers leave new violations to whoever stores them."""


class RollupRow(Base):
    """The mark of a span: it is being rolled up, or was. Gone as soon as a violation of that time comes, changes or goes."""

    __tablename__ = "violation_rollups"
    __table_args__ = ({"sqlite_with_rowid": False},)

    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    start: Mapped[datetime] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(32))
    """Of the round that works on it: another one that took over has another."""
    is_done: Mapped[bool] = mapped_column(Boolean())


class ViolationDayRow(Base):
    """The violations of a UTC day, by all that they are narrowed by: sums of the hourly counts, and whom they touched."""

    __tablename__ = "violation_days"
    __table_args__ = (Index("ix_violation_days_fingerprint", "fingerprint"),)

    day: Mapped[date] = mapped_column(primary_key=True)
    """The day of `time`, UTC; the day by which a record is kept may be another one."""
    service: Mapped[str] = mapped_column(String(100), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(100), primary_key=True)
    grade: Mapped[str] = mapped_column(String(20), primary_key=True)
    detector: Mapped[str] = mapped_column(String(100), primary_key=True)
    arm: Mapped[str] = mapped_column(String(20), primary_key=True)
    synthetic: Mapped[bool] = mapped_column(Boolean(), primary_key=True)
    retracted: Mapped[bool] = mapped_column(Boolean(), primary_key=True)
    suppressed: Mapped[bool] = mapped_column(Boolean(), primary_key=True)
    records: Mapped[int] = mapped_column(BigInteger())
    violations: Mapped[int] = mapped_column(BigInteger())
    first: Mapped[datetime]
    last: Mapped[datetime]
    latest: Mapped[str] = mapped_column(String(64))
    """Id of the newest record."""
    kept_from: Mapped[date]
    kept_to: Mapped[date]
    """The first and the last of the days by which these records are kept (partitions)."""
    active: Mapped[int] = mapped_column(BigInteger())
    at_least: Mapped[bool] = mapped_column(Boolean())
    """What a record told of whom it touched beside its sides: see `Affected`."""
    principals: Mapped[bytes] = mapped_column(LargeBinary())
    runs: Mapped[bytes] = mapped_column(LargeBinary())
    """Distinct ones, packed (`distinct.py`). Empty for what was retracted."""


class MentionRow(Base):
    """Who is mentioned in the violations of an hour: principals, runs and requests of either side. SQLite only.

    Written in bulk, an hour at a time: an index that each insert had to keep would cost it as much again. PostgreSQL has such an
    index (GIN), which gathers what comes and merges it later, by itself.
    """

    __tablename__ = "violation_mentions"
    __table_args__ = ({"sqlite_with_rowid": False},)

    hour: Mapped[int] = mapped_column(Integer(), primary_key=True)
    """Full hours since 1970, UTC."""
    value: Mapped[str] = mapped_column(String(200), primary_key=True)
    offset_us: Mapped[int] = mapped_column(BigInteger(), primary_key=True)
    """Microseconds from the hour to the violation's `time`."""
