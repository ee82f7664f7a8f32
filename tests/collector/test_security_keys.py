"""Keys: made, rotated and revoked without a restart, kept as hashes, and bound to services."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from isolation_monitor.collector.keyring import KeyRing
from isolation_monitor.collector.keys import KEYS_LIMIT, Key, KeysError, Rates, Scope, change_keys, new_key, read_keys
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.settings import SettingsError, load_settings
from tests.collector.conftest import SEND, START, Api, FrozenClock, bearer, until
from tests.collector.test_records import run_record

Running = Callable[..., AbstractAsyncContextManager[Api]]


class File:
    """A file of keys, and the tokens of those in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: dict[str, str] = {}

    def add(self, *scopes: Scope, services: tuple[str, ...] = (), expires_s: float | None = None, rates: Rates | None = None) -> str:
        ends = None if expires_s is None else START + timedelta(seconds=expires_s)
        key, token = new_key(scopes, START, services=services, expires=ends, rates=rates)
        change_keys(self.path, lambda keys: (*keys, key))
        self.ids[token] = key.id
        return token

    def revoke(self, token: str) -> None:
        change_keys(self.path, lambda keys: [key for key in keys if key.id != self.ids[token]])


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "keys.json")


@pytest.fixture
def with_keys(make_api: Running, sqlite_url: str, file: File) -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Run a collector with the file of keys beside the two tokens that every test has."""

    @asynccontextmanager
    async def build(**settings: object) -> AsyncIterator[Api]:
        async with make_api(sqlite_url, keys_file=file.path, **settings) as api:
            yield api

    return build


async def sent(api: Api, token: str, service: str = "chat", *records: object) -> httpx2.Response:
    return await api.client.post("/v1/records", json=api.batch(*records, service=service), headers=bearer(token))


async def test_a_key_opens_its_scope_and_no_other(with_keys: Running, file: File) -> None:
    ingest, read = file.add("ingest"), file.add("read")

    async with with_keys() as api:
        assert (await sent(api, ingest)).status_code == 200
        assert (await api.get("/v1/violations", read)).status_code == 200
        assert (await sent(api, read)).status_code == 403
        assert (await api.get("/v1/violations", ingest)).status_code == 403


async def test_a_read_key_of_the_file_does_not_operate(with_keys: Running, file: File) -> None:
    """Only tokens of the settings open what nothing was set for: a key says all that it opens."""
    read, operate = file.add("read"), file.add("operate")

    async with with_keys() as api:
        await api.apply()
        refused = await api.client.post("/v1/rollouts/checkout/start", json={"actor": "a", "reason": "b"}, headers=bearer(read))
        taken = await api.client.post("/v1/rollouts/checkout/start", json={"actor": "a", "reason": "b"}, headers=bearer(operate))

    assert (refused.status_code, taken.status_code) == (403, 200)


async def test_a_key_is_rotated_and_revoked_while_the_collector_runs(with_keys: Running, file: File) -> None:
    old = file.add("ingest")

    async with with_keys() as api:
        assert (await sent(api, old)).status_code == 200

        new = file.add("ingest")

        async def answers(token: str, status: int) -> bool:
            return (await sent(api, token)).status_code == status

        await until(lambda: answers(new, 200))
        assert (await sent(api, old)).status_code == 200

        file.revoke(old)
        await until(lambda: answers(old, 401))
        assert (await sent(api, new)).status_code == 200
        metrics = (await api.get("/metrics")).text
    assert 'isolation_collector_key_reloads_total{result="ok"} 2.0' in metrics
    assert 'isolation_collector_requests_refused_total{reason="unknown_token"}' in metrics


async def test_a_file_of_plain_tokens_is_read_again_too(make_api: Running, sqlite_url: str, tmp_path: Path) -> None:
    tokens = tmp_path / "operate"
    tokens.write_text("before\n")

    async with make_api(sqlite_url, operate_token_file=tokens) as api:
        tokens.write_text("after-the-change\n")

        async def opens(token: str) -> bool:
            return (await api.get("/v1/rollouts", token)).status_code == 200

        await until(lambda: opens("after-the-change"))
        assert not await opens("before")


async def test_an_expired_key_is_unknown_from_that_moment_on(with_keys: Running, file: File, clock: FrozenClock) -> None:
    token = file.add("ingest", expires_s=60)

    async with with_keys() as api:
        assert (await sent(api, token)).status_code == 200
        clock.advance(60)
        answer = await sent(api, token)

    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


class TestTwoTenants:
    """The keys of one service reach nothing of another, by any route."""

    async def test_records_of_another_service_are_refused_whole(self, with_keys: Running, file: File) -> None:
        token = file.add("ingest", services=("chat",))

        async with with_keys() as api:
            assert (await sent(api, token, "chat", api.violation(id="mine"))).status_code == 200
            refused = await sent(api, token, "payments", api.violation(id="theirs"))

            assert refused.status_code == 403
            assert "chat" in refused.json()["detail"]
            assert await api.stored_ids() == {"mine"}

    async def test_lists_hold_what_is_the_keys_own(self, with_keys: Running, file: File) -> None:
        token = file.add("read", services=("chat",))

        async with with_keys() as api:
            await api.send(api.violation(id="mine"))
            await api.send(api.violation(id="theirs"), service="payments")
            for service in ("chat", "payments"):
                await api.client.post("/v1/alerts", json=webhook(service), headers=bearer(SEND))
                await api.start_rollout(f"of-{service}", service=service)

            violations = await api.get("/v1/violations", token)
            groups = await api.get("/v1/violation-groups", token)
            alerts = await api.get("/v1/alerts", token)
            rollouts = await api.get("/v1/rollouts", token)
            everything = await api.get("/v1/alerts")

        assert [item["id"] for item in violations.json()["items"]] == ["mine"]
        assert [item["service"] for item in groups.json()["items"]] == ["chat"]
        assert [item["labels"]["service"] for item in alerts.json()["items"]] == ["chat"]
        assert [item["name"] for item in rollouts.json()["items"]] == ["of-chat"]
        assert len(everything.json()["items"]) == 2

    async def test_single_objects_of_others_are_not_there(self, with_keys: Running, file: File) -> None:
        token = file.add("read", "operate", "gates", services=("chat",))

        async with with_keys() as api:
            await api.send(api.violation(id="theirs"), service="payments")
            await api.start_rollout("watched", service="payments")
            await api.apply("staged", service="payments")
            decision = (await api.gate("watched"))["decision_id"]
            paths = (
                *("/v1/violations/theirs", "/v1/rollouts/watched", "/v1/rollouts/staged/history", "/v1/gates/watched"),
                f"/v1/gates/watched/decisions/{decision}",
            )
            for path in paths:
                assert (await api.get(path, token)).status_code == 404, path
                assert (await api.get(path)).status_code == 200, path
            step = await api.client.post("/v1/rollouts/staged/start", json={"actor": "a", "reason": "b"}, headers=bearer(token))
            hook = {"name": "x", "metadata": {"rollout": "watched"}}
            flagger = await api.client.post("/flagger/check", json=hook, headers=bearer(token))
            spec = {"rollout": "staged", "service": "chat", "stages": [{"name": "all", "percent": 100, "soak": "1m"}]}
            taken = await api.client.put("/v1/rollouts/staged", json={"spec": spec, "actor": "a", "reason": "b"}, headers=bearer(token))
            started = await api.client.post("/v1/rollouts", json={"name": "new", "service": "payments"}, headers=bearer(token))
            assert (await api.state("staged"))["status"] == "ready"

        assert (step.status_code, flagger.status_code, taken.status_code, started.status_code) == (404, 404, 409, 403)

    async def test_what_lists_link_to_opens_and_that_of_others_is_not_there(self, with_keys: Running, file: File) -> None:
        token = file.add("read", services=("chat",))

        async with with_keys() as api:
            for service in ("chat", "payments"):
                await api.send(run_record(f"run-of-{service}"), api.violation(id=f"of-{service}", grade="crossed"), service=service)
            mine = (await api.get("/v1/incidents", token)).json()["items"]
            (theirs,) = (await api.get("/v1/incidents?service=payments")).json()["items"]
            opened = [await api.get(path, token) for path in ("/v1/runs/run-of-chat", f"/v1/incidents/{mine[0]['id']}")]
            closed = [await api.get(path, token) for path in ("/v1/runs/run-of-payments", f"/v1/incidents/{theirs['id']}")]
            named = await api.get("/v1/incidents?service=payments", token)

        assert [item["service"] for item in mine] == ["chat"]
        assert [answer.status_code for answer in opened] == [200, 200]
        assert [answer.status_code for answer in closed] == [404, 404]
        assert named.status_code == 403

    async def test_asking_for_another_service_by_name_is_refused(self, with_keys: Running, file: File) -> None:
        token = file.add("read", services=("chat",))

        async with with_keys() as api:
            paths = ("/v1/violations", "/v1/violation-groups", "/v1/alerts", "/v1/queues", "/v1/rollouts", "/v1/flags")
            for path in paths:
                assert (await api.get(f"{path}?service=payments", token)).status_code == 403, path
                assert (await api.get(f"{path}?service=chat", token)).status_code == 200, path

    async def test_flags_of_others_are_not_evaluated(self, with_keys: Running, file: File) -> None:
        token = file.add("ingest", services=("chat", "search"))

        async with with_keys() as api:
            for service in ("chat", "search", "payments"):
                await api.apply(f"flag-of-{service}", service=service)
            answer = await api.client.post("/ofrep/v1/evaluate/flags", json={"context": {"targetingKey": "ann"}}, headers=bearer(token))

        assert {flag["key"] for flag in answer.json()["flags"]} == {"flag-of-chat", "flag-of-search"}

    async def test_a_key_of_two_services_names_one(self, with_keys: Running, file: File) -> None:
        token = file.add("read", services=("chat", "search"))

        async with with_keys() as api:
            unnamed = await api.get("/v1/violations", token)
            named = await api.get("/v1/violations?service=search", token)

        assert (unnamed.status_code, named.status_code) == (422, 200)
        assert "chat, search" in unnamed.json()["detail"]

    async def test_what_belongs_to_all_services_is_closed(self, with_keys: Running, file: File) -> None:
        token = file.add("read", "alerts", services=("chat",))

        async with with_keys() as api:
            metrics = await api.get("/metrics", token)
            alerts = await api.client.post("/v1/alerts", json=webhook("payments"), headers=bearer(token))

        assert (metrics.status_code, alerts.status_code) == (403, 403)

    async def test_no_service_takes_back_what_another_has_found(self, api: Api) -> None:
        """A retraction of somebody else's violation would hide it from the gate, whichever of the two comes first."""
        await api.send(api.retraction("found", grade=None), service="payments")
        await api.send(api.violation(id="found"))
        await api.send(api.retraction("found"), api.escalation("found"), service="payments")

        seen = (await api.get("/v1/violations/found")).json()

        assert (seen["grade"], seen["retracted"], seen["escalations"], seen["retractions"]) == ("reachable", False, [], [])
        await api.send(api.retraction("found"))
        assert (await api.get("/v1/violations/found")).json()["retracted"]


def webhook(service: str) -> dict[str, Any]:
    labels = {"alertname": "IsolationViolation", "service": service}
    alert = {"status": "firing", "labels": labels, "startsAt": "2026-01-01T12:00:00Z", "fingerprint": f"of {service}"}
    return {"version": "4", "groupKey": service, "receiver": "collector", "alerts": [alert]}


async def test_no_route_tells_a_bound_key_of_another_service(with_keys: Running, file: File) -> None:
    """Goes through every operation there is, so that a new one is held to it too."""
    token = file.add("ingest", "read", "operate", "alerts", "gates", services=("chat",))
    open_paths = {"/healthz", "/readyz", "/runbooks", "/runbooks/{name}"}

    async with with_keys() as api:
        found = api.violation(id="found", kind="kind-of-payments", grade="crossed")
        await api.send(found, run_record("run") | {"detail": {"error": "of payments"}}, service="payments")
        start = {"type": "startup", "id": "start", "time": found["time"], "state": "hanging", "phase": "of payments"}
        await api.send(start, service="payments")
        await api.client.post("/v1/alerts", json=webhook("payments"), headers=bearer(SEND))
        await api.apply("canary-of-payments", service="payments")
        paths = (await api.get("/openapi.json")).json()["paths"]
        (incident,) = (await api.get("/v1/incidents")).json()["items"]
        filled = {
            "violation_id": "found", "record_id": "run", "incident_id": incident["id"], "principal": "a1b2c3d4e5f60718",
            "rollout": "canary-of-payments", "name": "canary-of-payments", "key": "canary-of-payments",
            "decision_id": "none", "step": "hold", "run_id": "none", "suite": "none", "lifecycle_id": "start",
        }  # fmt: skip
        asked = 0
        for path, operations in paths.items():
            address = re.sub(r"\{(\w+)\}", lambda named: filled[named[1]], path)
            for method in operations if path not in open_paths else ():
                answer = await api.client.request(method.upper(), address, json={}, headers=bearer(token))
                asked += 1
                assert "payments" not in answer.text.replace("canary-of-payments", ""), (method, path, answer.text)
        seen = (await api.get("/v1/violations")).text

    assert asked >= 20
    assert "payments" in seen


class TestFile:
    def test_it_holds_no_token_and_is_open_to_its_owner_alone(self, file: File) -> None:
        token = file.add("ingest")

        text = file.path.read_text()

        assert token not in text
        assert token.rsplit("_", 1)[1] not in text
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert list(file.path.parent.iterdir()) == [file.path]

    def test_no_token_and_no_hash_is_in_the_text_of_a_key(self, file: File) -> None:
        token = file.add("ingest")
        (key,) = read_keys(file.path)

        assert token not in repr(key)
        assert key.digest.hex() not in repr(key)
        assert repr(key.digest) not in repr(key)

    def test_the_mode_that_it_was_given_stays(self, file: File) -> None:
        file.add("ingest")
        file.path.chmod(0o640)

        file.add("read")

        assert stat.S_IMODE(file.path.stat().st_mode) == 0o640

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "none"),
            ("{}", "schema"),
            ('{"schema": "keys/2", "keys": []}', "schema"),
            ('{"schema": "keys/1", "keys": [{"id": "a", "scopes": ["all"], "sha256": "' + "0" * 64 + '"}]}', "scopes"),
            ('{"schema": "keys/1", "keys": [{"id": "a", "scopes": [], "sha256": "' + "0" * 64 + '"}]}', "scopes"),
            ('{"schema": "keys/1", "keys": [{"id": "a", "scopes": ["read"], "sha256": "secret"}]}', "sha256"),
            ('{"schema": "keys/1", "keys": [{"id": "a", "scopes": ["read"], "services": [], "sha256": "' + "0" * 64 + '"}]}', "services"),
            ('{"schema": "keys/1", "keys": [{"id": "a", "scopes": ["read"], "service": "x", "sha256": "' + "0" * 64 + '"}]}', "service"),
        ],
    )
    def test_one_that_cannot_be_used_stops_the_start_and_is_named(self, tmp_path: Path, content: str, told: str) -> None:
        path = tmp_path / "keys.json"
        path.write_text(content)

        with pytest.raises(SettingsError, match=told) as caught:
            load_settings(keys_file=path, send_token="s", read_token="r")

        assert str(path) in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_one_that_anybody_may_write_is_refused(self, file: File) -> None:
        file.add("ingest")
        file.path.chmod(0o666)

        with pytest.raises(KeysError, match="chmod 600"):
            read_keys(file.path)

    def test_the_same_id_twice_is_refused(self, file: File) -> None:
        file.add("ingest")
        body = json.loads(file.path.read_text())
        file.path.write_text(json.dumps(body | {"keys": body["keys"] * 2}))

        with pytest.raises(KeysError, match="twice"):
            read_keys(file.path)

    def test_a_key_that_could_not_be_read_again_is_not_written(self, file: File) -> None:
        file.add("ingest")
        before = file.path.read_text()
        key, _token = new_key(["read"], START, name="two\nlines")

        with pytest.raises(KeysError, match="name"):
            change_keys(file.path, lambda keys: (*keys, key))

        assert file.path.read_text() == before

    def test_there_is_an_end_to_the_number_of_keys(self, file: File) -> None:
        key, _token = new_key(["read"], START)

        with pytest.raises(KeysError, match=str(KEYS_LIMIT)):
            change_keys(file.path, lambda _keys: [key] * (KEYS_LIMIT + 1))


class TestStart:
    def test_keys_of_the_file_alone_are_enough(self, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SEND", "READ"):
            monkeypatch.delenv(f"COLLECTOR_{name}_TOKEN", raising=False)
        file.add("ingest", "read")

        assert [key.scopes for key in load_settings(keys_file=file.path).load_keys()] == [{"ingest", "read"}]

    @pytest.mark.parametrize(("has", "lacks"), [("ingest", "read"), ("read", "ingest")])
    def test_without_a_key_to_send_or_to_read_it_does_not_start(self, file: File, has: Scope, lacks: str) -> None:
        file.add(has)

        with pytest.raises(SettingsError, match=f"no token to {lacks}.*isomon token new --scope {lacks}"):
            load_settings(keys_file=file.path)


class TestKeyRing:
    def test_a_broken_file_changes_nothing_and_is_told(self, file: File) -> None:
        token, told, now = file.add("ingest"), list[bool](), [0.0]
        ring = KeyRing(lambda: read_keys(file.path), [file.path], told.append, lambda: now[0])

        file.path.write_text("half a fi")
        now[0] += 2

        assert ring.find(token) is not None
        assert told == [False]
        file.path.unlink()
        now[0] += 2
        assert ring.find(token) is not None
        assert told == [False, False]
        other = file.add("read")
        now[0] += 2
        assert (ring.find(token), ring.find(other) is not None) == (None, True)
        assert told == [False, False, True]

    def test_a_file_that_is_put_back_as_it_was_is_no_longer_told_as_stale(self, file: File, tmp_path: Path) -> None:
        """Moved away and back, a file has the same time, size and inode as before: nothing changed, and all is well again."""
        token, metrics, now = file.add("ingest"), CollectorMetrics(), [0.0]
        ring = KeyRing(lambda: read_keys(file.path), [file.path], metrics.keys_reloaded, lambda: now[0])
        stale = []

        file.path.rename(tmp_path / "away")
        for _ in range(2):
            now[0] += 2
            assert ring.find(token) is not None
            stale.append(metrics.registry.get_sample_value("isolation_collector_keys_stale"))
        (tmp_path / "away").rename(file.path)
        now[0] += 2
        assert ring.find(token) is not None
        stale.append(metrics.registry.get_sample_value("isolation_collector_keys_stale"))

        assert stale == [1, 1, 0]

    def test_an_unchanged_file_is_not_read_again(self, file: File) -> None:
        file.add("ingest")
        reads, now = list[int](), [0.0]

        def load() -> tuple[Key, ...]:
            reads.append(1)
            return read_keys(file.path)

        ring = KeyRing(load, [file.path], monotonic=lambda: now[0])
        for _ in range(100):
            now[0] += 5
            ring.find("unknown")

        assert len(reads) == 1

    def test_a_token_is_held_against_every_key_whichever_it_is(self, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
        """The number of comparisons, each in constant time, says nothing about the token."""
        tokens = [file.add("ingest") for _ in range(5)]
        ring = KeyRing(lambda: read_keys(file.path), [file.path])
        compared = 0
        real = __import__("hmac").compare_digest

        def counting(one: bytes, other: bytes) -> bool:
            nonlocal compared
            compared += 1
            return bool(real(one, other))

        monkeypatch.setattr("isolation_monitor.collector.keyring.hmac.compare_digest", counting)
        counts = []
        for token in (tokens[0], tokens[4], "unknown", ""):
            compared = 0
            ring.find(token)
            counts.append(compared)

        assert counts == [5, 5, 5, 5]


def test_a_file_written_by_root_stays_readable_for_the_user_it_belongs_to(file: File) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    file.add("ingest")
    os.chown(file.path, 12345, 12345)

    file.add("read")

    assert (file.path.stat().st_uid, file.path.stat().st_gid) == (12345, 12345)
