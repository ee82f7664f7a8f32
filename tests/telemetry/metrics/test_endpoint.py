"""The metrics pages over ASGI: paths, token, formats, and an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.endpoint import MetricsEndpoint
from isolation_monitor.telemetry.metrics.pages import PageRequest, Pages
from isolation_monitor.telemetry.names import Metric

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class Answer:
    status = 0
    headers: dict[str, str] = {}  # noqa: RUF012  # replaced by each answer
    body = b""


async def ask(endpoint: MetricsEndpoint, path: str, method: str = "GET", root_path: str = "", **headers: str) -> Answer:
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message["body"]

    raw = [(name.replace("_", "-").encode(), value.encode("utf-8")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": raw}
    await endpoint(scope, receive, send)
    return answer


@pytest.fixture
def endpoint(registry: MetricRegistry) -> Iterator[MetricsEndpoint]:
    for metric in names.CATALOGUE:
        registry.declare(metric)
    made = MetricsEndpoint(registry)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("path", "small", "rest"),
    [("/metrics/isolation", True, False), ("/metrics", False, True), ("/metrics/isolation/all", True, True)],
)
async def test_each_path_has_its_page(endpoint: MetricsEndpoint, path: str, small: bool, rest: bool) -> None:
    answer = await ask(endpoint, path)

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert (b"isolation_violations_total{" in answer.body) is small
    assert (b"isolation_records_total{" in answer.body) is rest


async def test_openmetrics_is_sent_to_a_scraper_that_asks_for_it(endpoint: MetricsEndpoint) -> None:
    """The Accept header is what Prometheus sends."""
    answer = await ask(endpoint, "/metrics/isolation", accept=PROMETHEUS_ACCEPT)

    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.body.endswith(b"# EOF\n")
    assert list(parse_openmetrics(answer.body.decode()))


@pytest.mark.parametrize(
    "accept", ["*/*", "text/html", "", "application/openmetrics-text;version=2.0.0", "text/plain;q=0.9,application/openmetrics-text;q=0.1"]
)
async def test_everybody_else_gets_the_classic_format(endpoint: MetricsEndpoint, accept: str) -> None:
    answer = await ask(endpoint, "/metrics", accept=accept)

    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_head_request_has_the_length_and_no_body(endpoint: MetricsEndpoint) -> None:
    answer = await ask(endpoint, "/metrics", "HEAD")

    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000


async def test_other_methods_and_paths_are_refused(endpoint: MetricsEndpoint) -> None:
    post, unknown = await ask(endpoint, "/metrics", "POST"), await ask(endpoint, "/metrics/x")

    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")
    assert (unknown.status, json.loads(unknown.body)["status"]) == (404, 404)


async def test_without_the_token_there_is_a_problem_and_no_number(registry: MetricRegistry) -> None:
    endpoint = MetricsEndpoint(registry, token="open-sesame")
    try:
        for authorization in ("", "Bearer", "Bearer wrong", "Basic open-sesame", "open-sesame", "Bearer ö"):
            refused = await ask(endpoint, "/metrics", authorization=authorization)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.headers["content-type"] == "application/problem+json"
            assert b"isolation_" not in refused.body
        assert (await ask(endpoint, "/metrics", authorization="bearer open-sesame")).status == 200
    finally:
        endpoint.close()


async def test_paths_follow_the_settings_and_none_leaves_one_out(registry: MetricRegistry) -> None:
    endpoint = MetricsEndpoint(registry, isolation_path="/_isolation", metrics_path=None)
    try:
        assert (await ask(endpoint, "/_isolation/all")).status == 200
        assert (await ask(endpoint, "/metrics")).status == 404
        assert endpoint.serves({"type": "http", "path": "/_isolation"})
        assert not endpoint.serves({"type": "http", "path": "/metrics"})
        assert not endpoint.serves({"type": "websocket", "path": "/_isolation"})
    finally:
        endpoint.close()


@pytest.mark.parametrize("path", ["/api/metrics", "/metrics"])
async def test_a_mounted_application_finds_its_path_either_way(endpoint: MetricsEndpoint, path: str) -> None:
    assert (await ask(endpoint, path, root_path="/api")).status == 200


async def test_a_large_page_is_compressed_for_who_takes_it(registry: MetricRegistry) -> None:
    endpoint = MetricsEndpoint(registry)
    metric = Metric("spells_total", "counter", "Spells.", {"wizard": 1000})
    for number in range(600):
        registry.counter(metric, wizard=f"wizard number {number}")
    try:
        plain = await ask(endpoint, "/metrics")
        packed = await ask(endpoint, "/metrics", accept_encoding="deflate, gzip")

        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert len(packed.body) < len(plain.body) / 5
        assert gzip.decompress(packed.body) == plain.body
    finally:
        endpoint.close()


async def test_a_small_page_is_not_compressed(registry: MetricRegistry) -> None:
    registry.declare(names.RUN_ACTIVE)
    endpoint = MetricsEndpoint(registry)
    try:
        assert "content-encoding" not in (await ask(endpoint, "/metrics", accept_encoding="gzip")).headers
    finally:
        endpoint.close()


async def test_a_hundred_scrapers_at_once_cost_one_render(
    endpoint: MetricsEndpoint, registry: MetricRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    renders = []
    render = registry.render

    def slow(*arguments: Any) -> bytes:
        renders.append(arguments)
        time.sleep(0.05)
        return render(*arguments)

    monkeypatch.setattr(registry, "render", slow)
    monkeypatch.setattr("isolation_monitor.telemetry.metrics.pages.time.monotonic", lambda: 1.0)

    answers = await asyncio.gather(*(ask(endpoint, "/metrics") for _ in range(100)))

    assert len(renders) == 1
    assert len({answer.body for answer in answers}) == 1


def test_a_page_older_than_the_cache_time_is_rendered_again(registry: MetricRegistry) -> None:
    now = [0.0]
    pages = Pages(registry, cache_s=0.2, clock=lambda: now[0])
    cell = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")
    first = pages.get(PageRequest("main")).body
    cell.inc()

    now[0] = 0.19
    assert pages.get(PageRequest("main")).body == first
    now[0] = 0.2
    assert b'{direction="sent",service="chat"} 1.0' in pages.get(PageRequest("main")).body


async def test_the_event_loop_goes_on_during_a_large_scrape(registry: MetricRegistry, eventually: Callable[..., Any]) -> None:
    """A scrape runs in a thread; the loop turns many times meanwhile."""
    metric = Metric("spells_total", "counter", "Spells.", {"wizard": 100_000})
    for number in range(15_000):
        registry.counter(metric, wizard=f"wizard number {number}").inc(number)
    endpoint = MetricsEndpoint(registry)
    turns = 0
    scrape = asyncio.ensure_future(ask(endpoint, "/metrics"))
    while not scrape.done():
        await asyncio.sleep(0)
        turns += 1

    assert (await scrape).status == 200
    assert turns > 20
    endpoint.close()


async def test_a_scrape_succeeds_while_the_hosts_threads_are_all_busy(endpoint: MetricsEndpoint) -> None:
    """The moment one most wants to see metrics."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, release.wait) for _ in range(64)]
    try:
        answer = await asyncio.wait_for(ask(endpoint, "/metrics"), 30)
    finally:
        release.set()
        await asyncio.gather(*busy)

    assert answer.status == 200
