"""Rows for provenance: every way to a row is followed while somebody asks for it, and none otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import cursor as theirs
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.instrument.sqlalchemy_reads import SqlReads
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.provenance import Stores, was_fetched

SECRET = "the secret of ann"


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def request_of_ann(monitor: Any) -> RequestContext:
    return Lab(monitor.principals).request()


@pytest.fixture
async def notes(async_engine: AsyncEngine) -> AsyncEngine:
    async with async_engine.begin() as connection:
        await connection.execute(text("INSERT INTO notes VALUES (1, :t), (2, 'x')"), {"t": SECRET})
    return async_engine


WAYS: list[Callable[[AsyncSession], Any]] = [
    lambda s: s.execute(select(Note)),
    lambda s: s.get(Note, 1),
    lambda s: s.scalar(select(Note.text).where(Note.id == 1)),
    lambda s: s.execute(text("SELECT text FROM notes ORDER BY id")),
]


@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
async def test_every_way_to_a_row_is_followed(notes: AsyncEngine, request_of_ann: RequestContext, way: Callable[..., Any]) -> None:
    reads = SqlReads(Stores())
    token = CURRENT.set(request_of_ann)
    reads.start()
    try:
        async with AsyncSession(notes) as session:
            result = await way(session)
            if hasattr(result, "all"):
                result.all()
    finally:
        reads.stop()
        CURRENT.reset(token)

    assert was_fetched(request_of_ann, SECRET)
    assert not was_fetched(request_of_ann, "the secret of bob")


async def test_streamed_rows_are_followed(notes: AsyncEngine, request_of_ann: RequestContext) -> None:
    reads = SqlReads(Stores())
    token = CURRENT.set(request_of_ann)
    reads.start()
    try:
        async with AsyncSession(notes) as session:
            found = [row async for row in await session.stream(select(Note.text), execution_options={"yield_per": 1})]
    finally:
        reads.stop()
        CURRENT.reset(token)

    assert len(found) == 2
    assert was_fetched(request_of_ann, SECRET)


def test_the_parameters_come_along(request_of_ann: RequestContext) -> None:
    engine = create_engine("sqlite://")
    reads = SqlReads(Stores())
    token = CURRENT.set(request_of_ann)
    reads.start()
    with Session(engine) as session:
        session.execute(text("SELECT :who"), {"who": "ann"}).all()
    reads.stop()
    CURRENT.reset(token)

    assert [("ann" in str(read.key), read.values) for read in request_of_ann.fetched or ()] == [(True, [("ann",)])]


def test_stopped_the_originals_are_back() -> None:
    def hooks() -> list[Any]:
        return [
            vars(getattr(theirs, strategy))[method]
            for strategy in ("CursorFetchStrategy", "BufferedRowCursorFetchStrategy", "FullyBufferedCursorFetchStrategy")
            for method in ("fetchone", "fetchmany", "fetchall")
        ]

    before = hooks()
    reads = SqlReads(Stores())
    for _ in range(2):
        reads.start()
        reads.start()
        assert all(now is not then for now, then in zip(hooks(), before, strict=True))
        reads.stop()
        reads.stop()

        assert hooks() == before


def test_outside_of_requests_and_with_failing_stores_rows_arrive(request_of_ann: RequestContext) -> None:
    class Broken(Stores):
        def read(self, *_: Any) -> None:  # type: ignore[override]  # any call fails
            raise LookupError("ours")

    errors: list[BaseException] = []
    engine = create_engine("sqlite://")
    reads = SqlReads(Broken(), errors.append)
    reads.start()
    try:
        with Session(engine) as session:
            assert session.execute(text("SELECT 1")).all() == [(1,)]
            assert errors == []
            token = CURRENT.set(request_of_ann)
            assert session.execute(text("SELECT 1")).all() == [(1,)]
            CURRENT.reset(token)
    finally:
        reads.stop()

    assert [type(error) for error in errors] == [LookupError]


async def test_reads_of_engines_that_nobody_passed_are_followed_from_the_first_suspicion_on(monitor: Any) -> None:
    before = RequestContext(monitor.principals.named("ann"), {"type": "http", "path": "/", "method": "GET", "headers": []}, None, None)
    assert not monitor.detection.sql_reads.is_on
    monitor.instrument(lambda *_: None)
    assert monitor.detection._reads_are_known(before), "no engine was used"
    unpassed = create_engine("sqlite://")
    with unpassed.connect():
        assert monitor.detection.has_unpassed_engines

    assert not monitor.detection._reads_are_known(before), "it may have read before"
    assert monitor.detection.sql_reads.is_on
    after = RequestContext(monitor.principals.named("ann"), {"type": "http", "path": "/", "method": "GET", "headers": []}, None, None)
    assert not monitor.detection._reads_are_known(before)
    assert monitor.detection._reads_are_known(after)
    monitor.uninstrument()
    assert not monitor.detection.sql_reads.is_on
    unpassed.dispose()


async def test_an_engine_that_was_passed_is_not_one_that_nobody_passed(monitor: Any) -> None:
    engine = create_engine("sqlite://")
    monitor.instrument(lambda *_: None, engine=engine)
    with engine.connect():
        assert not monitor.detection.has_unpassed_engines
    engine.dispose()
