"""What the collector asks others: addresses of its configuration alone, no redirects, and an end to every answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from isolation_monitor.collector.alerts.alertmanager import AlertmanagerHeld, NotAsked
from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import Mark
from isolation_monitor.collector.announcements.grafana import Grafana, NotTold
from isolation_monitor.collector.gates.prometheus import PrometheusSource, SourceUnavailable
from tests.collector.conftest import SEND, START, Api, bearer

Running = Callable[..., AbstractAsyncContextManager[Api]]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """Run a real server that answers all in one way; give its address and the requests it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_GET = do_POST = do_PUT = do_PATCH = _any

        def log_message(self, *_about: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", asked
        finally:
            running.shutdown()
            thread.join()


def redirect_to(url: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("Location", f"{url}/taken")
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def says(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.end_headers()
    try:
        while True:
            request.wfile.write(b" " * 65_536)
    except OSError:
        # The other side had enough.
        request.close_connection = True


async def ask_prometheus(url: str) -> None:
    source = PrometheusSource(url, token="a-secret", timeout_s=20.0)
    try:
        with pytest.raises(SourceUnavailable) as refused:
            await source.read({"up": "up"}, NOW)
        assert "a-secret" not in str(refused.value)
    finally:
        await source.close()


async def tell_alertmanager(url: str) -> None:
    alertmanager = Alertmanagers([url], "a-secret")
    try:
        with pytest.raises(NotTold) as refused:
            await alertmanager.post([{"labels": {"alertname": "x"}}])
        assert "a-secret" not in str(refused.value)
    finally:
        await alertmanager.close()


async def mark_grafana(url: str) -> None:
    grafana = Grafana(url, "a-secret")
    try:
        with pytest.raises(NotTold) as refused:
            await grafana.mark(Mark("key", "text", ("tag",), 0))
        assert "a-secret" not in str(refused.value)
    finally:
        await grafana.close()


async def ask_alertmanager(url: str) -> None:
    held = AlertmanagerHeld([url], "a-secret")
    try:
        with pytest.raises(NotAsked) as refused:
            await held.firing()
        assert "a-secret" not in str(refused.value)
    finally:
        await held.close()


@pytest.mark.parametrize("ask", [ask_prometheus, tell_alertmanager, mark_grafana, ask_alertmanager])
async def test_no_redirect_is_followed(ask: Callable[[str], object]) -> None:
    """Not even within one machine: a token must not travel, and an address of the inside must not be asked for somebody."""
    with server(says(b"{}")) as (inside, taken), server(redirect_to(inside)) as (url, asked):
        await ask(url)  # type: ignore[misc]  # each is a coroutine function

    assert asked
    assert taken == []


@pytest.mark.parametrize("ask", [ask_prometheus, tell_alertmanager, ask_alertmanager])
async def test_an_answer_without_end_is_cut_off(ask: Callable[[str], object]) -> None:
    with server(endless) as (url, _asked):
        async with asyncio.timeout(60):
            await ask(url)  # type: ignore[misc]


@pytest.mark.parametrize("ask", [ask_prometheus, ask_alertmanager])
async def test_a_packed_answer_is_not_unpacked(ask: Callable[[str], object]) -> None:
    """A hundred bytes could be a hundred megabytes."""

    def packed(request: BaseHTTPRequestHandler) -> None:
        assert request.headers["Accept-Encoding"] == "identity"
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", "4")
        request.end_headers()
        request.wfile.write(b"\x1f\x8b\x08\x00")

    with server(packed) as (url, asked):
        await ask(url)  # type: ignore[misc]

    assert asked


async def test_no_address_in_evidence_or_alerts_is_ever_asked(make_api: Running, sqlite_url: str) -> None:
    with server(says(b"{}")) as (url, asked):
        async with make_api(sqlite_url) as api:
            await api.send(api.violation(id="v", detail={"url": url, "generatorURL": f"{url}/detail"}, resource={"type": "t", "name": url}))
            alert = {
                "status": "firing",
                "labels": {"alertname": "IsolationViolation", "service": "chat", "rollback": "true", "instance": url},
                "annotations": {"runbook_url": f"{url}/runbook", "dashboard_url": f"{url}/dashboard"},
                "generatorURL": f"{url}/graph",
                "startsAt": START.isoformat(),
                "fingerprint": "f",
            }
            webhook = {"version": "4", "groupKey": "g", "receiver": "r", "externalURL": url, "alerts": [alert]}
            assert (await api.client.post("/v1/alerts", json=webhook, headers=bearer(SEND))).status_code == 200
            await api.start_rollout()
            await api.gate()
            await api.get("/v1/violations/v")
            await api.get("/v1/alerts")

    assert asked == []
