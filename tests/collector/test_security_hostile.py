"""A hostile client: what it sends is refused in plain words, and nothing that it sends is a defect, now or for who reads later."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import text

from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from tests.collector.conftest import SEND, Api, bearer
from tests.collector.test_alerts import alert, delivery, post

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def lean(make_api: Callable[..., Any], sqlite_url: str) -> AsyncIterator[Api]:
    async with make_api(sqlite_url) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "/v1/violation-groups?since=9999-12-31T23:59:59Z",
        "/v1/violation-history?since=9999-12-31T22:00:00Z&until=9999-12-31T23:59:59Z",
        "/v1/violations?since=1e300",
        "/v1/incidents?since=0001-01-01T00:00:00Z",
    ],
)
async def test_a_time_at_the_end_of_the_calendar_is_refused_in_plain_words(lean: Api, path: str) -> None:
    """Ranges are rounded to hours and days: beyond the last day there is nothing to round to."""
    answer = await lean.get(path)

    assert answer.status_code == 422
    assert "Value error" not in answer.text
    assert "is beyond the calendar" in answer.text or "is not RFC 3339, such as" in answer.text


async def test_an_alert_of_the_year_one_breaks_no_page(api: Api) -> None:
    """Go's zero time: a client that sets no start sends it."""
    assert (await post(api, delivery(alert(startsAt="0001-01-01T00:00:00Z")))).status_code == 200
    assert (await api.apply()).status_code == 201
    await api.step("start")

    (item,) = (await api.get("/v1/incidents")).json()["items"]

    assert item["started_at"].startswith("0001-01-01")
    assert (await api.get(f"/v1/incidents/{item['id']}")).status_code == 200
    assert (await api.get("/v1/alerts")).status_code == 200


async def test_a_body_that_is_no_object_is_told_so(lean: Api) -> None:
    answer = await lean.client.post("/v1/alerts", content=b"[]", headers=bearer(SEND) | JSON)

    assert (answer.status_code, answer.json()["detail"]) == (422, "not a webhook of Alertmanager, version 4: the body: is no JSON object")


async def test_half_a_surrogate_pair_in_the_envelope_is_no_defect(lean: Api) -> None:
    """Fuzzing found it: Python's decoder reads what no text can hold."""
    envelope = lean.batch(lean.violation(id="v")) | {"service": "chat\ud800", "\udc00": 1}

    answer = await lean.client.post("/v1/records", content=json.dumps(envelope).encode(), headers=bearer(SEND) | JSON)

    assert answer.json()["accepted"] == 1
    assert (await lean.get("/v1/violations/v")).json()["service"] == "chat?"


async def test_a_store_that_does_not_answer_says_why_and_when_to_ask_again(lean: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 for readers, too: whoever waits for a connection in vain, or asks too much, learns which of both it was."""
    database: Database = lean.app.state.runtime.database
    database._reader.pool._timeout = 0.1  # type: ignore[attr-defined]  # the pool's own; else this waits for seconds
    held = [await database._reader.connect() for _ in range(5)]
    try:
        for one in held:
            await one.execute(text("SELECT 1"))
        busy = await lean.get("/v1/alerts")
    finally:
        for one in held:
            await one.close()
    database._timeout_s = 0.0
    with pytest.raises(StoreUnavailable, match="COLLECTOR_STORE_TIMEOUT_S"):
        async with database.reading(0.2) as connection:
            await connection.execute(text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"))

    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "2")
    assert busy.json()["detail"] == "the store is not available: all of its connections are in use: too many ask at once; ask again"
