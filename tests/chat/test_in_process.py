"""The chat service in this process, watched by the pytest plugin as its own tests would be: everybody may use it at once."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture
def isolation_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The service as its server would load it, with files of its own; the end of its lifespan takes its monitor off again."""
    environment = {
        "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'chat.sqlite3'}",
        "CHAT_SECRET_FILE": str(tmp_path / "chat.secret"),
        "ISOLATION_METRICS_DIR": str(tmp_path / "metrics"),
        "ISOLATION_HASH_KEY": "only for tests",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "chat.app", raising=False)
    return importlib.import_module("chat.app").app


@pytest.mark.isolation
async def test_users_side_by_side_see_nothing_of_each_other(isolation_app: Any, isolation: Any) -> None:
    async with (
        isolation_app.router.lifespan_context(isolation_app),
        httpx.AsyncClient(transport=httpx.ASGITransport(isolation_app), base_url="http://test") as client,
    ):

        async def visit(name: str) -> None:
            signed_in = (await client.post("/api/login", json={"name": name})).json()
            headers = {"authorization": f"Bearer {signed_in['token']}"}
            await client.put("/api/note", json={"text": f"the note of {name}"}, headers=headers)
            for _ in range(5):
                note = (await client.get("/api/note", headers=headers)).json()
                assert note == {"user_id": signed_in["user_id"], "text": f"the note of {name}"}

        await asyncio.gather(*(visit(f"user-{n}") for n in range(6)))

    assert isolation.monitor.app is isolation_app


async def test_a_run_that_nobody_knows_is_not_found_and_counted_as_a_failure(isolation_app: Any) -> None:
    async with (
        isolation_app.router.lifespan_context(isolation_app),
        httpx.AsyncClient(transport=httpx.ASGITransport(isolation_app), base_url="http://test") as client,
    ):
        signed_in = (await client.post("/api/login", json={"name": "ann"})).json()
        headers = {"authorization": f"Bearer {signed_in['token']}"}
        answers = [await client.get(f"/api/runs/{run}", headers=headers) for run in ("nobodys", "run_1")]
        page = (await client.get("/metrics/isolation")).text

    assert [answer.status_code for answer in answers] == [404, 404]
    [failed] = [line for line in page.splitlines() if line.startswith("isolation_id_resolutions_total{") and 'source="error"' in line]
    assert float(failed.split()[-1]) == 2
