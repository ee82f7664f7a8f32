"""The history of alerts has no gap where a delivery was lost: it is held against what a real Alertmanager holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.clock import rfc3339
from tests.collector.conftest import Api, FrozenClock, until
from tests.collector.test_alerts import alert, delivery, post
from tests.real_parts.alertmanager import Alertmanager, alertmanager

# Its deliveries go nowhere: every one of them is lost.
CONFIG = "route: {receiver: collector, group_wait: 1h}\nreceivers: [{name: collector}]\n"
LABELS = {"alertname": "IsolationViolation", "service": "chat", "severity": "critical"}


@pytest.fixture
def manager(tmp_path: Path) -> Any:
    with alertmanager(tmp_path / "alertmanager", CONFIG) as running:
        yield running


@pytest.fixture
async def beside(make_api: Callable[..., Any], sqlite_url: str, manager: Alertmanager) -> AsyncIterator[Api]:
    clock = FrozenClock(datetime.now(UTC))
    async with make_api(sqlite_url, now=clock, alertmanager_url=f"http://{manager.address}") as running:
        running.clock = clock
        yield running


async def compared(api: Api) -> int:
    return int(await api.app.state.reconciliation.reconcile())


def posted(clock: FrozenClock, ago_s: float, **ends: str) -> dict[str, Any]:
    return {"labels": LABELS, "annotations": {"summary": "s"}, "startsAt": rfc3339(clock() - timedelta(seconds=ago_s)), **ends}


async def alerts(api: Api) -> list[tuple[str, str]]:
    return sorted((item["status"], item["receiver"]) for item in (await api.get("/v1/alerts")).json()["items"])


async def test_an_alert_whose_delivery_was_lost_is_in_the_history_until_it_ends(beside: Api, manager: Alertmanager) -> None:
    manager.post(posted(beside.clock, 300))
    await until(lambda: len(manager.alerts()) == 1)

    # The collector compares by itself, too: the first of the two finds it.
    await compared(beside)
    again = await compared(beside)
    firing = (await beside.get("/v1/incidents?state=open")).json()["items"]
    beside.clock.advance(120)
    manager.post(posted(beside.clock, 420, endsAt=rfc3339(datetime.now(UTC) - timedelta(seconds=1))))
    await until(lambda: manager.alerts() == [])
    ended = await compared(beside)

    assert (again, ended) == (0, 1)
    assert [item["alerts"] for item in firing] == [["IsolationViolation"]]
    assert await alerts(beside) == [("firing", "asked"), ("resolved", "asked")]


async def test_an_end_that_is_still_delivered_corrects_the_one_that_was_concluded(beside: Api, manager: Alertmanager) -> None:
    start = rfc3339(beside.clock())
    await post(beside, delivery(alert(startsAt=start, labels=LABELS)))
    beside.clock.advance(90)

    assert manager.alerts() == []
    assert await compared(beside) == 1
    ends = rfc3339(beside.clock() - timedelta(seconds=40))
    await post(beside, delivery(alert(startsAt=start, labels=LABELS, status="resolved", endsAt=ends)))

    resolved = (await beside.get("/v1/alerts?status=resolved")).json()["items"]
    assert [(item["ends_at"], item["deliveries"]) for item in resolved] == [(ends, 2)]


async def test_what_may_still_be_on_its_way_is_waited_for(beside: Api, manager: Alertmanager) -> None:
    manager.post(posted(beside.clock, 5))
    await until(lambda: len(manager.alerts()) == 1)

    assert await compared(beside) == 0


async def test_alerts_of_others_on_the_same_alertmanager_are_left_alone(beside: Api, manager: Alertmanager) -> None:
    """Once its receiver is known, only what goes to that one is taken."""
    await post(beside, delivery(alert(startsAt=rfc3339(beside.clock()), labels=LABELS), receiver="another-one"))
    manager.post(posted(beside.clock, 300) | {"labels": LABELS | {"alertname": "Theirs"}})
    await until(lambda: len(manager.alerts()) == 1)

    assert await compared(beside) == 0


async def test_an_alertmanager_that_is_away_changes_nothing(make_api: Callable[..., Any], sqlite_url: str) -> None:
    from isolation_monitor.collector.alerts.alertmanager import NotAsked
    from tests.real_parts.processes import free_port

    async with make_api(sqlite_url, alertmanager_url=f"http://127.0.0.1:{free_port()}") as api:
        await post(api, delivery(alert()))
        api.clock.advance(3600)
        with pytest.raises(NotAsked, match="cannot be reached"):
            await compared(api)

        assert await alerts(api) == [("firing", "page")]
