"""Migrations: they make exactly the tables that the code uses, up and down, on both databases."""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError

from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.models import Base, ViolationRow
from isolation_monitor.collector.storage.schema import _config, migrate, newest_revision
from tests.collector.conftest import until

OF_POSTGRESQL = "ix_violations_mentioned"
"""An index over an expression, which SQLite has no kind for: the migration makes it, as it makes the triggers."""


def is_partition(name: str | None) -> bool:
    return name is not None and re.search(r"_(d\d{8}|default)$", name) is not None


async def look(url: str, question: Any) -> Any:
    database = Database(url)
    try:
        async with database.reading() as connection:
            return await connection.run_sync(question)
    finally:
        await database.close()


async def test_the_migrated_schema_is_the_one_of_the_models(own_database_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "include_object": lambda _object, name, *_: not is_partition(name) and name != OF_POSTGRESQL}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))

    assert await look(own_database_url, differences) == []


async def test_downgrade_takes_everything_away_and_upgrade_brings_it_back(own_database_url: str) -> None:
    def tables(connection: Connection) -> set[str]:
        return {name for name in inspect(connection).get_table_names() if not is_partition(name)} - {"alembic_version"}

    assert await migrate(own_database_url, "base", down=True) == (newest_revision(), None)
    assert await look(own_database_url, tables) == set()

    assert await migrate(own_database_url) == (None, newest_revision())
    assert await look(own_database_url, tables) == set(Base.metadata.tables)


async def test_migrating_again_changes_nothing(own_database_url: str) -> None:
    assert await migrate(own_database_url) == (newest_revision(), newest_revision())


async def test_replicas_that_migrate_at_the_same_time_all_succeed(own_database_url: str) -> None:
    await migrate(own_database_url, "base", down=True)

    results = await asyncio.gather(*(migrate(own_database_url) for _ in range(4)))

    assert {after for _, after in results} == {newest_revision()}
    assert sorted(before is None for before, _ in results) == [False, False, False, True]


def test_every_migration_has_a_dated_file_name_and_says_what_it_locks() -> None:
    for script in ScriptDirectory.from_config(_config()).walk_revisions():
        name = Path(script.path).name
        assert name[:11].replace("_", "").isdigit(), name
        assert "Locks:" in (script.longdoc or script.doc), name
        assert "Duration:" in script.longdoc, name


async def test_what_was_stored_before_is_counted_by_what_is_accepted_for_now(own_database_url: str) -> None:
    """A month of evidence is there when the counts learn to tell it apart; going back counts it as before."""
    await migrate(own_database_url, "20261122_ci_tests", down=True)
    time = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    columns = {column.name: None for column in ViolationRow.__table__.columns if column.name != "suppressed"}
    texts = dict.fromkeys(("service", "instance", "kind", "detector", "arm", "summary", "fingerprint"), "x")
    same = columns | texts | {"day": time.date(), "time": time, "received_at": time, "grade": "crossed", "grade_sent": "crossed"}
    same |= {"synthetic": False, "count": 2, "extra": {}}
    details: list[dict[str, Any]] = [{}, {"suppressed": None}, {"suppressed": {"reason": "known"}}, {"note": "suppressed"}]
    database = Database(own_database_url)
    try:
        async with database.writing() as connection:
            for number, detail in enumerate(details):
                await connection.execute(ViolationRow.__table__.insert(), same | {"id": f"v-{number}", "detail": detail})  # type: ignore[attr-defined]

        async def counts(*names: str) -> list[tuple[Any, ...]]:
            async with database.reading() as connection:
                found = await connection.execute(text(f"SELECT {', '.join(names)} FROM violation_counts ORDER BY 1"))
                return [tuple(map(int, row)) for row in found]

        before = await counts("records", "violations")
        await migrate(own_database_url)
        after = await counts("suppressed", "records", "violations")
        await migrate(own_database_url, "20261122_ci_tests", down=True)
        again = await counts("records", "violations")
    finally:
        await database.close()

    assert before == again == [(4, 8)]
    assert after == [(0, 3, 6), (1, 1, 2)]


async def test_a_long_id_that_was_stored_before_its_index_stops_no_migration(own_database_url: str) -> None:
    await migrate(own_database_url, "20261123_lifecycle", down=True)
    time, long = datetime(2026, 1, 1, 12, 30, tzinfo=UTC), secrets.token_urlsafe(2400)
    texts = dict.fromkeys(("service", "instance", "kind", "detector", "arm", "summary", "fingerprint"), "x")
    row = texts | {"id": "v", "day": time.date(), "time": time, "received_at": time, "grade": "crossed", "grade_sent": "crossed"}
    row |= {"synthetic": False, "count": 1, "victim": {"run_id": long}, "offender": {"request_id": long}, "detail": {}, "extra": {}}
    database = Database(own_database_url)
    try:
        async with database.writing() as connection:
            await connection.execute(ViolationRow.__table__.insert(), row)  # type: ignore[attr-defined]

        assert (await migrate(own_database_url))[1] == newest_revision()
        async with database.reading() as connection:
            assert (await connection.execute(select(ViolationRow.victim))).scalar_one() == {"run_id": long}
    finally:
        await database.close()


@pytest.mark.parametrize("url", ["mysql://db/x", "sqlite://", "sqlite:///:memory:", "nonsense"])
async def test_an_unusable_database_address_is_refused_in_plain_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite"):
        await migrate(url)


@pytest.mark.parametrize("tries", [1, 5])
async def test_a_migration_that_meets_a_replica_in_a_deadlock_begins_again(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Replicas lock the tables in an order of their own. The replica here never gives way; the migration looks after three seconds."""
    if own_database_url.startswith("sqlite"):
        pytest.skip("SQLite has one lock")
    monkeypatch.setattr("isolation_monitor.collector.storage.schema._TRIES", tries)
    monkeypatch.setattr("isolation_monitor.collector.storage.schema._PAUSE_S", 0.01)
    await migrate(own_database_url, "20261122_suppressed_counts", down=True)
    database = Database(own_database_url, 60)
    try:
        async with database.writing() as connection:
            name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
            await connection.execute(text(f"ALTER DATABASE {name} SET deadlock_timeout = '3s'"))
        async with database.writing() as replica:
            await replica.execute(text("SET LOCAL deadlock_timeout = '600s'"))
            await replica.execute(text("LOCK TABLE violation_counts"))
            migrating = asyncio.create_task(migrate(own_database_url))
            await until(lambda: is_waiting(database))
            await replica.execute(text("LOCK TABLE violations"))
        if tries == 1:
            with pytest.raises(DBAPIError, match="deadlock detected"):
                await migrating
        else:
            assert (await migrating)[1] == newest_revision()
    finally:
        await database.close()


async def is_waiting(database: Database) -> bool:
    async with database.reading() as connection:
        return bool((await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one())
