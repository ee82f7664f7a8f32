"""The flags' rules for providers, and OFREP: what is answered to whom, with which code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from isolation_monitor.collector.flags import service as flag_service
from isolation_monitor.collector.storage.database import StoreUnavailable
from isolation_monitor.telemetry.flags.bucketing import FlagRule, variant_of
from tests.real_parts.flag_server import READ, SEND, Rollouts, flag_app, rule

TOKEN = {"Authorization": f"Bearer {SEND}"}
RULES = "/v1/flags?service=tests"
ONE = "/ofrep/v1/evaluate/flags/checkout-v2"
ALL = "/ofrep/v1/evaluate/flags"
CONFIGURATION = "/ofrep/v1/configuration"


@pytest.fixture
def rollouts() -> Rollouts:
    return Rollouts(rule("checkout-v2"), rule("search", percent=100.0), rule("other", service="shop"))


@pytest.fixture
async def client(rollouts: Rollouts) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=flag_app(rollouts), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://collector", headers=TOKEN) as client:
        yield client


async def ask(client: httpx2.AsyncClient, path: str = ONE, /, **context: Any) -> httpx2.Response:
    return await client.post(path, json={"context": context})


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


# --- rules ------------------------------------------------------------------------------------------------------------


async def test_the_rules_of_one_service_are_strict_json_with_a_tag(client):
    answer = await client.get(RULES)

    assert answer.status_code == 200
    assert answer.json() == {"schema": "flags/v1", "revision": 1, "flags": [rule("checkout-v2"), rule("search", percent=100.0)]}
    assert answer.headers["etag"].startswith('"')


@pytest.mark.parametrize("header", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_the_rules_is_told_so(client, header):
    tag = (await client.get(RULES)).headers["etag"]
    answer = await client.get(RULES, headers={"If-None-Match": header.replace("{}", tag)})

    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


async def test_a_change_ends_the_wait(client, rollouts):
    first = await client.get(RULES)
    waiting = asyncio.create_task(client.get(f"{RULES}&wait=25&after=1", headers={"If-None-Match": first.headers["etag"]}))
    await eventually(lambda: rollouts.asked >= 4)
    assert not waiting.done()

    rollouts.set("checkout-v2", enabled=False)
    answer = await waiting

    assert answer.json()["revision"] == 2
    assert not answer.json()["flags"][0]["enabled"]


async def test_a_change_of_this_process_ends_the_wait_at_once(client, rollouts, monkeypatch):
    monkeypatch.setattr(flag_service, "LOOK_EVERY_S", 1e6)
    first = await client.get(RULES)
    waiting = asyncio.create_task(client.get(f"{RULES}&wait=25&after=1", headers={"If-None-Match": first.headers["etag"]}))
    service = client._transport.app.state.flags
    await eventually(lambda: any(watch._waiting for watch in service._watches.values()))

    rollouts.set("checkout-v2", enabled=False)
    service.look()

    assert (await waiting).json()["revision"] == 2


@pytest.mark.parametrize("query", ["&after=2", "&after=0", "", "&after=1"])
async def test_who_has_something_else_is_answered_at_once(client, query):
    """A revision that is ahead of ours, too: a store that was restored must not leave services with what it has forgotten."""
    answer = await client.get(f"{RULES}&wait=25{query}", headers={"If-None-Match": '"another"'})

    assert answer.status_code == 200


async def test_the_wait_ends_without_a_change(client):
    tag = (await client.get(RULES)).headers["etag"]
    answer = await client.get(f"{RULES}&wait=0.3&after=1", headers={"If-None-Match": tag})

    assert answer.status_code == 304


async def test_many_who_wait_cost_one_look(client, rollouts):
    tag = (await client.get(RULES)).headers["etag"]
    before = rollouts.asked
    waits = [client.get(f"{RULES}&wait=1&after=1", headers={"If-None-Match": tag}) for _ in range(50)]
    await asyncio.gather(*waits)

    assert rollouts.asked - before <= 1 / flag_service.LOOK_EVERY_S + 2


async def test_while_the_store_is_away_the_last_known_rules_are_answered(client, rollouts, monkeypatch):
    monkeypatch.setattr(flag_service, "LOOK_EVERY_S", 0.0)
    before = await client.get(RULES)
    rollouts.failure = StoreUnavailable("the store is away")

    assert (await client.get(RULES)).content == before.content
    assert (await client.get("/v1/flags?service=never-asked")).status_code == 503


@pytest.mark.parametrize("query", ["", "?service=", "?service=a&wait=26", "?service=a&wait=-1", "?service=a&wait=x", "?service=a&after=x"])
async def test_a_question_that_makes_no_sense_is_refused(client, query):
    assert (await client.get(f"/v1/flags{query}")).status_code == 422


# --- OFREP ------------------------------------------------------------------------------------------------------------


async def test_one_flag_is_evaluated_as_in_the_services(client):
    for n in range(50):
        answer = await ask(client, targetingKey=f"user-{n}")
        variant, reason = variant_of(FlagRule("checkout-v2", True, 50.0), f"user-{n}", {})
        expected = {"key": "checkout-v2", "value": variant == "on", "reason": reason, "variant": variant, "metadata": {"revision": 1}}
        assert (answer.status_code, answer.json()) == (200, expected)


async def test_internal_users_by_attribute(client, rollouts, monkeypatch):
    monkeypatch.setattr(flag_service, "LOOK_EVERY_S", 0.0)
    rollouts.set("checkout-v2", percent=0.0, internal={"attribute": "email_domain", "in": ["example.com"]})

    inside = (await ask(client, targetingKey="ann", email_domain="example.com")).json()
    outside = (await ask(client, targetingKey="ann", email_domain="example.org")).json()

    assert (inside["value"], inside["reason"]) == (True, "TARGETING_MATCH")
    assert (outside["value"], outside["reason"]) == (False, "STATIC")


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        ("/ofrep/v1/evaluate/flags/unknown", "{}", 404, {"key": "unknown", "errorCode": "FLAG_NOT_FOUND"}),
        (ONE, "{}", 400, {"key": "checkout-v2", "errorCode": "TARGETING_KEY_MISSING"}),
        (ONE, '{"context":{}}', 400, {"key": "checkout-v2", "errorCode": "TARGETING_KEY_MISSING"}),
        (ONE, "{", 400, {"key": "checkout-v2", "errorCode": "PARSE_ERROR"}),
        (ONE, "[]", 400, {"key": "checkout-v2", "errorCode": "PARSE_ERROR"}),
        (ONE, '{"context":[]}', 400, {"key": "checkout-v2", "errorCode": "INVALID_CONTEXT"}),
        (ONE, '{"context":{"targetingKey":7}}', 400, {"key": "checkout-v2", "errorCode": "INVALID_CONTEXT"}),
        (ONE, '{"context":{"targetingKey":NaN}}', 400, {"key": "checkout-v2", "errorCode": "PARSE_ERROR"}),
        (ONE, "x" * 2_000_000, 400, {"key": "checkout-v2", "errorCode": "PARSE_ERROR"}),
        (ALL, "{", 400, {"errorCode": "PARSE_ERROR"}),
        (ALL, '{"context":1}', 400, {"errorCode": "INVALID_CONTEXT"}),
    ],
)
async def test_errors_have_the_shapes_of_ofrep(client, path, body, status, expected):
    answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == status
    found = answer.json()
    assert isinstance(found.pop("errorDetails"), str)
    assert found == expected


async def test_all_flags_come_with_a_tag_that_holds_for_this_person(client, rollouts):
    answer = await ask(client, ALL, targetingKey="ann")
    again = await client.post(ALL, json={"context": {"targetingKey": "ann"}}, headers={"If-None-Match": answer.headers["etag"]})
    other = await client.post(ALL, json={"context": {"targetingKey": "user-1"}}, headers={"If-None-Match": answer.headers["etag"]})

    assert [flag["key"] for flag in answer.json()["flags"]] == ["checkout-v2", "other", "search"]
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


async def test_of_all_flags_those_that_need_a_name_say_so(client):
    flags = {flag["key"]: flag for flag in (await ask(client, ALL)).json()["flags"]}

    assert flags["checkout-v2"]["errorCode"] == "TARGETING_KEY_MISSING"
    assert flags["search"]["value"] is True


async def test_configuration_tells_how_often_to_ask(client):
    answer = await client.get(CONFIGURATION)
    again = await client.get(CONFIGURATION, headers={"If-None-Match": answer.headers["etag"]})

    assert answer.json()["capabilities"]["cacheInvalidation"]["polling"] == {"enabled": True, "minPollingInterval": 1000}
    assert again.status_code == 304


async def test_without_its_store_and_without_a_memory_it_says_so_in_ofreps_words(client, rollouts):
    rollouts.failure = StoreUnavailable("the store is away")

    for path in (ONE, ALL):
        answer = await ask(client, path, targetingKey="ann")
        assert (answer.status_code, list(answer.json())) == (500, ["errorDetails"])


@pytest.mark.parametrize(("method", "path"), [("GET", RULES), ("POST", ONE), ("POST", ALL), ("GET", CONFIGURATION)])
async def test_every_route_asks_for_a_token(client, method, path):
    codes = []
    for token in ("", "Bearer wrong", f"Bearer {READ}", f"Bearer {SEND}"):
        body = json.dumps({"context": {"targetingKey": "ann"}}) if method == "POST" else None
        answer = await client.request(method, path, content=body, headers={"Authorization": token, "Content-Type": "application/json"})
        codes.append(answer.status_code)

    assert codes == [401, 401, 200, 200]


# --- of real rollouts -------------------------------------------------------------------------------------------------


async def test_a_rollback_of_a_rollout_ends_the_wait_and_gives_everybody_off(make_api, database_url):
    async with make_api(database_url, rollout_interval_s=3600) as api:
        await api.apply()
        await api.step("start")
        for _ in range(2):
            await api.step("advance", force=True)
        rules = await api.get("/v1/flags?service=chat")
        [flag] = rules.json()["flags"]
        waiting = asyncio.create_task(
            api.client.get(
                f"/v1/flags?service=chat&wait=25&after={rules.json()['revision']}",
                headers={**TOKEN, "If-None-Match": rules.headers["etag"]},
            )
        )
        watch = api.app.state.flags._watch("chat")
        await eventually(lambda: bool(watch._waiting))

        await api.step("rollback")
        [after] = (await waiting).json()["flags"]
        evaluated = await api.post(f"/ofrep/v1/evaluate/flags/{flag['key']}", {"context": {"targetingKey": "ann"}})

    assert (flag["enabled"], flag["percent"] > 0) == (True, True)
    assert not after["enabled"]
    assert (evaluated.json()["value"], evaluated.json()["reason"]) == (False, "DISABLED")
