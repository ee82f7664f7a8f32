"""A gate's evaluation, told in domain words: latch, count, judge, keep, answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.clock import Clock, rfc3339
from isolation_monitor.collector.gates.answers import LastAnswers
from isolation_monitor.collector.gates.domain import VERDICT_CODES, GatePlan, Inputs, Judgement, MetricReading, judge
from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.prometheus import PrometheusSource, SourceUnavailable
from isolation_monitor.collector.gates.queries import Window, queries
from isolation_monitor.collector.gates.ranges import MinuteBook
from isolation_monitor.collector.gates.replay import sha256
from isolation_monitor.collector.gates.repository import Decision, GateRepository, Newest, WatchedRollout
from isolation_monitor.collector.gates.stages import WatchedStage
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import Database

Json = dict[str, Any]  # Any: JSON

_PATIENCE_AFTER_RECORD_S = 0.3
"""A rollback by record is promised within a second."""
_TARGETS = ("targets_up", "targets_down")

_WATCHED_LIMIT: Final = 100
_CHUNKS_AT_ONCE: Final = 4


@dataclass(slots=True)
class _Watched:
    """A stage whose arms are compared, and its minutes."""

    stage: WatchedStage
    book: MinuteBook
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class GateService:
    def __init__(
        self,
        database: Database,
        source: PrometheusSource | None,
        metrics: CollectorMetrics,
        clock: Clock,
        *,
        scrape_stale_after_s: float,
        base_url: str,
    ) -> None:
        """`source` None means that no Prometheus is configured."""
        self._database = database
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._scrape_stale_after_s = scrape_stale_after_s
        self._base_url = base_url
        self._watched: dict[str, _Watched] = {}
        self._last = LastAnswers()

    async def check(self, name: str, services: Collection[str]) -> None:
        """Raises NotFound when the rollout is of none of these services."""
        async with self._database.reading() as connection:
            rollout = await GateRepository(connection).rollout(name)
        if rollout is None or rollout.service not in services:
            raise NotFound(_missing(name))

    async def evaluate(self, name: str, stage: str = "") -> Json:
        """Return the answer `gate/v1` for a rollout; `stage` is only repeated in it.

        Raises:
            NotFound: there is no such rollout.
            StoreUnavailable: there is no answer at all.
        """
        started = time.perf_counter()
        answer = await self._answer(name, stage)
        self._metrics.gate_evaluated(name, answer["verdict"], self._clock().timestamp(), time.perf_counter() - started)
        self._metrics.gate_answered(answer)
        decision_url = f"{self._base_url}/v1/gates/{name}/decisions/{answer['decision_id']}"
        return answer | {"stage": stage, "decision_url": decision_url}

    async def _answer(self, name: str, stage: str) -> Json:
        async with self._database.reading() as connection:
            rollout = await GateRepository(connection).rollout(name)
        if rollout is None:
            raise NotFound(_missing(name))
        if rollout.failed_answer is not None:
            return _latched(rollout.failed_answer)

        as_of = self._clock()
        async with self._database.reading() as connection:
            records = await GateRepository(connection).counts(rollout.service, rollout.harm_arm, rollout.started_at)
        # Where a record has decided, a Prometheus that hangs must not hold the answer up.
        decided = bool(records.violations or records.session_leaks)
        reading, asked = await self._read_metrics(rollout, as_of, _PATIENCE_AFTER_RECORD_S if decided else None)
        minutes, minutes_asked = await self._read_minutes(rollout, as_of, known_only=decided)
        inputs = Inputs((as_of - rollout.evidence_since).total_seconds(), records, reading, minutes)
        decision = _decide(_plan(rollout, self._scrape_stale_after_s), inputs, asked | minutes_asked, as_of, rollout, stage)
        known = self._last.instead_of(decision, stage, minutes)
        if known is not None:
            # Another evaluation, here or in another replica, may have closed the latch while Prometheus was asked.
            async with self._database.reading() as connection:
                meanwhile = await GateRepository(connection).rollout(name)
            return known if meanwhile is None or meanwhile.failed_answer is None else _latched(meanwhile.failed_answer)

        async with self._database.writing() as connection:
            repository = GateRepository(connection)
            await repository.lock(name)
            meanwhile = await repository.rollout(name)
            if meanwhile is not None and meanwhile.failed_answer is not None:
                return _latched(meanwhile.failed_answer)
            await repository.add(decision)
            if decision.verdict == "fail":
                await repository.latch(decision, rollout.started_at)
        self._last.keep(decision, stage, minutes)
        return decision.answer

    async def _read_minutes(
        self, rollout: WatchedRollout, as_of: datetime, *, known_only: bool
    ) -> tuple[MinuteReading | None, dict[str, str]]:
        """Return the stage minute by minute; None where nothing is compared. `known_only`: ask nobody, what was read will do."""
        stage = rollout.stage
        if stage is None or stage.comparison is None:
            self._watched.pop(rollout.name, None)
            return None, {}
        watched = self._watched.get(rollout.name)
        if watched is None or watched.stage != stage:
            if len(self._watched) >= _WATCHED_LIMIT:
                self._watched.pop(next(iter(self._watched)))
            book = MinuteBook(rollout.service, rollout.name, stage.started_at, stage.changed_at)
            watched = self._watched[rollout.name] = _Watched(stage, book)
        if self._source is None:
            return MinuteReading(problem="no Prometheus is configured: set COLLECTOR_PROMETHEUS_URL"), {}
        if known_only:
            return watched.book.reading(stage.comparison), {}
        # Two at a time would read the same minutes twice.
        async with watched.lock:
            reading = await watched.book.read(self._source, stage.comparison, as_of, chunks=_CHUNKS_AT_ONCE)
        return reading, {f"minutes_{name}": query for name, query in watched.book.queries.items()}

    async def _read_metrics(
        self, rollout: WatchedRollout, as_of: datetime, patience_s: float | None
    ) -> tuple[MetricReading, dict[str, str]]:
        if self._source is None:
            return MetricReading(problem="no Prometheus is configured: set COLLECTOR_PROMETHEUS_URL"), {}
        length_ms = max(1, round((as_of - rollout.evidence_since).total_seconds() * 1000))
        asked = queries(Window(rollout.service, rollout.arm, length_ms))
        try:
            async with asyncio.timeout(patience_s):
                values = await self._source.read(asked, as_of)
        except SourceUnavailable as error:
            return MetricReading(problem=str(error)), asked
        except TimeoutError:
            return MetricReading(problem="Prometheus was not waited for: records had decided already"), asked
        numbers: dict[str, Any] = {**values, **{name: int(values[name] or 0) for name in _TARGETS}}  # Any: int beside float
        return MetricReading(**numbers), asked

    async def decision(self, rollout: str, decision_id: str) -> Decision:
        """Return a stored decision.

        Raises:
            NotFound: this rollout has no such decision.
        """
        async with self._database.reading() as connection:
            found = await GateRepository(connection).decision(rollout, decision_id)
        if found is None:
            raise NotFound("this rollout has no decision with this id")
        return found

    async def newest(self) -> dict[str, Newest]:
        """Return what was said last of each rollout by its name, without judging anew."""
        async with self._database.reading() as connection:
            return await GateRepository(connection).newest()

    async def latest(self, rollout: str, limit: int) -> list[Decision]:
        """Return the newest decisions of a rollout, newest first, without making one."""
        async with self._database.reading() as connection:
            return await GateRepository(connection).latest(rollout, limit)


def _missing(name: str) -> str:
    return f"there is no rollout {name[:100]!r}: start it with POST /v1/rollouts"


def _decide(plan: GatePlan, inputs: Inputs, asked: dict[str, str], as_of: datetime, rollout: WatchedRollout, stage: str) -> Decision:
    judgement = judge(plan, inputs)
    config = asdict(plan) | {"started_at": rfc3339(rollout.started_at)}
    evidence = inputs.as_json() | {"queries": asked, "time": rfc3339(as_of)}
    config_sha256 = sha256(config)
    decision_id = uuid.uuid4().hex
    answer = _gate_answer(decision_id, plan, judgement, inputs, as_of, rollout.started_at, stage, config_sha256)
    return Decision(decision_id, plan.rollout, as_of, judgement.verdict, answer, evidence, config, config_sha256, sha256(evidence))


def _gate_answer(
    decision_id: str,
    plan: GatePlan,
    judgement: Judgement,
    inputs: Inputs,
    as_of: datetime,
    started_at: datetime,
    stage: str,
    config_sha256: str,
) -> Json:
    """Return `gate/v1`. No member is ever null and none changes its type: conditions of rollout tools read them."""
    answer: Json = {
        "schema": "gate/v1",
        "decision_id": decision_id,
        "rollout": plan.rollout,
        "stage": stage,
        "service": plan.service,
        "arm": plan.arm or "all",
        **judgement.as_json(),
        "verdict_code": VERDICT_CODES[judgement.verdict],
        "ok": judgement.verdict == "pass",
        "rollback": judgement.verdict == "fail",
        "hold": judgement.verdict in ("inconclusive", "error"),
        "latched": False,
        "thresholds": {
            "min_exposed_requests": plan.min_exposed_requests,
            "min_owed_events": plan.min_owed_events,
            "delivery_floor_percent": plan.delivery_floor_percent,
            "scrape_stale_after_s": plan.scrape_stale_after_s,
        },
        "started_at": rfc3339(started_at),
        "as_of": rfc3339(as_of),
        "config_sha256": config_sha256,
    }
    if inputs.metrics.data_age_s is not None:
        answer["data_age_s"] = round(max(0.0, inputs.metrics.data_age_s), 3)
    return answer


def _plan(rollout: WatchedRollout, scrape_stale_after_s: float) -> GatePlan:
    stage = rollout.stage
    return GatePlan(
        rollout.name, rollout.service, rollout.arm, rollout.min_exposed_requests, rollout.min_owed_events, scrape_stale_after_s,
        stage_kind=rollout.stage_kind, triggers=rollout.triggers, rolled_back=rollout.rolled_back,
        stage="" if stage is None else stage.name, comparison=None if stage is None else stage.comparison,
    )  # fmt: skip


def _latched(answer: Json) -> Json:
    """Return the answer that closed the latch: traffic that recovers, or ends, after a failure proves nothing."""
    return answer | {"latched": True}
