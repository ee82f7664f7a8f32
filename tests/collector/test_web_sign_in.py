"""Signing in to the pages: what a token opens, for how long, and that nobody else's form or script can use it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from isolation_monitor.collector.keyring import KeyRing
from isolation_monitor.collector.keys import Key, Rates, digest_of
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.rates import Allowances
from isolation_monitor.collector.security import Guard
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.web.sessions import SessionService
from tests.collector.conftest import READ, SEND, Api

FORM = {"content-type": "application/x-www-form-urlencoded"}
PAGES = ("/", "/incidents", "/violations", "/runs", "/rollouts", "/detectors", "/probes", "/history")


@pytest.fixture
async def api(make_api: Callable[..., Any], sqlite_url: str) -> AsyncIterator[Api]:
    async with make_api(sqlite_url) as running:
        yield running


async def sign_in(api: Api, token: str = READ, **headers: str) -> Any:
    return await api.client.post("/sign-in", content=f"token={token}&next=%2Fruns", headers=FORM | headers)


@pytest.mark.parametrize("path", [*PAGES, "/violations/x", "/rollouts/x"])
async def test_no_page_opens_without_a_session_not_even_with_the_token_in_its_address(api: Api, path: str) -> None:
    answer = await api.get(f"{path}?token={READ}", token=None)

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?next=%2F")


async def test_a_read_token_opens_every_page_and_goes_on_to_where_one_came_from(api: Api) -> None:
    answer = await sign_in(api)

    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    for path in PAGES:
        page = await api.get(path, token=None)
        assert page.status_code == 200, page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("token", ["", "wrong", SEND, READ + "x", "%00", "%FF"])
async def test_any_other_token_opens_nothing_and_is_neither_shown_nor_logged(
    api: Api, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "isolation_monitor"):
        answer = await sign_in(api, token)
    metrics = (await api.get("/metrics")).text

    assert answer.status_code == 401
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    reason = "scope" if token == SEND else "unknown_token"
    assert f'isolation_collector_requests_refused_total{{reason="{reason}"}} 1.0' in metrics
    assert "not known here, or may not read" in answer.text
    assert "set-cookie" not in answer.headers
    assert not token or token not in answer.text
    assert not token or token not in caplog.text


async def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(api: Api) -> None:
    cookie = (await sign_in(api)).headers["set-cookie"]

    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "Path=/" in cookie
    assert "Secure" not in cookie
    assert READ not in cookie


async def test_over_https_the_cookie_never_travels_in_the_clear(make_api: Callable[..., Any], sqlite_url: str) -> None:
    async with make_api(sqlite_url, base_url="https://collector.example.com") as api:
        assert "Secure" in (await sign_in(api)).headers["set-cookie"]


async def test_a_session_ends_by_itself(api: Api) -> None:
    await sign_in(api)
    api.clock.advance(12 * 3600 - 1)
    before = await api.get("/", token=None)
    api.clock.advance(1)
    after = await api.get("/", token=None)

    assert (before.status_code, after.status_code) == (200, 303)


async def test_signing_out_ends_the_session_also_for_a_copy_of_its_cookie(api: Api) -> None:
    copied = (await sign_in(api)).cookies["isomon_session"]

    out = await api.client.post("/sign-out", headers={"sec-fetch-site": "same-origin"})
    api.client.cookies.set("isomon_session", copied)
    again = await api.get("/", token=None)

    assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
    assert again.status_code == 303


async def test_a_token_that_is_taken_away_ends_its_sessions(make_api: Callable[..., Any], sqlite_url: str) -> None:
    """Whoever rotates a token because it was seen must not wait for half a day."""
    async with make_api(sqlite_url) as api:
        secret = (await sign_in(api)).cookies["isomon_session"]

    def guard_of(*tokens: str) -> Guard:
        keys = [Key(f"key-{n}", digest_of(token), frozenset({"read"})) for n, token in enumerate(tokens)]
        return Guard(KeyRing(lambda: keys), Allowances(Rates(), 1.0), CollectorMetrics(), api.clock)

    async def still_open(*tokens: str) -> bool:
        database = Database(sqlite_url)
        try:
            service = SessionService(database, guard_of(*tokens), api.clock, 3600)
            return await service.of(secret) is not None
        finally:
            await database.close()

    assert await still_open(READ, "another")
    assert not await still_open("another")


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}, {"origin": "null"}],
    ids=str,
)
async def test_forms_of_other_sites_are_refused(api: Api, headers: dict[str, str]) -> None:
    into = await sign_in(api, **headers)
    await sign_in(api)
    out = await api.client.post("/sign-out", headers=headers)
    after = await api.get("/", token=None)

    assert (into.status_code, out.status_code, after.status_code) == (403, 403, 200)
    assert "set-cookie" not in into.headers


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/a\nb", ""])
async def test_signing_in_leads_nowhere_else(api: Api, target: str) -> None:
    from urllib.parse import quote

    answer = await api.client.post("/sign-in", content=f"token={READ}&next={quote(target, safe='')}", headers=FORM)

    assert answer.headers["location"] == "/"


async def test_a_form_without_end_is_refused(api: Api) -> None:
    answer = await api.client.post("/sign-in", content="token=" + "a" * 9000, headers=FORM | {"accept": "text/html"})

    assert answer.status_code == 413
    assert "<h1>Too large</h1>" in answer.text


async def test_guessing_has_an_end_and_rest_opens_the_form_again(api: Api) -> None:
    now_s = 0.0
    app = api.app.state
    app.web_sessions = SessionService(app.runtime.database, app.guard, api.clock, 3600, lambda: now_s)

    wrong = [(await sign_in(api, f"guess-{n}")).status_code for n in range(20)]
    refused = await sign_in(api)
    now_s = 1.0
    after = await sign_in(api)

    assert set(wrong) == {401}
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "<form" in refused.text
    assert after.status_code == 303
    assert 'requests_refused_total{reason="requests"} 1.0' in (await api.get("/metrics")).text
