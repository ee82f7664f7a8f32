"""Tables of CI: runs of test suites with all of their results, and what is asked of them summed up while they arrive.

Pages and metrics read the sums: a suite, a test, a kind of failure and a day have one row each, whatever the number of runs behind it.
The results of every run are kept whole, packed, in its row.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from isolation_monitor.collector.storage.models import Base, Json


class CiSuiteRow(Base):
    """One suite, as its last run left it. Locked by whoever stores a run of it."""

    __tablename__ = "ci_suites"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    created_at: Mapped[datetime]
    received_at: Mapped[datetime]
    runs: Mapped[int] = mapped_column(BigInteger())
    passed: Mapped[int] = mapped_column(BigInteger())
    """Results of all runs ever, which only grow: retention takes nothing from them."""
    failed: Mapped[int] = mapped_column(BigInteger())
    errors: Mapped[int] = mapped_column(BigInteger())
    skipped: Mapped[int] = mapped_column(BigInteger())
    reference_at: Mapped[datetime | None]
    """When the newest run began of those that speak for the suite: on the default branch, or on any while there is none."""
    numbers: Mapped[Json]
    """What that run and those before it say: `ci.domain.Numbers`."""
    recent: Mapped[list[Any]]
    """The newest of these runs, oldest first, as the pages draw them."""
    repository: Mapped[str | None] = mapped_column(String(300))
    """Whose suite it is; None until a run says so. Another repository's suite of the same name is kept apart."""


class CiRunRow(Base):
    """One run of a suite."""

    __tablename__ = "ci_runs"
    __table_args__ = (
        Index("ix_ci_runs_suite_started", "suite", "started_at", "id"),
        Index("ix_ci_runs_suite_commit", "suite", "commit", "started_at", "id"),
        Index("ix_ci_runs_commit", "commit", "started_at", "id"),
        Index("ix_ci_runs_suite_branch", "suite", "branch", "started_at", "id"),
        Index("ix_ci_runs_started", "started_at", "id"),
        Index("ix_ci_runs_received", "received_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    suite: Mapped[str] = mapped_column(String(100))
    started_at: Mapped[datetime]
    received_at: Mapped[datetime]
    is_reference: Mapped[bool] = mapped_column(Boolean())
    """On the default branch, or on one that nobody named."""
    branch: Mapped[str] = mapped_column(String(200))
    commit: Mapped[str] = mapped_column(String(64).with_variant(String(64, collation="C"), "postgresql"))
    """Ordered by its bytes, so that those that begin alike stand together whatever the database's locale is."""
    repository: Mapped[str] = mapped_column(String(300))
    origin: Mapped[Json]
    """Which CI, its run, attempt, job, address and pull request."""
    duration_s: Mapped[float] = mapped_column(Float(53))
    passed: Mapped[int] = mapped_column(Integer())
    failed: Mapped[int] = mapped_column(Integer())
    errors: Mapped[int] = mapped_column(Integer())
    skipped: Mapped[int] = mapped_column(Integer())
    flaky: Mapped[int] = mapped_column(Integer())
    """Tests that had both results within this run."""
    is_cut_off: Mapped[bool] = mapped_column(Boolean())
    resources: Mapped[Json]
    results: Mapped[bytes] = mapped_column(LargeBinary())
    """All results, packed: `ci.packing`."""


class CiTestRow(Base):
    """One test of a suite, over all of its runs."""

    __tablename__ = "ci_tests"
    __table_args__ = (
        Index("ix_ci_tests_suite_duration", "suite", "duration_s"),
        Index("ix_ci_tests_flaky", "flaky_at"),
        Index("ix_ci_tests_key", "key"),
        Index("ix_ci_tests_seen", "last_seen_at"),
    )

    suite: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    """Hash of group and name."""
    group: Mapped[str] = mapped_column(Text())
    name: Mapped[str] = mapped_column(Text())
    file: Mapped[str] = mapped_column(Text())
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    last_result: Mapped[str] = mapped_column(String(1))
    passed: Mapped[int] = mapped_column(BigInteger())
    failed: Mapped[int] = mapped_column(BigInteger())
    skipped: Mapped[int] = mapped_column(BigInteger())
    duration_s: Mapped[float] = mapped_column(Float(53))
    """What it usually takes: a mean in which each new run weighs a fifth."""
    longest_s: Mapped[float] = mapped_column(Float(53))
    history: Mapped[str] = mapped_column(String(100))
    """Its newest outcomes in runs that speak for the suite, oldest first: P and F."""
    failing_since: Mapped[datetime | None]
    """Since when it has failed in each of these runs."""
    flaky_at: Mapped[datetime | None]
    """When it was last seen to be flaky."""
    flaky: Mapped[Json | None]
    """By which evidence: `ci.domain.Evidence` by its kind."""
    resources: Mapped[Json | None]
    """What it used last and at most: `ci.resources.Usage`; None where that was never measured."""


class CiFailureRow(Base):
    """One test that failed in one run."""

    __tablename__ = "ci_failures"
    __table_args__ = (
        Index("ix_ci_failures_suite_fingerprint_at", "suite", "fingerprint", "at"),
        Index("ix_ci_failures_suite_key_at", "suite", "key", "at"),
        Index("ix_ci_failures_at", "at"),
    )

    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    suite: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime]
    commit: Mapped[str] = mapped_column(String(64))
    branch: Mapped[str] = mapped_column(String(200))
    group: Mapped[str] = mapped_column(Text())
    name: Mapped[str] = mapped_column(Text())
    is_flaky: Mapped[bool] = mapped_column(Boolean())
    """It passed in another attempt of this run."""
    category: Mapped[str] = mapped_column(String(30))
    fingerprint: Mapped[str] = mapped_column(String(16))
    cause: Mapped[str] = mapped_column(Text())
    kind: Mapped[str] = mapped_column(Text())
    message: Mapped[str] = mapped_column(Text())
    detail: Mapped[str] = mapped_column(Text())


class CiFailureKindRow(Base):
    """All failures of a suite that have one fingerprint: first and last seen when, and at which commit."""

    __tablename__ = "ci_failure_kinds"
    __table_args__ = (Index("ix_ci_failure_kinds_last", "last_at"),)

    suite: Mapped[str] = mapped_column(String(100), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(16), primary_key=True)
    category: Mapped[str] = mapped_column(String(30))
    cause: Mapped[str] = mapped_column(Text())
    message: Mapped[str] = mapped_column(Text())
    example: Mapped[str] = mapped_column(Text())
    """The name of one test that failed so."""
    example_key: Mapped[str | None] = mapped_column(String(16))
    """Its key; None until the failure is seen again, where an earlier version stored it."""
    first_at: Mapped[datetime]
    first_commit: Mapped[str] = mapped_column(String(64))
    first_run_id: Mapped[str] = mapped_column(String(64))
    last_at: Mapped[datetime]
    last_commit: Mapped[str] = mapped_column(String(64))
    last_run_id: Mapped[str] = mapped_column(String(64))
    runs: Mapped[int] = mapped_column(BigInteger())
    failures: Mapped[int] = mapped_column(BigInteger())


class CiDayRow(Base):
    """What the runs of one suite on one branch came to on one day, UTC."""

    __tablename__ = "ci_days"
    __table_args__ = (Index("ix_ci_days_day", "day"),)

    suite: Mapped[str] = mapped_column(String(100), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    branch: Mapped[str] = mapped_column(String(200), primary_key=True)
    is_reference: Mapped[bool] = mapped_column(Boolean())
    runs: Mapped[int] = mapped_column(BigInteger())
    green: Mapped[int] = mapped_column(BigInteger())
    """Runs without a failure."""
    passed: Mapped[int] = mapped_column(BigInteger())
    failed: Mapped[int] = mapped_column(BigInteger())
    """Failures and errors."""
    duration_s: Mapped[float] = mapped_column(Float(53))
    """The sum over the runs."""
    longest_s: Mapped[float] = mapped_column(Float(53))
