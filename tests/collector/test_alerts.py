"""Alertmanager's webhook: kept once, listed newest first, refused so that Alertmanager does the right thing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from isolation_monitor.collector.alerts.domain import ASKED
from isolation_monitor.collector.alerts.service import AlertService
from tests.collector.conftest import SEND, Api


def delivery(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": "4",
        "groupKey": '{}:{alertname="IsolationViolation"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "page",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.invalid",
        "alerts": list(alerts),
    } | changes


def alert(**changes: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "IsolationViolation", "service": "chat", "kind": "instance_reuse"},
        "annotations": {"summary": "s"},
        "startsAt": "2026-01-01T11:59:58.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.invalid",
        "fingerprint": "c0ffee",
    } | changes


async def post(api: Api, body: Any) -> Any:
    return await api.post("/v1/alerts", body, token=SEND)


async def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    return list((await api.get(f"/v1/alerts{query}")).json()["items"])


async def test_an_alert_is_listed_as_it_was_delivered(api: Api) -> None:
    assert (await post(api, delivery(alert()))).status_code == 200

    [item] = await listed(api)

    assert item == {
        "id": item["id"],
        "received_at": "2026-01-01T12:00:00.000Z",
        "last_received_at": "2026-01-01T12:00:00.000Z",
        "deliveries": 1,
        "status": "firing",
        "alertname": "IsolationViolation",
        "receiver": "page",
        "labels": alert()["labels"],
        "annotations": {"summary": "s"},
        "starts_at": "2026-01-01T11:59:58.123Z",
        "ends_at": None,
        "fingerprint": "c0ffee",
    }


async def test_a_repeated_delivery_is_one_notification_that_was_delivered_twice(api: Api) -> None:
    """The dead man's switch repeats for ever: its last arrival matters, its rows must not pile up."""
    await post(api, delivery(alert()))
    api.clock.advance(45)
    await post(api, delivery(alert()))

    [item] = await listed(api)

    assert (item["deliveries"], item["received_at"], item["last_received_at"]) == (
        2,
        "2026-01-01T12:00:00.000Z",
        "2026-01-01T12:00:45.000Z",
    )


@pytest.mark.parametrize(
    "other",
    [
        delivery(alert(status="resolved", endsAt="2026-01-01T12:00:09Z")),
        delivery(alert(fingerprint="decade")),
        delivery(alert(startsAt="2026-01-01T12:00:01Z")),
        delivery(alert(), groupKey="another"),
    ],
)
async def test_another_state_alert_start_or_group_is_a_notification_of_its_own(api: Api, other: dict[str, Any]) -> None:
    await post(api, delivery(alert()))
    await post(api, other)

    assert len(await listed(api)) == 2


async def test_the_list_is_newest_first_and_narrows_by_time_and_name(api: Api) -> None:
    await post(api, delivery(alert(fingerprint="a")))
    api.clock.advance(10)
    await post(api, delivery(alert(fingerprint="b", labels={"alertname": "SessionLeak"})))
    api.clock.advance(10)
    await post(api, delivery(alert(fingerprint="c", status="resolved", endsAt="2026-01-01T12:00:19Z")))

    assert [item["fingerprint"] for item in await listed(api)] == ["c", "b", "a"]
    assert [item["fingerprint"] for item in await listed(api, "?since=2026-01-01T12:00:10Z")] == ["c", "b"]
    assert [item["fingerprint"] for item in await listed(api, "?alertname=SessionLeak")] == ["b"]
    assert [item["fingerprint"] for item in await listed(api, "?status=resolved")] == ["c"]
    assert (await listed(api, "?status=resolved"))[0]["ends_at"] == "2026-01-01T12:00:19.000Z"


async def test_pages_of_alerts_follow_each_other(api: Api) -> None:
    await post(api, delivery(*(alert(fingerprint=f"f{n}") for n in range(5))))

    first = (await api.get("/v1/alerts?limit=3")).json()
    second = (await api.get(f"/v1/alerts?limit=3&cursor={first['next_cursor']}")).json()

    assert (len(first["items"]), len(second["items"]), second["next_cursor"]) == (3, 2, None)
    assert len({item["id"] for item in first["items"] + second["items"]}) == 5


@pytest.mark.parametrize(
    "body",
    [
        delivery(alert(), version="3"),
        delivery(alert(status="odd")),
        delivery(alert(startsAt="yesterday")),
        delivery({"status": "firing"}),
        delivery(alert(), alerts="all"),
        delivery(alert(labels={"alertname": 5})),
        delivery(alert(fingerprint="")),
        [],
        "text",
    ],
)
async def test_a_body_that_is_no_webhook_is_422_and_stores_nothing(api: Api, body: Any) -> None:
    answer = await post(api, body)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert await listed(api) == []


async def test_received_alerts_are_counted_by_name_with_a_cap(api: Api) -> None:
    for n in range(102):
        await post(api, delivery(alert(labels={"alertname": f"A{n}"}, fingerprint=str(n))))

    text = (await api.get("/metrics")).text

    assert 'isolation_collector_alerts_received_total{alertname="A0",status="firing"} 1.0' in text
    assert 'isolation_collector_alerts_received_total{alertname="other",status="firing"} 2.0' in text


async def still_open(api: Api) -> list[str]:
    """Return by alert's group what fires as far as anybody told."""
    found = await AlertService(api.app.state.runtime.database, api.clock).open(api.clock() - timedelta(days=7), 100)
    return [one.notification.group_key for one in found]


async def test_an_alert_that_fires_again_after_its_end_was_concluded_is_open(api: Api) -> None:
    """Alertmanager forgets over a restart what fires, so its end is concluded; then Prometheus tells it again, with the same start."""
    await post(api, delivery(alert(), groupKey="g"))
    api.clock.advance(120)
    await post(api, delivery(alert(status="resolved", endsAt="2026-01-01T12:02:00Z"), groupKey="g"))
    ended = await still_open(api)
    api.clock.advance(60)
    await post(api, delivery(alert(), groupKey="g"))

    assert (ended, await still_open(api)) == ([], ["g"])


async def test_the_end_of_an_alert_holds_for_all_groups_that_told_of_it(api: Api) -> None:
    """Its firing was asked for, since the delivery was lost; its end was delivered, with the group that only deliveries know."""
    await post(api, delivery(alert(), groupKey=ASKED, receiver=ASKED))
    api.clock.advance(60)
    await post(api, delivery(alert(), groupKey="g"))
    once = await still_open(api)
    api.clock.advance(60)
    await post(api, delivery(alert(status="resolved", endsAt="2026-01-01T12:02:00Z"), groupKey="g"))

    assert (once, await still_open(api)) == (["g"], [])
