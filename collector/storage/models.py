"""Tables. Written only by `repository.py` of a feature; changed only together with a migration.

Times are UTC. Rows of evidence are never updated except for the two columns of a violation that later records decide:
its grade, which only rises, and the time of its retraction.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = dict[str, Any]  # Any: whatever JSON the sender put there


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC on every database; SQLite keeps no zone, so it is taken off and put back here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    # SQL NULL for a side that is not there, never the JSON text 'null'.
    type_annotation_map = {datetime: UtcTime(), Json: JSON(none_as_null=True), list[Any]: JSON(none_as_null=True)}  # noqa: RUF012


BY_DAY: Final = {"postgresql_partition_by": "RANGE (day)"}
"""PostgreSQL keeps a table of evidence in one partition a day; SQLite has one table, and an index on the day."""

RECORD_KEY: Final = ("id", "day")
"""What makes a record the same one: `day` follows from the id (storage.days), and a partitioned table needs it in its key."""


class ViolationRow(Base):
    """One violation record. `grade_sent` is as it arrived; `grade` is the highest known."""

    __tablename__ = "violations"
    __table_args__ = (
        Index("ix_violations_time_id", "time", "id"),
        Index("ix_violations_received_service", "received_at", "service"),
        Index("ix_violations_service_fingerprint_time", "service", "fingerprint", "time"),
        BY_DAY,
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    service: Mapped[str] = mapped_column(String(100))
    instance: Mapped[str] = mapped_column(String(200))
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(100))
    grade: Mapped[str] = mapped_column(String(20))
    grade_sent: Mapped[str] = mapped_column(String(20))
    detector: Mapped[str] = mapped_column(String(100))
    arm: Mapped[str] = mapped_column(String(20))
    synthetic: Mapped[bool] = mapped_column(Boolean())
    summary: Mapped[str] = mapped_column(Text())
    fingerprint: Mapped[str] = mapped_column(String(64))
    count: Mapped[int] = mapped_column(BigInteger())
    resource: Mapped[Json | None]
    victim: Mapped[Json | None]
    offender: Mapped[Json | None]
    detail: Mapped[Json]
    extra: Mapped[Json]
    retracted_at: Mapped[datetime | None]
    suppressed: Mapped[bool] = mapped_column(Boolean(), server_default=false())
    """Accepted for now by the suppressions file of its service, as its detail says."""


class ViolationCountRow(Base):
    """How many violations an hour had, of each kind. Triggers of the database keep it with every insert, update and delete.

    A row is gone when its last record is.
    """

    __tablename__ = "violation_counts"
    __table_args__ = (Index("ix_violation_counts_hour", "hour"), {"sqlite_with_rowid": False})

    day: Mapped[date] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    """The full hour of `time`, UTC."""
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
    """The sum of the records' `count`."""
    first: Mapped[datetime]
    last: Mapped[datetime]


class ForgettingRow(Base):
    """One request to forget a subject: that it was done, never of whom. `subject` is a hash of the hash in the evidence."""

    __tablename__ = "forgettings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    subject: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    removed: Mapped[int] = mapped_column(BigInteger())
    """Records that are gone."""
    changed: Mapped[int] = mapped_column(BigInteger())
    """Records that another user's evidence needs: they lost the subject's side."""


class AmendmentRow(Base):
    """A later word on a violation: its escalation to a graver grade, or its retraction. It may arrive first."""

    __tablename__ = "amendments"
    __table_args__ = (Index("ix_amendments_violation", "violation_id", "time"), BY_DAY)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    type: Mapped[str] = mapped_column(String(20))
    violation_id: Mapped[str] = mapped_column(String(64))
    service: Mapped[str] = mapped_column(String(100))
    instance: Mapped[str] = mapped_column(String(200))
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    grade: Mapped[str | None] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text())
    extra: Mapped[Json]


class RunRow(Base):
    """One run record: a run in which something went wrong, if only in the order of its events; `complete` ones are among them."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_service_time", "service", "time"), Index("ix_runs_time_id", "time", "id"), BY_DAY)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    service: Mapped[str] = mapped_column(String(100))
    instance: Mapped[str] = mapped_column(String(200))
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    run_id: Mapped[str] = mapped_column(String(200))
    principal: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(100))
    duration_s: Mapped[float | None] = mapped_column(Float(53))
    events: Mapped[list[Any]]
    anomalies: Mapped[Json]
    detail: Mapped[Json]
    extra: Mapped[Json]


OF_LIFECYCLE: Final = "type IN ('startup', 'cleanup')"
"""Records of starts and ends of processes, among those that are kept as they came. Part of a schema: a change is a migration."""


def _of_lifecycle(name: str, *columns: str) -> Index:
    # Partial: whatever else comes in great numbers, such as logs, costs these indexes nothing.
    return Index(name, *columns, sqlite_where=text(OF_LIFECYCLE), postgresql_where=text(OF_LIFECYCLE))


class UnknownRecordRow(Base):
    """A record that is kept as it came: of a start or end of a process, or of a type that only a newer telemetry knows."""

    __tablename__ = "unknown_records"
    __table_args__ = (
        Index("ix_unknown_records_type_time", "type", "time"),
        _of_lifecycle("ix_unknown_records_lifecycle", "time", "id"),
        _of_lifecycle("ix_unknown_records_lifecycle_service", "service", "time", "id"),
        _of_lifecycle("ix_unknown_records_lifecycle_instance", "instance", "time"),
        BY_DAY,
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    type: Mapped[str] = mapped_column(String(100))
    service: Mapped[str] = mapped_column(String(100))
    instance: Mapped[str] = mapped_column(String(200))
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    body: Mapped[Json]


SILENT_AFTER: Final = timedelta(seconds=90)
"""A worker that has told nothing for so long is taken for dead: it says what still holds every 30 s."""


class QueueStatementRow(Base):
    """Who waits in one worker now, as it said last. Replaced by its next statement; forgotten when it is silent."""

    __tablename__ = "queue_statements"
    __table_args__ = (Index("ix_queue_statements_received", "received_at"),)

    service: Mapped[str] = mapped_column(String(100), primary_key=True)
    instance: Mapped[str] = mapped_column(String(200), primary_key=True)
    id: Mapped[str] = mapped_column(String(64))
    """The same for all statements of one process."""
    sequence: Mapped[int] = mapped_column(BigInteger())
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    users: Mapped[int] = mapped_column(BigInteger())
    """All users with something waiting, and what waits for them; `deepest` names some of them."""
    events: Mapped[int] = mapped_column(BigInteger())
    bytes: Mapped[int] = mapped_column(BigInteger())
    deepest: Mapped[list[Any]]


class ProbeStateRow(Base):
    """The last result of a probe, and since when it is like that."""

    __tablename__ = "probe_states"

    probe: Mapped[str] = mapped_column(String(100), primary_key=True)
    service: Mapped[str] = mapped_column(String(100))
    since: Mapped[datetime]
    failures: Mapped[int] = mapped_column(Integer())
    """In a row."""
    at: Mapped[datetime]
    result: Mapped[Json]


class ProbeChangeRow(Base):
    """A result that was another one than that before it; the last hundred of each probe are kept."""

    __tablename__ = "probe_changes"
    __table_args__ = (Index("ix_probe_changes_probe_at", "probe", "at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    probe: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime]
    result: Mapped[Json]


class NotificationRow(Base):
    """One alert in one state, as Alertmanager told it. Telling it again raises `deliveries` and `last_received_at`."""

    __tablename__ = "alert_notifications"
    __table_args__ = (
        Index("ix_alert_notifications_received_id", "received_at", "id"),
        Index("ix_alert_notifications_last_received", "last_received_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Hash of group key, fingerprint, start and status: the identity of a notification."""
    received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    deliveries: Mapped[int] = mapped_column(Integer())
    status: Mapped[str] = mapped_column(String(20))
    alertname: Mapped[str] = mapped_column(String(200), index=True)
    group_key: Mapped[str] = mapped_column(Text())
    fingerprint: Mapped[str] = mapped_column(String(64))
    receiver: Mapped[str] = mapped_column(String(200))
    labels: Mapped[Json]
    annotations: Mapped[Json]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]


EVIDENCE: Final[tuple[type[Base], ...]] = (ViolationRow, AmendmentRow, RunRow, UnknownRecordRow)
"""The tables that grow with what services send: kept by day."""


def counting() -> list[ColumnElement[bool]]:
    """Return what a violation must be to count against anybody: real, not retracted, and not accepted for now.

    One that the service's suppressions file accepts leaves its requests unverified, and the gate counts these.
    """
    row = ViolationRow
    return [row.synthetic.is_(False), row.retracted_at.is_(None), row.suppressed.is_(False)]


def counted() -> list[ColumnElement[bool]]:
    """Return what a row of counts must be to count against anybody: what `counting()` is to records."""
    row = ViolationCountRow
    return [row.synthetic.is_(False), row.retracted.is_(False), row.suppressed.is_(False)]


def crossing() -> ColumnElement[bool]:
    """Return what a violation must be to lower the score: it reached, or could reach, another user."""
    return ViolationRow.grade.in_(("crossed", "reachable"))


class RolloutRow(Base):
    """A rollout under watch. `failed_at` is the latch: once set, it stays until a person re-arms.

    `spec` is the file of a staged rollout, NULL for one that is only watched. `arm` and the minima are then those of its
    stage: what the gate asks for now. `revision` grows with each change and is what writers compare.
    """

    __tablename__ = "rollouts"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    service: Mapped[str] = mapped_column(String(100))
    arm: Mapped[str | None] = mapped_column(String(20))
    min_exposed_requests: Mapped[int] = mapped_column(Integer())
    min_owed_events: Mapped[int] = mapped_column(Integer())
    started_at: Mapped[datetime]
    failed_at: Mapped[datetime | None]
    failed_decision_id: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[Json | None]
    status: Mapped[str] = mapped_column(String(20))
    stage: Mapped[str] = mapped_column(String(100))
    stage_kind: Mapped[str] = mapped_column(String(20))
    triggers: Mapped[list[Any] | None]
    """Those of the stage; NULL for a rollout that is only watched, which has all."""
    comparison: Mapped[Json | None]
    """How the stage's arms are compared: its percent with the feature, its position and how many stages compare."""
    stage_started_at: Mapped[datetime | None]
    percent: Mapped[float] = mapped_column(Float(53))
    revision: Mapped[int] = mapped_column(Integer())
    changed_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text())
    actor: Mapped[str] = mapped_column(String(200))
    soaked_s: Mapped[float] = mapped_column(Float(53))
    """Seconds of this stage that were seen in order; counted look by look, never from two times of the wall clock."""
    soaked_at: Mapped[datetime | None]
    """The last look that was counted."""


class RolloutEventRow(Base):
    """One change of a staged rollout. Append-only but for the two columns of its announcement."""

    __tablename__ = "rollout_events"
    __table_args__ = (Index("ix_rollout_events_rollout_sequence", "rollout", "sequence"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger(), unique=True)
    """Grows by one over all rollouts, in the order of the commits."""
    rollout: Mapped[str] = mapped_column(String(100), ForeignKey("rollouts.name"))
    service: Mapped[str] = mapped_column(String(100))
    revision: Mapped[int] = mapped_column(Integer())
    action: Mapped[str] = mapped_column(String(20))
    from_status: Mapped[str] = mapped_column(String(20))
    to_status: Mapped[str] = mapped_column(String(20))
    from_stage: Mapped[str] = mapped_column(String(100))
    to_stage: Mapped[str] = mapped_column(String(100))
    actor: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text())
    decision_id: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[datetime]
    announce_after: Mapped[datetime | None]
    """A replica that tells of this event claims it until then; another one tries again afterwards."""
    announced_at: Mapped[datetime | None] = mapped_column(index=True)


class DecisionRow(Base):
    """One evaluation of a gate with all that went in. Append-only."""

    __tablename__ = "gate_decisions"
    __table_args__ = (Index("ix_gate_decisions_rollout_as_of", "rollout", "as_of"), Index("ix_gate_decisions_as_of", "as_of"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    rollout: Mapped[str] = mapped_column(String(100), ForeignKey("rollouts.name"))
    as_of: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(20))
    answer: Mapped[Json]
    inputs: Mapped[Json]
    config: Mapped[Json]
    config_sha256: Mapped[str] = mapped_column(String(64))
    inputs_sha256: Mapped[str] = mapped_column(String(64))


class WebSessionRow(Base):
    """Somebody who signed in to the pages. Neither the cookie's secret nor the token stands here, only their hashes."""

    __tablename__ = "web_sessions"
    __table_args__ = (Index("ix_web_sessions_expires", "expires_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the cookie's secret."""
    token_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the token: a token that is taken away ends its sessions."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ContainerEngineRow(Base):
    """One Docker engine as the replica that follows it saw it last."""

    __tablename__ = "container_engines"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    engine_id: Mapped[str] = mapped_column(String(100))
    is_up: Mapped[bool] = mapped_column(Boolean())
    since: Mapped[datetime]
    """Of this state."""
    seen_at: Mapped[datetime]
    events_until: Mapped[datetime | None]
    """Time of the last event that is stored, by the engine's clock."""
    version: Mapped[str] = mapped_column(String(100))
    error: Mapped[str] = mapped_column(Text())
    dangling_volumes: Mapped[int | None] = mapped_column(Integer())
    unused_volumes: Mapped[Json | None]
    """Those of nobody, by name, with the time since when they are known to be unused."""


class ContainerRow(Base):
    """One container as it was last seen. `facts` is all that is remembered of it; the other columns are what is asked by."""

    __tablename__ = "containers"
    __table_args__ = (Index("ix_containers_removed", "removed_at"),)

    engine: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(300))
    status: Mapped[str] = mapped_column(String(20))
    updated_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    facts: Mapped[Json]


class ContainerEventRow(Base):
    """One thing that happened to a container or an engine. Append-only but for `actor` and `host`, which a later action may tell."""

    __tablename__ = "container_events"
    __table_args__ = (
        Index("ix_container_events_time_id", "time", "id"),
        Index("ix_container_events_kind_time", "kind", "time"),
        Index("ix_container_events_received", "received_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    engine: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(20))
    container_id: Mapped[str | None] = mapped_column(String(64))
    container: Mapped[str | None] = mapped_column(String(300))
    image: Mapped[str | None] = mapped_column(Text())
    owner: Mapped[str | None] = mapped_column(Text())
    actor: Mapped[str | None] = mapped_column(String(200))
    host: Mapped[str | None] = mapped_column(String(300))
    signal: Mapped[str | None] = mapped_column(String(20))
    exit_code: Mapped[int | None] = mapped_column(Integer())
    reason: Mapped[str | None] = mapped_column(String(20))
    forced: Mapped[bool | None] = mapped_column(Boolean())
    after_stop_s: Mapped[float | None] = mapped_column(Float(53))
    found_by: Mapped[str] = mapped_column(String(20))
    detail: Mapped[Json]


class ContainerActionRow(Base):
    """What somebody did to containers, or was refused, as the tool told it that he did it with. Append-only."""

    __tablename__ = "container_actions"
    __table_args__ = (Index("ix_container_actions_time_id", "time", "id"), Index("ix_container_actions_received", "received_at"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    time: Mapped[datetime]
    received_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(200))
    host: Mapped[str] = mapped_column(String(300))
    command: Mapped[str] = mapped_column(Text())
    action: Mapped[str] = mapped_column(String(20))
    container: Mapped[str | None] = mapped_column(String(300))
    container_id: Mapped[str | None] = mapped_column(String(64))
    image: Mapped[str | None] = mapped_column(Text())
    signal: Mapped[str | None] = mapped_column(String(20))
    forced: Mapped[bool] = mapped_column(Boolean())
    result: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text())
