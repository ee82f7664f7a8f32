"""From a stored record to one page: beside Prometheus's own, told again after outages, by every member of a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.alerts import alertmanager_config
from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.collector.settings import SettingsError, load_settings
from isolation_monitor.collector.storage.database import StoreUnavailable
from tests.collector.conftest import READ, SEND, Api, until
from tests.real_parts.alertmanager import Alertmanager, alertmanager, alertmanager_cluster
from tests.real_parts.collector import collector
from tests.real_parts.exporter import exporters, scraped_twice
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.prometheus import prometheus
from tests.real_parts.receiver import Receiver, receiver
from tests.real_parts.rollouts import deaf, scraping, send_violation, wrong_sockets

Running = Callable[..., Any]


@dataclass(frozen=True)
class OnCall:
    """A real Alertmanager with the project's own routes, and what it delivers."""

    alertmanager: Alertmanager
    inbox: Receiver
    config: str

    @property
    def url(self) -> str:
        return f"http://{self.alertmanager.address}"

    def pages(self, service: str, path: str = "/") -> list[dict[str, Any]]:
        """Return every notification about a service: its alerts."""
        return [
            delivery.body
            for delivery in list(self.inbox.deliveries)
            if delivery.path == path and delivery.body["commonLabels"].get("service") == service
        ]

    async def paged(self, service: str, path: str = "/") -> dict[str, Any]:
        found: dict[str, Any] = (await asyncio.to_thread(eventually, lambda: self.pages(service, path), f"a page of {service}"))[0]
        return found

    def held(self, service: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alertmanager.alerts() if alert["labels"].get("service") == service]


def routes(inbox: Receiver, folder: Path) -> str:
    (folder / "token").write_text("t")
    return alertmanager_config.render(webhook_url=f"{inbox.url}/", webhook_token_file=str(folder / "token"), drill_url=f"{inbox.url}/drill")


@pytest.fixture(scope="module")
def on_call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCall]:
    folder: Path = tmp_path_factory.mktemp("alertmanager")
    with receiver() as inbox:
        config = routes(inbox, folder)
        with alertmanager(folder / "one", config) as running:
            yield OnCall(running, inbox, config)


async def violate(api: Api, service: str, **changes: Any) -> None:
    """Send one violation of now, by Alertmanager's clock."""
    answer = await api.send(api.violation(**{"time": rfc3339(utc_now()), **changes}), service=service, sent_at=rfc3339(utc_now()))
    assert answer.json()["accepted"] == 1, answer.text


async def test_a_stored_violation_pages_with_the_labels_of_its_rule(make_api: Running, sqlite_url: str, on_call: OnCall) -> None:
    service = "paged"
    async with make_api(sqlite_url, utc_now, alertmanager_url=on_call.url, alertmanager_labels="cluster=eu") as api:
        await violate(api, service, id=f"{service}-1", grade="crossed")
        page = await on_call.paged(service)

    (alert,) = page["alerts"]
    assert alert["labels"] == {
        "alertname": "IsolationViolation",
        "service": service,
        "kind": "instance_reuse",
        "synthetic": "false",
        "severity": "critical",
        "action": "page",
        "rollback": "true",
        "cluster": "eu",
    }
    assert alert["annotations"]["page_url"] == f"http://127.0.0.1:8400/violations/{service}-1"


async def test_what_is_no_harm_to_users_pages_nobody(make_api: Running, sqlite_url: str, on_call: OnCall) -> None:
    """Leaks and stalls have rules of their own; what a service accepts for now, and what it plants, is not counted there either."""
    async with make_api(sqlite_url, utc_now, alertmanager_url=on_call.url) as api:
        await violate(api, "quiet", grade="hygiene", kind="session_leak")
        await violate(api, "quiet", synthetic=True)
        await violate(api, "quiet", detail={"suppressed": {"reason": "known", "until": "2026-12-31"}})
        await violate(api, "quiet", time=rfc3339(utc_now() - timedelta(days=2)))
        await violate(api, "loud")
        await on_call.paged("loud")

    assert on_call.held("quiet") == []


@pytest.mark.parametrize("first", ["violation", "escalation"])
async def test_one_that_rises_pages_for_what_it_has_become(make_api: Running, own_database_url: str, on_call: OnCall, first: str) -> None:
    service = f"raised-{own_database_url.partition('+')[0]}-{first}"
    async with make_api(own_database_url, utc_now, alertmanager_url=on_call.url) as api:

        async def violation() -> None:
            await violate(api, service, id="first-hygiene", grade="hygiene", kind="id_resolution")

        async def escalation() -> None:
            risen = api.escalation("first-hygiene", time=rfc3339(utc_now()))
            await api.send(risen, service=service, sent_at=rfc3339(utc_now()))

        ways = [violation, escalation] if first == "violation" else [escalation, violation]
        await ways[0]()
        assert on_call.held(service) == []
        await ways[1]()
        page = await on_call.paged(service)

    assert page["alerts"][0]["labels"]["alertname"] == "ResolutionConflict"


async def test_a_storm_is_one_page_and_few_posts(make_api: Running, sqlite_url: str, on_call: OnCall) -> None:
    async with make_api(sqlite_url, utc_now, alertmanager_url=on_call.url) as api:
        for _ in range(40):
            await violate(api, "storm")
        await violate(api, "storm", kind="wrong_socket")
        await asyncio.to_thread(eventually, lambda: len(on_call.pages("storm")) >= 2, "a page for each kind")
        posts = posts_told(await api.get("/metrics"))
        # Duplicates are no news: what a sender repeats because the answer was lost was paged for.
        same = api.violation(time=rfc3339(utc_now()), id="storm-twice", kind="wrong_socket")
        for _ in range(2):
            await api.send(same, service="storm")

    assert posts <= 10
    assert sorted(page["alerts"][0]["labels"]["kind"] for page in on_call.pages("storm")) == ["instance_reuse", "wrong_socket"]


def posts_told(answer: Any) -> int:
    (line,) = [line for line in answer.text.splitlines() if line.startswith('isolation_collector_violation_pages_total{result="told"}')]
    return int(float(line.split()[1]))


async def test_an_alertmanager_that_is_away_is_told_when_it_is_back(
    make_api: Running, sqlite_url: str, on_call: OnCall, tmp_path: Path
) -> None:
    port = free_port()
    async with make_api(sqlite_url, utc_now, alertmanager_url=f"http://127.0.0.1:{port}") as api:
        answered = time.monotonic()
        await violate(api, "later")
        assert time.monotonic() - answered < 30
        with alertmanager(tmp_path / "late", on_call.config, port=port):
            page = await on_call.paged("later")

    assert page["alerts"][0]["labels"]["kind"] == "instance_reuse"


async def test_a_collector_that_ended_before_it_told_tells_when_it_is_back(
    make_api: Running, own_database_url: str, on_call: OnCall
) -> None:
    service = f"resumed-{own_database_url.partition('+')[0]}"
    async with make_api(own_database_url, utc_now, alertmanager_url=f"http://127.0.0.1:{free_port()}") as api:
        await violate(api, service)
    assert on_call.held(service) == []

    async with make_api(own_database_url, utc_now, alertmanager_url=on_call.url):
        await on_call.paged(service)


async def test_a_store_that_cannot_say_what_is_left_holds_up_no_page(
    make_api: Running, sqlite_url: str, on_call: OnCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def too_slow(*_: object) -> list[NewViolations]:
        asked.append(None)
        raise StoreUnavailable("it took too long")

    monkeypatch.setattr("isolation_monitor.collector.announcements.pager.pages_due", too_slow)
    async with make_api(sqlite_url, utc_now, alertmanager_url=on_call.url) as api:
        await until(lambda: bool(asked))
        await violate(api, "not-looked-back")
        await on_call.paged("not-looked-back")


async def test_a_member_that_hangs_holds_up_no_page(make_api: Running, sqlite_url: str, on_call: OnCall) -> None:
    with deaf() as nowhere:
        async with make_api(sqlite_url, utc_now, alertmanager_url=f"{nowhere}, {on_call.url}/") as api:
            await violate(api, "beside-a-deaf-one")
            await on_call.paged("beside-a-deaf-one")


def test_labels_and_addresses_that_cannot_be_used_are_named() -> None:
    def settings(**changes: str) -> None:
        load_settings(send_token=SEND, read_token=READ, **changes)

    with pytest.raises(SettingsError, match=r"COLLECTOR_ALERTMANAGER_LABELS: .*'team:web' is no label: write NAME=VALUE"):
        settings(alertmanager_labels="cluster=eu,team:web")
    with pytest.raises(SettingsError, match=r"COLLECTOR_ALERTMANAGER_URL: .*is not an http:// or https:// address"):
        settings(alertmanager_url="http://one:9093,two:9093")


# --- beside Prometheus, and in a cluster ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("first", ["record", "counter"])
def test_a_violation_that_comes_both_ways_is_one_page(first: str, tmp_path: Path, on_call: OnCall) -> None:
    """The real rules see the counter, the collector the record: whoever comes second adds nothing."""
    service = f"both-{first}"
    with ExitStack() as stack:
        [worker] = stack.enter_context(exporters(1))
        running = stack.enter_context(collector(tmp_path / "collector", settings={"COLLECTOR_ALERTMANAGER_URL": on_call.url}))
        (tmp_path / "token").write_text(running.send_token)
        worker.add(wrong_sockets(service), 0)
        address = running.url.removeprefix("http://")
        config = scraping(tmp_path, worker, base_url=running.url, collector=address, alertmanager=on_call.alertmanager.address)
        watching = stack.enter_context(prometheus(tmp_path / "prometheus", config))
        scraped_twice(worker)

        def by_record() -> None:
            send_violation(running, "v-1", service, rfc3339(datetime.now(UTC)))

        def by_counter() -> None:
            worker.add(wrong_sockets(service), 1)

        ways = [by_record, by_counter] if first == "record" else [by_counter, by_record]
        ways[0]()
        eventually(lambda: on_call.pages(service), "the page")
        ways[1]()
        eventually(lambda: watching.query(f'ALERTS{{alertstate="firing",service="{service}"}}'), "the rule fires")
        told = 'isolation_collector_violation_pages_total{result="told"} 1.0'
        eventually(lambda: told in metrics(running.url, running.read_token), "the collector has told")
        # Prometheus tells Alertmanager again each ten seconds, and the group speaks up five seconds after anything new in it.
        since = time.monotonic()
        eventually(lambda: time.monotonic() - since > 16, "both ways have had their say", within_s=120)

        assert [len(page["alerts"]) for page in on_call.pages(service)] == [1]
        assert len(on_call.held(service)) == 1


def metrics(url: str, token: str) -> str:
    import urllib.request

    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
async def test_three_alertmanagers_that_gossip_notify_once_and_one_that_dies_changes_nothing(
    make_api: Running, sqlite_url: str, tmp_path: Path
) -> None:
    with receiver() as inbox, alertmanager_cluster(tmp_path, routes(inbox, tmp_path), 3) as members:
        urls = ",".join(f"http://{member.address}" for member, _ in members)
        watching = [OnCall(member, inbox, "") for member, _ in members]
        async with make_api(sqlite_url, utc_now, alertmanager_url=urls) as api:
            await violate(api, "gossip")
            await watching[0].paged("gossip")
            await until_all_hold(watching, "gossip")
            # The first of the members that are left speaks now.
            await asyncio.to_thread(members[0][1].close)
            await violate(api, "gossip-of-two")
            await watching[1].paged("gossip-of-two")
            await until_all_hold(watching[1:], "gossip-of-two")
            # Longer than the last of them waits to see whether another has notified.
            await asyncio.sleep(12)

        assert len(watching[0].pages("gossip")) == 1
        assert len(watching[1].pages("gossip-of-two")) == 1


async def until_all_hold(watching: list[OnCall], service: str) -> None:
    await asyncio.to_thread(eventually, lambda: all(one.held(service) for one in watching), f"every member holds {service}")
