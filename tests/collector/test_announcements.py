"""Marks in Grafana and pages by Alertmanager: told once, told again after an outage, and never in the way."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.alerts import alertmanager_config
from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import ALERT, Links, alerts_of_change, bursts, mark_of_change
from isolation_monitor.collector.announcements.grafana import Grafana as Marker
from isolation_monitor.collector.announcements.grafana import NotTold
from isolation_monitor.collector.clock import rfc3339, utc_now
from tests.collector.conftest import START, Api
from tests.real_parts.alertmanager import Alertmanager, alertmanager
from tests.real_parts.grafana import Grafana, grafana
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.receiver import Receiver, receiver

LINKS = Links("http://collector", "http://grafana")
NOW = utc_now()
"""Alertmanager has a clock of its own."""


@dataclass(frozen=True)
class Event:
    """A change as the history of rollouts keeps it."""

    id: str = "event-1"
    rollout: str = "checkout-v2"
    service: str = "checkout"
    from_status: str = "running"
    to_status: str = "rolled_back"
    from_stage: str = "canary10"
    to_stage: str = "off"
    actor: str = "isolation-monitor"
    reason: str = "1 violations in records; one is enough"
    decision_id: str | None = "d1"
    at: Any = START


ADVANCED = Event("event-0", to_status="running", from_stage="internal", to_stage="canary10", reason="its gate passed", decision_id=None)
REARMED = Event("event-2", from_status="rolled_back", to_status="ready", from_stage="off", actor="somebody", reason="fixed")


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_mark_says_what_who_why_and_where() -> None:
    advanced, back, held = (
        mark_of_change(event, LINKS) for event in (ADVANCED, Event(), replace(ADVANCED, from_stage="canary10", to_status="held"))
    )

    assert advanced.text == "checkout-v2: internal → canary10 (running)\nby isolation-monitor: its gate passed"
    assert back.text.splitlines() == [
        "checkout-v2 was rolled back at stage canary10",
        "by isolation-monitor: 1 violations in records; one is enough",
        "http://collector/v1/gates/checkout-v2/decisions/d1",
    ]
    assert held.text.startswith("checkout-v2: running → held, stage canary10")
    assert (advanced.tags[1], back.tags) == ("stage", ("isolation", "rollback", "service:checkout", "rollout:checkout-v2"))
    assert back.time_ms == 1767268800000


def test_the_page_says_what_was_rolled_back_and_why_with_links() -> None:
    (alert,) = alerts_of_change(Event(), LINKS, START)

    assert alert["labels"] == {
        "alertname": "RolloutRolledBack",
        "service": "checkout",
        "rollout": "checkout-v2",
        "severity": "critical",
        "action": "page",
    }
    assert "rolled back at stage canary10 by isolation-monitor: 1 violations in records" in alert["annotations"]["description"]
    assert {key: value for key, value in alert["annotations"].items() if key.endswith("_url")} == {
        "runbook_url": "http://collector/runbooks/RolloutRolledBack",
        "rollout_url": "http://collector/v1/rollouts/checkout-v2",
        "dashboard_url": "http://grafana/d/rollout?var-service=checkout&var-rollout=checkout-v2&from=now-1h&to=now",
        "decision_url": "http://collector/v1/gates/checkout-v2/decisions/d1",
    }
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-01-01T12:00:00.000Z", "2026-01-02T12:00:00.000Z")


def test_who_rolls_back_by_hand_is_awake_and_a_drill_wakes_nobody() -> None:
    (by_hand,) = alerts_of_change(replace(Event(), actor="somebody"), LINKS, START)
    (drilled,) = alerts_of_change(replace(Event(), service="drill:chat:x"), LINKS, START)

    assert (by_hand["labels"]["action"], by_hand["labels"]["severity"]) == ("ticket", "warning")
    assert drilled["labels"]["synthetic"] == "true"
    assert "synthetic" not in by_hand["labels"]


def test_no_other_change_pages_and_a_re_arm_ends_both_ways_of_the_page() -> None:
    ends = alerts_of_change(REARMED, LINKS, START)

    assert alerts_of_change(ADVANCED, LINKS, START) == []
    assert [(alert["labels"]["action"], alert["endsAt"]) for alert in ends] == [
        ("page", "2026-01-01T12:00:00.000Z"),
        ("ticket", "2026-01-01T12:00:00.000Z"),
    ]


def test_a_change_that_could_be_told_only_days_later_still_pages() -> None:
    (alert,) = alerts_of_change(Event(), LINKS, START + timedelta(days=3))

    assert alert["endsAt"] == "2026-01-05T12:00:00.000Z"


def test_a_minute_without_violations_ends_a_burst() -> None:
    def at(seconds: float) -> Any:
        return START + timedelta(seconds=seconds)

    found = bursts(
        [("a", "chat", at(0), 1), ("b", "chat", at(59), 2), ("x", "shop", at(60), 1), ("c", "chat", at(119), 1), ("d", "chat", at(300), 1)],
        timedelta(seconds=60),
    )

    assert [(burst.first_id, burst.service, burst.count, (burst.last - burst.began).total_seconds()) for burst in found] == [
        ("a", "chat", 3, 59.0),
        ("x", "shop", 1, 0.0),
        ("c", "chat", 1, 0.0),
        ("d", "chat", 1, 0.0),
    ]


# --- Grafana ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    with grafana(tmp_path_factory.mktemp("grafana")) as running:
        yield running


async def marked(url: str, token: str | None, *events: Event) -> list[int]:
    marker = Marker(url, token)
    try:
        return [await marker.mark(mark_of_change(event, LINKS)) for event in events]
    finally:
        await marker.close()


async def test_a_change_is_marked_once_however_often_it_is_told(server: Grafana) -> None:
    """It is told at least once: after a restart, by another replica, or when the page failed and the mark did not."""
    event = replace(Event(), id="told-twice")

    first, second = await marked(server.url, server.token, event, event)
    (third,) = await marked(server.url, server.token, event)

    (mark,) = (item for item in server.annotations() if "isolation-id:event-told-twice" in item["tags"])
    assert first == second == third == mark["id"]
    assert (mark["time"], mark["text"]) == (1767268800000, mark_of_change(event, LINKS).text)
    assert {"isolation", "rollback", "service:checkout", "rollout:checkout-v2"} < set(mark["tags"])


async def test_what_is_not_grafana_a_wrong_token_and_silence_are_not_told(server: Grafana) -> None:
    with pytest.raises(NotTold, match="401"):
        await marked(server.url, "wrong", Event())
    with pytest.raises(NotTold, match="cannot be reached"):
        await marked(f"http://127.0.0.1:{free_port()}", "t", Event())
    with pytest.raises(NotTold):
        await marked(f"{server.url}/elsewhere", server.token, Event())


@pytest.fixture
async def api(make_api: Callable[..., Any], sqlite_url: str, server: Grafana) -> AsyncIterator[Api]:
    async with make_api(sqlite_url, grafana_url=server.url, grafana_token=server.token) as running:
        yield running


async def test_a_burst_is_one_mark_that_grows_and_a_later_one_is_another(api: Api, server: Grafana) -> None:
    watch = api.app.state.announcements
    await api.send(api.violation(id="burst-1a"), api.violation(synthetic=True), api.violation(grade="hygiene"), service="bursting")
    await watch.mark_bursts()
    api.clock.advance(30)
    await api.send(api.violation(id="burst-1b", count=4), service="bursting")
    await watch.mark_bursts()
    api.clock.advance(100)
    await api.send(api.violation(id="burst-2a"), service="bursting")
    await watch.mark_bursts()
    await watch.mark_bursts()

    found = [item for item in server.annotations() if "service:bursting" in item["tags"]]
    assert [(item["time"], item["timeEnd"] - item["time"], item["text"].splitlines()[0]) for item in found] == [
        (1767268800000, 30_000, "5 violations of isolation in bursting"),
        (1767268930000, 0, "1 violation of isolation in bursting"),
    ]


async def test_bursts_are_marked_by_themselves_while_the_collector_runs(api: Api, server: Grafana) -> None:
    await api.send(api.violation(id="by-itself"), service="watched")

    await asyncio.to_thread(
        eventually, lambda: any("service:watched" in item["tags"] for item in server.annotations()), "the burst is marked"
    )


# --- Alertmanager -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnCall:
    """A real Alertmanager with the project's own routes, and what it delivers."""

    alertmanager: Alertmanager
    received: Receiver

    def told(self, rollout: str, status: str = "firing") -> list[dict[str, Any]]:
        return [alert for _, alert in self.received.alerts("/", status) if alert["labels"].get("rollout") == rollout]


@pytest.fixture(scope="module")
def on_call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCall]:
    folder: Path = tmp_path_factory.mktemp("alertmanager")
    (folder / "token").write_text("t")
    with receiver() as received:
        config = alertmanager_config.render(webhook_url=received.url, webhook_token_file=str(folder / "token"))
        with alertmanager(folder, config) as running:
            yield OnCall(running, received)


async def paged(on_call: OnCall, *events: Event) -> None:
    pager = Alertmanagers([f"http://{on_call.alertmanager.address}"], None)
    try:
        for event in events:
            await pager.post(alerts_of_change(event, LINKS, NOW))
    finally:
        await pager.close()


async def test_on_call_gets_one_page_however_often_it_is_told_and_its_end(on_call: OnCall) -> None:
    event = replace(Event(), rollout="paged", at=NOW)

    await paged(on_call, event, event)
    page = await asyncio.to_thread(eventually, lambda: on_call.told("paged"), "the page arrives")
    await paged(on_call, event, replace(REARMED, rollout="paged", at=NOW))
    await asyncio.to_thread(eventually, lambda: on_call.told("paged", "resolved"), "its end arrives")

    assert [alert["labels"]["alertname"] for alert in page] == [ALERT]
    assert len(on_call.told("paged")) == 1
    assert page[0]["annotations"]["runbook_url"] == "http://collector/runbooks/RolloutRolledBack"


async def test_a_silence_holds_for_the_page_as_for_every_alert(on_call: OnCall) -> None:
    silence = {
        "matchers": [{"name": "rollout", "value": "silenced", "isRegex": False, "isEqual": True}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2126-01-01T00:00:00Z", "createdBy": "test", "comment": "known",
    }  # fmt: skip

    def post() -> None:
        request = urllib.request.Request(
            f"http://{on_call.alertmanager.address}/api/v2/silences", json.dumps(silence).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=20).close()

    await asyncio.to_thread(post)

    await paged(on_call, replace(Event(), rollout="silenced", at=NOW), replace(Event(), rollout="loud", at=NOW))
    await asyncio.to_thread(eventually, lambda: on_call.told("loud"), "the other page arrives")

    states = {alert["labels"]["rollout"]: alert["status"]["state"] for alert in on_call.alertmanager.alerts()}
    assert (states["silenced"], states["loud"]) == ("suppressed", "active")
    assert on_call.told("silenced") == []


async def test_an_alertmanager_that_is_away_is_not_told() -> None:
    pager = Alertmanagers([f"http://127.0.0.1:{free_port()}"], None)

    with pytest.raises(NotTold, match="cannot be reached"):
        await pager.post(alerts_of_change(Event(), LINKS, START))
    await pager.close()


# --- both, in the collector -------------------------------------------------------------------------------------------


async def test_the_collector_tells_both_of_a_change_and_the_change_does_not_wait_for_them(
    make_api: Callable[..., Any], sqlite_url: str, server: Grafana, on_call: OnCall
) -> None:
    address = f"http://{on_call.alertmanager.address}"
    event = replace(Event(), id="both", rollout="both", at=NOW)
    async with make_api(sqlite_url, grafana_url=server.url, grafana_token=server.token, alertmanager_url=address) as api:
        for listener in api.app.state.runtime.rollout_listeners:
            await listener(event)

    await asyncio.to_thread(eventually, lambda: on_call.told("both"), "the page arrives")
    assert any("isolation-id:event-both" in item["tags"] for item in await asyncio.to_thread(server.annotations))


async def test_harm_is_rolled_back_marked_and_paged_with_no_one_touching_anything(
    make_api: Callable[..., Any], sqlite_url: str, server: Grafana, on_call: OnCall
) -> None:
    address = f"http://{on_call.alertmanager.address}"
    async with make_api(
        sqlite_url, utc_now, grafana_url=server.url, grafana_token=server.token, alertmanager_url=address, rollout_interval_s=0.2
    ) as api:
        assert (await api.apply("harmful")).status_code in (200, 201)
        await api.step("start", "harmful")
        now = rfc3339(utc_now())
        await api.send(api.violation(time=now, id="harmful-1"))

        page = await asyncio.to_thread(eventually, lambda: on_call.told("harmful"), "the page arrives")
        marks = await asyncio.to_thread(
            eventually,
            lambda: [item for item in server.annotations() if "rollback" in item["tags"] and "rollout:harmful" in item["tags"]],
            "it is marked",
        )
        state = await api.state("harmful")

    assert state["status"] == "rolled_back"
    assert (page[0]["labels"]["action"], page[0]["labels"]["alertname"]) == ("page", ALERT)
    assert "one is enough" in page[0]["annotations"]["description"]
    assert len(marks) == 1
    assert marks[0]["text"].startswith("harmful was rolled back at stage ")


async def test_without_grafana_and_alertmanager_nothing_is_told_and_nothing_fails(make_api: Callable[..., Any], sqlite_url: str) -> None:
    async with make_api(sqlite_url) as api:
        for listener in api.app.state.runtime.rollout_listeners:
            await listener(Event())
        await api.app.state.announcements.mark_bursts()
