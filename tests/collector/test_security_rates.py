"""How fast a key may go: requests, records and bytes, each held apart from other keys, counted and told with a time to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from isolation_monitor.collector.keys import Key, Rates, change_keys, new_key
from isolation_monitor.collector.rates import Allowances, Bucket
from isolation_monitor.telemetry.names import OTHER
from tests.collector.conftest import READ, SEND, START, Api, bearer
from tests.collector.test_otlp import export, post

Running = Callable[..., AbstractAsyncContextManager[Api]]

SLOW = 0.001
"""A thousandth a second: what is used up stays so for the length of any test."""


async def test_a_key_that_is_too_fast_is_told_when_to_come_back(make_api: Running, sqlite_url: str) -> None:
    # 0.001/s for 3,000 s: three at once, then one in a thousand seconds.
    async with make_api(sqlite_url, rate_requests_per_s=SLOW, rate_burst_s=3000) as api:
        statuses = [(await api.get("/v1/queues")).status_code for _ in range(4)]
        refused = await api.get("/v1/queues")

    assert statuses == [200, 200, 200, 429]
    assert refused.headers["content-type"] == "application/problem+json"
    assert 900 <= int(refused.headers["retry-after"]) <= 1001
    assert "requests" in refused.json()["detail"]


async def test_one_key_uses_up_nothing_of_another(make_api: Running, sqlite_url: str) -> None:
    async with make_api(sqlite_url, rate_requests_per_s=SLOW, rate_burst_s=1000) as api:
        assert (await api.get("/v1/queues")).status_code == 200
        assert (await api.get("/v1/queues")).status_code == 429

        assert (await api.send(api.violation())).status_code == 200


async def test_records_are_limited_by_their_number_and_nothing_of_a_refused_batch_is_kept(make_api: Running, sqlite_url: str) -> None:
    async with make_api(sqlite_url, rate_records_per_s=SLOW, rate_burst_s=2000) as api:
        # Two are left, and five come: let in, as a debt.
        assert (await api.send(*(api.violation() for _ in range(5)))).status_code == 200
        refused = await api.send(api.violation(id="late"))

        assert refused.status_code == 429
        assert 3000 <= int(refused.headers["retry-after"]) <= 4001
        assert len(await api.stored_ids()) == 5
        metrics = (await api.get("/metrics")).text

    assert 'isolation_collector_requests_refused_total{reason="records"} 1.0' in metrics
    assert 'isolation_collector_batches_refused_total{reason="too_fast"} 1.0' in metrics


async def test_an_export_of_several_services_is_let_in_as_one_whatever_the_order(make_api: Running, sqlite_url: str) -> None:
    """The debt of the first service must not refuse the second: the sender would come back with the same for ever."""
    logs = [{"attributes": {"n": n}, "body": "text"} for n in range(5)]
    both = export(*logs, service="chat")
    both.resource_logs.extend(export(*logs[:3], service="search").resource_logs)

    async with make_api(sqlite_url, rate_records_per_s=SLOW, rate_burst_s=2000) as api:
        first, again = [await post(api, both) for _ in range(2)]
        metrics = (await api.get("/metrics")).text

    assert (first.status_code, again.status_code) == (200, 429)
    # Two were there at once, eight came: it is six in debt, and waits for seven.
    assert 6000 <= int(again.headers["retry-after"]) <= 7001
    assert 'isolation_collector_service_records_total{service="chat"} 5.0' in metrics
    assert 'isolation_collector_service_records_total{service="search"} 3.0' in metrics


async def test_bytes_are_counted_as_they_come_whatever_was_announced(make_api: Running, sqlite_url: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"schema": "records/1",'
        yield b" " * 5_000
        yield b"}"

    async with make_api(sqlite_url, rate_bytes_per_s=1, rate_burst_s=1000) as api:
        headers = bearer(SEND) | {"Content-Type": "application/json"}
        assert (await api.client.post("/v1/records", content=pieces(), headers=headers)).status_code == 400
        refused = await api.send(api.violation())

    assert refused.status_code == 429
    assert "bytes" in refused.json()["detail"]


async def test_alertmanager_is_told_503_because_429_is_final_for_it(make_api: Running, sqlite_url: str) -> None:
    webhook = {"version": "4", "groupKey": "g", "receiver": "r", "alerts": []}

    async with make_api(sqlite_url, alerts_token="of-alertmanager", rate_requests_per_s=SLOW, rate_burst_s=1000) as api:
        first = await api.post("/v1/alerts", webhook, "of-alertmanager")
        second = await api.post("/v1/alerts", webhook, "of-alertmanager")

    assert (first.status_code, second.status_code) == (200, 503)
    assert int(second.headers["retry-after"]) >= 1


async def test_a_key_may_say_its_own_rates(make_api: Running, sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    slow, slow_token = new_key(["read"], START, rates=Rates(requests_per_s=SLOW))
    free, free_token = new_key(["read"], START, rates=Rates(requests_per_s=0))
    change_keys(path, lambda _keys: [slow, free])

    async with make_api(sqlite_url, keys_file=path, rate_requests_per_s=SLOW / 2, rate_burst_s=1000) as api:
        of_slow = [(await api.get("/v1/queues", slow_token)).status_code for _ in range(2)]
        of_free = {(await api.get("/v1/queues", free_token)).status_code for _ in range(20)}

    assert of_slow == [200, 429]
    assert of_free == {200}


async def test_without_limits_nothing_is_held_back(api: Api) -> None:
    assert {(await api.get("/v1/queues")).status_code for _ in range(50)} == {200}


async def test_refusals_have_one_closed_set_of_reasons(make_api: Running, sqlite_url: str) -> None:
    async with make_api(sqlite_url) as api:
        await api.get("/v1/queues", "not-a-token")
        await api.get("/v1/queues", None)
        await api.get("/v1/queues", SEND)
        metrics = (await api.get("/metrics")).text

    found = {line.split('"')[1]: float(line.split()[-1]) for line in metrics.splitlines() if "requests_refused_total{" in line}
    assert {name for name, value in found.items() if value} == {"unknown_token", "no_token", "scope"}
    assert set(found) == {"no_token", "unknown_token", "expired_token", "scope", "service", "requests", "records", "bytes"}


class TestBucket:
    def test_the_average_holds_and_the_burst_has_an_end(self) -> None:
        bucket = Bucket(rate=10, burst_s=2, now_s=0.0)
        let_in = 0
        for tenth in range(1000):
            while bucket.wait_s(tenth / 10) == 0:
                bucket.take(1)
                let_in += 1

        # 20 at once and 10 a second for 99.9 s.
        assert let_in == pytest.approx(20 + 999, abs=2)

    def test_rest_adds_no_more_than_the_burst(self) -> None:
        bucket = Bucket(rate=1, burst_s=5, now_s=0.0)
        bucket.wait_s(1_000_000.0)
        bucket.take(5)

        assert bucket.wait_s(1_000_000.0) > 0

    def test_a_debt_is_waited_for(self) -> None:
        bucket = Bucket(rate=2, burst_s=1, now_s=0.0)
        bucket.take(12)

        # 2 - 12 = -10, at 2 a second 5 s, and half a second until one more is there.
        assert bucket.wait_s(0.0) == pytest.approx(5.5)
        assert bucket.wait_s(5.6) == 0

    def test_changed_rates_of_a_key_hold_at_once(self) -> None:
        allowances = Allowances(Rates(), 1.0, lambda: 0.0)
        before = Key("a", b"", frozenset(), rates=Rates(requests_per_s=1))
        after = Key("a", b"", frozenset(), rates=Rates(requests_per_s=100))

        assert allowances.of(before) is allowances.of(before)
        assert allowances.of(after) is not allowances.of(before)


class TestServicesAsLabels:
    async def test_a_key_that_invents_services_fills_its_own_share_alone(self, make_api: Running, sqlite_url: str, tmp_path: Path) -> None:
        path = tmp_path / "keys.json"
        honest, honest_token = new_key(["ingest"], START)
        change_keys(path, lambda _keys: [honest])

        async with make_api(sqlite_url, keys_file=path) as api:
            for n in range(70):
                await api.send(service=f"invented-{n}")
            await api.client.post("/v1/records", json=api.batch(api.violation(), service="chat"), headers=bearer(honest_token))
            metrics = (await api.get("/metrics", READ)).text

        services = {line.split('"')[1] for line in metrics.splitlines() if "collector_service_records_total{" in line}
        assert len(services) == 50 + 2
        assert services >= {"chat", OTHER}
        assert "isolation_collector_services_over_limit_total 20.0" in metrics
