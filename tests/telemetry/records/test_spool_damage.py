"""What says that a file of the spool is broken, and what says so of something else: a healthy file is never set aside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from isolation_monitor.telemetry.records.batches import Batch, pack
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.spool import Spool
from isolation_monitor.telemetry.records.spool_file import DamagedSpoolError, SpoolFile, is_damage
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder


def packed(id: str, instance: str = "host:1") -> Batch:
    [batch] = pack([{"type": "violation", "id": id, "grade": "crossed"}], instance, lambda error: None)
    return batch


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpoolFile]:
    made = SpoolFile.create(tmp_path)
    made.add([packed("a")])
    yield made
    made.discard()


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def spool(tmp_path: Path, counts: Counter[str]) -> Iterator[Spool]:
    made = Spool(SpoolFolder(str(tmp_path), "chat"), 1 << 26, 1000, lambda what, n: counts.update({what: n}), QuietLog())
    yield made
    made.close(5)


def test_a_host_whose_name_is_in_no_encoding_is_spooled(spool: Spool, counts: Counter[str]) -> None:
    assert spool.add([packed("a")])
    assert spool.add([packed("b", "h\udcff:1")])

    assert counts == {"spooled": 2}
    assert spool._own is not None
    assert [spool._own.first(passed).instance for passed in ((), (1,))] == ["host:1", "h\\udcff:1"]  # type: ignore[union-attr]


def test_a_batch_that_no_database_holds_is_no_damage_of_the_file(file: SpoolFile) -> None:
    for wrong in (replace(packed("b"), gravity=1 << 70), replace(packed("b"), body="text")):  # type: ignore[arg-type]
        with pytest.raises(sqlite3.DataError) as raised:
            file.add([wrong])
        assert not is_damage(raised.value)
        with pytest.raises(sqlite3.DataError) as raised:
            file.replace(1, [wrong])
        assert not is_damage(raised.value)

    assert file.records == 1
    found = file.first(())
    assert found is not None
    assert b'"a"' in found.text()


def test_a_transaction_that_was_left_open_is_ended_and_the_file_goes_on(spool: Spool, counts: Counter[str]) -> None:
    assert spool.add([packed("a")])
    assert spool._own is not None
    connection = spool._own._opened()
    connection.execute("BEGIN")
    connection.execute("DELETE FROM batches")

    assert spool.add([packed("b")])

    assert counts == {"spooled": 2}
    assert spool._own.first((2,)) is not None, "what was not committed did not happen"


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN IMMEDIATE", "PRAGMA journal_mode=DELETE", "VACUUM", "PRAGMA synchronous=OFF"])
def test_what_a_connection_cannot_do_now_is_no_damage(file: SpoolFile, statement: str) -> None:
    connection = file._opened()
    connection.execute("BEGIN")
    with pytest.raises(sqlite3.OperationalError, match="transaction") as refused:
        connection.execute(statement)
    assert not is_damage(refused.value)
    connection.execute("ROLLBACK")
    for ending in ("COMMIT", "ROLLBACK"):
        with pytest.raises(sqlite3.OperationalError, match="no transaction is active") as raised:
            connection.execute(ending)
        assert not is_damage(raised.value)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE batches",
        "ALTER TABLE batches RENAME COLUMN crc TO gone",
        "DROP TABLE batches; CREATE VIEW batches AS SELECT 1 AS number, 2 AS gravity, 3 AS records, 4 AS crc, 5 AS instance, 6 AS body",
    ],
)
def test_tables_that_are_not_ours_are_damage(file: SpoolFile, damage: str) -> None:
    file.release()
    with contextlib.closing(sqlite3.connect(file.path)) as connection:
        connection.executescript(damage)

    with pytest.raises((sqlite3.OperationalError, DamagedSpoolError)) as raised:
        file.add([packed("b")])
    assert is_damage(raised.value), raised.value
