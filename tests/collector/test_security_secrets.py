"""Secrets: in no text of an error, a log or a repr; files that hold evidence are open to their owner alone."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from isolation_monitor.collector.settings import load_settings
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.schema import migrate
from isolation_monitor.telemetry.settings import load_settings as load_telemetry_settings
from tests.collector.conftest import Api, bearer

Running = Callable[..., AbstractAsyncContextManager[Api]]
SECRET = "do-not-show-this"


def test_no_repr_of_the_collectors_settings_shows_one() -> None:
    tokens = {f"{name}_token": f"{SECRET}-{name}" for name in ("send", "read", "alerts", "operate", "gates", "prometheus", "grafana")}
    urls = {f"{name}_url": f"http://ann:{SECRET}@host" for name in ("prometheus", "grafana", "alertmanager")}
    settings = load_settings(database_url=f"postgresql://ann:{SECRET}@host/db", **tokens, **urls)

    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in repr(settings.load_keys())


def test_no_repr_of_the_services_settings_shows_one() -> None:
    settings = load_telemetry_settings({"collector_token": SECRET, "hash_key": SECRET, "metrics_token": SECRET}, environ={})

    assert settings.hash_key == SECRET
    assert SECRET not in repr(settings)


async def test_a_store_that_is_away_tells_no_password() -> None:
    database = Database(f"postgresql://ann:{SECRET}@127.0.0.1:1/db", 2.0)
    try:
        with pytest.raises(StoreUnavailable) as away:
            async with database.reading():
                raise AssertionError("it must not open")
    finally:
        await database.close()

    assert SECRET not in str(away.value)


async def test_no_token_reaches_the_log_or_an_answer(
    make_api: Running, sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isolation_monitor.collector.queues.service import QueueService

    async def broken(*_about: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(QueueService, "deepest", broken)
    caplog.set_level(logging.DEBUG)

    async with make_api(sqlite_url, operate_token=SECRET) as api:
        for headers in (bearer(f"{SECRET}-wrong"), bearer(SECRET)):
            answers = [
                await api.client.post("/v1/records", json={"records": SECRET}, headers=headers),
                await api.client.get("/v1/queues", headers=headers),
                await api.client.post("/v1/rollouts/x/start", content=b"{", headers=headers),
            ]
            assert not any(SECRET in answer.text for answer in answers)
        defect = await api.get("/v1/queues")

    assert defect.status_code == 500
    assert "a defect" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_file_of_a_new_database_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        asyncio.run(_filled(f"sqlite:///{tmp_path / 'evidence.sqlite3'}", tmp_path))
    finally:
        os.umask(before)


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def _filled(url: str, folder: Path) -> None:
    await migrate(url)
    database = Database(url)
    try:
        async with database.writing() as connection:
            await connection.exec_driver_sql("CREATE TABLE x (y)")
            # With its write-ahead log and shared memory, which are made beside it.
            modes = _modes(folder)
    finally:
        await database.close()

    assert "evidence.sqlite3-wal" in modes
    assert set(modes.values()) == {0o600}, modes
