"""The write path as a machine of states: whatever happens in whatever order, what was acknowledged is stored, and stored once.

The collector is the real one on a real SQLite file. It is sent new records and old ones, in any order and at once; it is
abandoned in the middle of a batch and opened again; its disk is full (a limit of pages) and has room again; its clock jumps.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text

from isolation_monitor.collector.app import create_app
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.evidence.domain import Stored
from isolation_monitor.collector.evidence.intake import Held
from isolation_monitor.collector.evidence.rows import Delivery
from isolation_monitor.collector.evidence.writer import RecordWriter
from isolation_monitor.collector.settings import load_settings
from tests.collector.conftest import READ, SEND, START, Api, FrozenClock, bearer

Ids = list[str]


class WritePath(RuleBasedStateMachine):
    migrated: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="isomon-write-path-"))
        self.runner = asyncio.Runner()
        self.clock = FrozenClock()
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.accepted = 0
        """Records that answers called new. A record of an answer that was lost may be called a duplicate later, never the other way."""
        self.is_full = False
        self.stack: contextlib.AsyncExitStack | None = None

    @initialize()
    def open(self) -> None:
        shutil.copy(self.migrated, self.folder / "collector.sqlite3")
        self.runner.run(self._open())

    async def _open(self) -> None:
        url = f"sqlite+aiosqlite:///{self.folder / 'collector.sqlite3'}"
        app = create_app(load_settings(database_url=url, send_token=SEND, read_token=READ), self.clock)
        self.stack = contextlib.AsyncExitStack()
        await self.stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        client = await self.stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url="http://collector"))
        self.api = Api(client, app, self.clock)

    @rule(batches=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=4))
    def send(self, batches: list[list[int]]) -> None:
        """Send batches at once. Small numbers: ids come again within a batch, between batches and later, in any order."""
        self.runner.run(self._send([[f"v-{n:02d}" for n in numbers] for numbers in batches]))

    async def _send(self, batches: list[Ids]) -> None:
        answers = await asyncio.gather(*(self._post(ids) for ids in batches))
        for ids, answer in zip(batches, answers, strict=True):
            self.sent.update(ids)
            assert answer.status_code == 200 or (answer.status_code == 503 and self.is_full), answer.text
            if answer.status_code == 200:
                told = answer.json()
                assert (told["rejected"], told["accepted"] + told["duplicate"]) == ([], len(ids))
                self.acknowledged.update(ids)
                self.accepted += told["accepted"]

    async def _post(self, ids: Ids) -> Any:
        # The time of a sender whose clock is right, whatever the collector's says.
        return await self.api.send(*(self.api.violation(id=one, time=rfc3339(START), detail={"text": "x" * 2_000}) for one in ids))

    @rule(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=12), steps=st.integers(0, 12))
    def crash(self, numbers: list[int], steps: int) -> None:
        """Abandon the collector `steps` turns of the loop after a batch was given to it, and open another on what is there."""
        self.runner.run(self._crash([f"v-{n:02d}" for n in numbers], steps))

    async def _crash(self, ids: Ids, steps: int) -> None:
        sender = asyncio.create_task(self._post(ids))
        for _ in range(steps):
            await asyncio.sleep(0)
        self.sent.update(ids)
        writer = self.api.app.state.record_writer
        # Its transaction is given up wherever it is; nobody is answered any more.
        writer._task.cancel()
        sender.cancel()
        await asyncio.gather(sender, writer._task, return_exceptions=True)
        writer._task = None
        await self._close()
        self.is_full = False
        await self._open()

    @rule()
    def fill_the_disk(self) -> None:
        self.runner.run(self._limit_pages(0))
        self.is_full = True

    @rule()
    def make_room(self) -> None:
        self.runner.run(self._limit_pages(1_000_000))
        self.is_full = False

    async def _limit_pages(self, limit: int) -> None:
        # The pool of writers has one connection. SQLite never goes below what is there.
        async with self.api.app.state.runtime.database.writing() as connection:
            await connection.execute(text(f"PRAGMA max_page_count={limit or 1}"))

    @rule(hours=st.integers(-23, 23))
    def jump(self, hours: int) -> None:
        self.clock.now = START
        self.clock.advance(3600 * hours)

    @invariant()
    def what_was_acknowledged_is_stored_once(self) -> None:
        if self.stack is None:
            return
        stored = self.runner.run(self._stored())
        assert len(stored) == len(set(stored))
        assert self.acknowledged <= set(stored) <= self.sent
        assert self.accepted <= len(stored)

    async def _stored(self) -> Ids:
        answer = await self.api.client.get("/v1/violations?limit=1000", headers=bearer(READ))
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    async def _close(self) -> None:
        if self.stack is not None:
            await self.stack.aclose()

    def teardown(self) -> None:
        self.runner.run(self._close())
        self.runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def run(migrated: Path, examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    machine: Any = WritePath.TestCase
    WritePath.migrated = migrated
    machine.settings = settings(
        max_examples=examples,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 50,
        database=None,
        phases=phases,
    )
    machine("runTest").runTest()


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_whatever_happens_acknowledged_records_are_stored_once(migrated_sqlite: Path, examples: int) -> None:
    run(migrated_sqlite, examples)


def test_a_writer_that_answers_before_the_commit_is_found_out(migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: this test can fail."""
    keep = RecordWriter.keep

    async def early(writer: RecordWriter, delivery: Delivery, held: Held) -> Stored:
        hopeful = asyncio.create_task(keep(writer, delivery, held))
        hopeful.add_done_callback(lambda done: done.cancelled() or done.exception())
        return Stored(len(delivery), 0)

    monkeypatch.setattr(RecordWriter, "keep", early)

    with pytest.raises(AssertionError):
        run(migrated_sqlite, 40, (Phase.generate,))
