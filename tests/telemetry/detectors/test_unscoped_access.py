"""Rows of declared models: reading others' is reported, every ordinary way to read one's own is not."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import ForeignKey, create_engine, event, func, or_, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.pool import StaticPool

from isolation_monitor.telemetry import SettingsError, names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.unscoped_access import UnscopedAccess, is_same
from isolation_monitor.telemetry.errors import UnscopedAccessError
from isolation_monitor.telemetry.lab import Lab


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    notes: Mapped[list[Note]] = relationship(back_populates="user")


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    user: Mapped[User | None] = relationship(back_populates="notes")


ANN, BOB, NOBODY = 1, 2, 3


@pytest.fixture
def session() -> Iterator[Callable[[], Session]]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as first:
        first.add_all([User(id="ann"), User(id="bob")])
        first.add_all([Note(id=ANN, text="a", user_id="ann"), Note(id=BOB, text="b", user_id="bob"), Note(id=NOBODY, text="n")])
        first.commit()
    yield lambda: Session(engine)
    engine.dispose()


@pytest.fixture
def run(make_monitor: Any, client: Any, session: Callable[[], Session]) -> Iterator[Any]:
    """Run a function within a request of `ann`; return the violations once all is judged."""
    made: list[Any] = []

    async def run(act: Callable[[Session], Any], *, expect: int = 0, setting: str = "", by: Any = "user_id") -> list[Any]:
        monitor = make_monitor(detectors=setting)
        monitor.owns(Note, by=by)
        made.append(monitor)
        app = FastAPI()

        @app.get("/x")
        async def x() -> dict[str, int]:
            with session() as own:
                run.result = act(own)  # type: ignore[attr-defined]  # handed back to the test
            return {"ok": 1}

        monitor.instrument(app)
        run.monitor = monitor  # type: ignore[attr-defined]  # handed back to the test
        run.answer = await client(app).get("/x", user="ann")  # type: ignore[attr-defined]  # handed back to the test
        await settled(monitor, expect)
        return [v for v in monitor.violations() if v.kind == names.UNSCOPED_ACCESS]

    yield run
    for monitor in made:
        monitor.uninstrument()
    assert not list(Session().dispatch.do_orm_execute)


async def settled(monitor: Any, expected: int) -> None:
    """Let the housekeeper do what is due now, and wait for violations that are expected."""
    done: list[int] = []
    monitor.housekeeper.after(0.05, lambda: done.append(1))
    for _ in range(2000):
        if done and len(monitor.violations()) >= expected:
            return
        await asyncio.sleep(0.01)


OWN: list[Callable[[Session], Any]] = [
    lambda s: s.scalars(select(Note).where(Note.user_id == "ann")).all(),
    lambda s: s.scalars(select(Note).where(Note.user_id.in_(["ann"]))).all(),
    lambda s: s.scalars(select(Note).filter_by(user_id="ann").order_by(Note.id).limit(1)).all(),
    lambda s: s.query(Note).filter(Note.user_id == "ann", Note.text.like("%a%")).all(),
    lambda s: s.scalars(select(Note).join(User).where(User.id == "ann")).all(),
    lambda s: s.scalars(select(Note).where(or_(Note.user_id == "ann", Note.user_id.is_(None)))).all(),
    lambda s: s.scalars(select(Note).where(Note.user_id.in_(select(User.id).where(User.id == "ann")))).all(),
    lambda s: s.execute(select(Note.text).where(Note.user_id == "ann")).all(),
    lambda s: s.get(Note, ANN),
    lambda s: s.get(Note, NOBODY),
    lambda s: s.scalars(select(Note).where(Note.id == ANN)).one(),
    lambda s: s.get(User, "ann").notes,
    lambda s: s.scalars(select(User).where(User.id == "ann").options(selectinload(User.notes))).one().notes,
    lambda s: s.scalars(select(User)).all(),
    lambda s: s.scalar(select(func.count()).select_from(Note)),
    lambda s: s.scalars(select(Note).where(Note.user_id == Note.user_id).where(Note.user_id == "ann")).all()[0].text,
]


@pytest.mark.parametrize("act", OWN, ids=range(len(OWN)))
async def test_reading_ones_own_rows_is_fine(run: Any, act: Callable[[Session], Any]) -> None:
    assert await run(act) == []
    assert run.answer.status == 200
    assert run.monitor.registry.value(names.CHECKS, detector=names.UNSCOPED_ACCESS, result="error") == 0


FOREIGN: list[Callable[[Session], Any]] = [
    lambda s: s.scalars(select(Note)).all(),
    lambda s: s.query(Note).filter(Note.text == "b").all(),
    lambda s: s.scalars(select(Note).where(Note.user_id == "bob")).all(),
    lambda s: s.scalars(select(Note).where(Note.user_id != "ann")).all(),
    lambda s: s.execute(select(Note.text)).all(),
    lambda s: s.get(Note, BOB),
    lambda s: s.scalars(select(Note).where(Note.id == BOB)).one(),
    lambda s: s.get(User, "bob").notes,
]


@pytest.mark.parametrize("act", FOREIGN, ids=range(len(FOREIGN)))
async def test_reading_others_rows_is_reported_with_the_line(run: Any, act: Callable[[Session], Any]) -> None:
    found = await run(act, expect=1)

    assert found
    assert {v.grade for v in found} == {"reachable"}
    assert any("test_unscoped_access.py" in line and "<lambda>" in line for line in found[0].offender.stack)
    assert "bob" not in str([v.as_record() for v in found])


async def test_a_foreign_row_that_the_application_refuses_is_no_violation(run: Any) -> None:
    """Load by id, look whose it is, answer 404: the check that every fixed service has."""

    def act(own: Session) -> None:
        note = own.get(Note, BOB)
        if note is None or note.user_id != "ann":
            raise HTTPException(404)

    assert await run(act) == []
    assert run.answer.status == 404


async def test_a_callable_may_name_several_owners(run: Any) -> None:
    assert await run(lambda s: s.get(Note, BOB), by=lambda inside: ["ann", inside.get("user_id")]) == []
    assert len(await run(lambda s: s.get(Note, BOB), by=lambda inside: inside.get("user_id"), expect=1)) == 1


async def test_unscoped_blocks_are_let_through_and_logged(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    def act(own: Session) -> int:
        with run.monitor.unscoped(reason="the administrator's list"):
            return len(own.scalars(select(Note)).all())

    caplog.set_level(logging.INFO, logger="isolation_monitor")

    assert await run(act) == []
    assert run.result == 3
    assert "the administrator's list" in caplog.text
    assert "act" in caplog.text


async def test_block_mode_refuses_the_query_before_it_runs(run: Any, session: Callable[[], Session]) -> None:
    statements: list[str] = []

    def act(own: Session) -> None:
        event.listen(own.get_bind(), "before_cursor_execute", lambda *a: statements.append(a[2]))
        with pytest.raises(UnscopedAccessError, match="user_id"):
            own.scalars(select(Note))
        own.scalars(select(Note).where(Note.user_id == "ann")).all()

    assert len(await run(act, setting="unscoped_access=block", expect=1)) == 1
    assert len(statements) == 1


async def test_outside_of_requests_and_without_a_user_nothing_is_judged(run: Any, session: Callable[[], Session]) -> None:
    await run(lambda s: None)
    before = len(run.monitor.violations())

    with session() as own:
        CURRENT.set(None)
        own.scalars(select(Note)).all()

    assert len(run.monitor.violations()) == before


async def test_one_place_is_reported_once_for_queries(run: Any) -> None:
    def act(own: Session) -> None:
        for _ in range(50):
            own.execute(select(Note.text)).all()

    assert len(await run(act, expect=1)) == 1


async def test_a_failing_owner_function_never_reaches_the_application(run: Any) -> None:
    def by(inside: dict[str, Any]) -> str:
        raise LookupError("the host's own mistake")

    assert await run(lambda s: s.get(Note, BOB), by=by) == []
    assert run.answer.status == 200
    assert run.monitor.registry.value(names.CHECKS, detector=names.UNSCOPED_ACCESS, result="error") > 0


def test_wrong_declarations_fail_at_start(monitor: Any) -> None:
    with pytest.raises(SettingsError, match="no such column; it has id, text, user_id"):
        monitor.owns(Note, by="owner")
    with pytest.raises(SettingsError, match="no mapped class"):
        monitor.owns(dict, by="owner")


def test_uuids_are_the_same_with_and_without_dashes(monitor: Any) -> None:
    value = uuid.uuid4()

    assert is_same(value, monitor.principals.named(value.hex))
    assert is_same(7, monitor.principals.named("7"))
    assert not is_same(uuid.uuid4(), monitor.principals.named(value.hex))


async def test_a_planted_violation_is_reported_as_synthetic(monitor: Any) -> None:
    monitor.detection.unscoped_access.plant(Lab(monitor.principals))
    await settled(monitor, 1)

    assert [(v.kind, v.synthetic) for v in monitor.violations(synthetic=True)] == [(names.UNSCOPED_ACCESS, True)]


def test_what_is_remembered_is_bounded(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.detectors.unscoped_access.SITES_LIMIT", 10)
    detector: UnscopedAccess = monitor.detection.unscoped_access
    lab = Lab(monitor.principals)

    for n in range(50):
        lab.inside(lab.request(), detector.selected, f"Model{n}", "user_id", [])

    assert len(detector._sites) == 10
