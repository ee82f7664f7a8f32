"""The registry of several workers, on real databases: one word for all, limits, expiry, and processes that race."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, inspect, text

from isolation_monitor.telemetry import SettingsError
from isolation_monitor.telemetry.resolution import Entry
from isolation_monitor.telemetry.resolution import sql_registry as module
from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry, registry_table
from tests.telemetry.resolution.conftest import settled, sync_url

MakeRegistry = Callable[..., Awaitable[SqlRegistry]]
FAR = 4_000_000_000.0


class Clock:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def entry(run: str, thread: str = "t_1", owner: str | None = "ana", expires_at: float = FAR) -> Entry:
    return Entry(run, thread, owner, "created", expires_at)


async def test_what_one_worker_registers_another_knows(make_registry: MakeRegistry) -> None:
    one, other = await make_registry(), await make_registry()

    await settled(one.put(entry("run_1", "t_1", "ana")))
    found = await settled(other.get("run_1"))

    assert (found.thread_id, found.owner, found.source) == ("t_1", "ana", "created")
    assert await settled(other.get("run_2")) is None


async def test_the_first_word_holds_for_all_and_the_second_is_told(make_registry: MakeRegistry) -> None:
    one, other = await make_registry(), await make_registry()
    await settled(one.put(entry("run_1", "t_1", "ana")))

    held = await settled(other.put(entry("run_1", "t_2", "ben")))

    assert (held.thread_id, held.owner) == ("t_1", "ana")


async def test_an_owner_is_filled_in_for_all_workers(make_registry: MakeRegistry) -> None:
    one, other, third = await make_registry(), await make_registry(), await make_registry()
    await settled(one.put(entry("run_1", owner=None)))

    await settled(other.put(entry("run_1", owner="ana")))

    assert (await settled(third.get("run_1"))).owner == "ana"
    assert (await settled(one.put(entry("run_1", owner="ben")))).owner == "ana"


async def test_a_known_run_is_answered_from_memory_without_the_database(make_registry: MakeRegistry) -> None:
    one = await make_registry()
    await settled(one.put(entry("run_1")))

    assert one.peek("run_1") is not None
    assert one.peek("run_2") is None


async def test_an_expired_run_is_nobodys_and_may_be_registered_anew(make_registry: MakeRegistry) -> None:
    clock = Clock()
    one, other = await make_registry(clock=clock), await make_registry(clock=clock)
    await settled(one.put(entry("run_1", "t_1", expires_at=1_010.0)))

    clock.now = 1_010.0

    assert await settled(other.get("run_1")) is None
    assert one.peek("run_1") is None
    assert (await settled(one.put(entry("run_1", "t_2")))).thread_id == "t_2"
    assert (await settled(other.get("run_1"))).thread_id == "t_2"


async def test_the_table_keeps_to_its_limit_and_loses_what_has_expired(
    make_registry: MakeRegistry, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY", 10)
    clock = Clock()
    registry = await make_registry(limit=20, clock=clock)

    for n in range(5):
        await settled(registry.put(entry(f"old_{n}", expires_at=1_001.0)))
    clock.now = 1_002.0
    for n in range(55):
        await settled(registry.put(entry(f"run_{n:02}", expires_at=2_000.0 + n)))

    engine = create_engine(sync_url(database))
    with engine.connect() as connection:
        left = list(connection.execute(text("SELECT run_id FROM isolation_run ORDER BY run_id")).scalars())
    engine.dispose()
    assert left == [f"run_{n:02}" for n in range(35, 55)]


async def test_the_table_of_the_applications_own_metadata_is_the_same(make_registry: MakeRegistry, database: str) -> None:
    """Migrations of the application make it; the registry then finds what it needs."""
    await make_registry()
    metadata = MetaData()
    registry_table(metadata)

    engine = create_engine(sync_url(database))
    columns = {column["name"]: column["nullable"] for column in inspect(engine).get_columns("isolation_run")}
    engine.dispose()

    assert columns == {column.name: bool(column.nullable) for column in metadata.tables["isolation_run"].columns}


_RACE = """
import json, sys
from sqlalchemy import create_engine
from isolation_monitor.telemetry.resolution import Entry
from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry
url, worker = sys.argv[1:]
engine = create_engine(url, **({"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}))
registry = SqlRegistry(engine)
registry.create_table()
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
held = {}
for n in range(30):
    held[n] = registry.put(Entry(f"run_{n}", f"t_{worker}", f"user_{worker}", "created", 4e9)).owner
json.dump(held, sys.stdout)
"""


def test_processes_that_register_the_same_runs_at_once_all_learn_the_same(database: str) -> None:
    """Each believes that the runs are of its own user. Four processes, one database, and one truth: nobody is told anything else."""
    command = [sys.executable, "-c", _RACE, sync_url(database)]
    workers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    try:
        # All made the table at once, on a database that had none.
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n", worker.stderr and worker.stderr.read()
        told: list[dict[str, Any]] = []
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            out, err = worker.communicate(timeout=120)
            assert worker.returncode == 0, err
            told.append(json.loads(out))
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()

    assert all(one == told[0] for one in told)
    engine = create_engine(sync_url(database))
    with engine.connect() as connection:
        kept = dict(iter(connection.execute(text("SELECT run_id, owner FROM isolation_run"))))
    engine.dispose()
    assert kept == {f"run_{n}": owner for n, owner in told[0].items()}


@pytest.mark.parametrize("engine", [None, "sqlite://", object()])
def test_what_is_no_engine_is_refused_at_start(engine: object) -> None:
    with pytest.raises(SettingsError, match="Engine"):
        SqlRegistry(engine)  # type: ignore[arg-type]


def test_an_engine_of_another_database_is_refused_at_start(tmp_path: Path) -> None:
    from sqlalchemy.dialects import mssql

    engine = create_engine("sqlite://")
    engine.dialect = mssql.dialect()

    with pytest.raises(SettingsError, match="PostgreSQL and SQLite"):
        SqlRegistry(engine)
