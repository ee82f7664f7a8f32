"""Bad input: a clear problem+json, and nothing stored."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from isolation_monitor.collector.settings import SettingsError, load_settings
from tests.collector.conftest import READ, SEND, Api, bearer, scopes_of

JSON = {"Content-Type": "application/json"}
GZIP = JSON | {"Content-Encoding": "gzip"}


@pytest.fixture
async def lean(make_api: Callable[..., Any], empty_sqlite_url: str) -> AsyncIterator[Api]:
    """A collector on SQLite alone: refusals happen before any store."""
    from isolation_monitor.collector.storage.schema import migrate

    await migrate(empty_sqlite_url)
    async with make_api(empty_sqlite_url) as running:
        yield running


def is_problem(answer: Any, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"schema": NaN}', 400),
        (b'{"schema": Infinity}', 400),
        (b"[" * 100_000, 400),
        (b'{"n": ' + b"9" * 5000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (b"7", 422),
        (b"{}", 422),
        (b'{"schema":"records/1","service":"chat","instance":"i","sent_at":"2026-01-01T00:00:00Z","records":{}}', 422),
        (b'{"schema":"records/1","service":"","instance":"i","sent_at":"2026-01-01T00:00:00Z","records":[]}', 422),
        (b'{"schema":"logs/1","service":"chat","instance":"i","sent_at":"2026-01-01T00:00:00Z","records":[]}', 422),
        (b'{"schema":"records/1","service":1,"instance":"i","sent_at":"2026-01-01T00:00:00Z","records":[]}', 422),
    ],
)
async def test_a_body_that_is_no_batch_is_refused(lean: Api, body: bytes, status: int) -> None:
    is_problem(await lean.client.post("/v1/records", content=body, headers=bearer(SEND) | JSON), status)
    assert await lean.stored_ids() == set()


async def test_numbers_beyond_all_bounds_reject_the_record_that_holds_them(lean: Api) -> None:
    body = json.dumps(lean.batch(lean.violation(id="good"), lean.violation(detail={"n": "@"}))).replace('"@"', "1e999")

    answer = await lean.client.post("/v1/records", content=body, headers=bearer(SEND) | JSON)

    assert (answer.json()["accepted"], answer.json()["rejected"][0]["index"]) == (1, 1)


async def test_a_record_nested_too_deeply_is_rejected(lean: Api) -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = [deep]

    answer = await lean.send(lean.violation(detail={"deep": deep}))

    assert "nest" in answer.json()["rejected"][0]["reason"]


async def test_a_record_above_64_kib_is_rejected_and_one_just_below_is_kept(lean: Api) -> None:
    empty = len(json.dumps(lean.violation(id="v" * 10, detail={"x": ""}), separators=(",", ":")))
    fits = lean.violation(id="f" * 10, detail={"x": "a" * (64 * 1024 - empty)})
    over = lean.violation(id="o" * 10, detail={"x": "a" * (64 * 1024 - empty + 1)})

    answer = await lean.send(fits, over)

    assert answer.json()["accepted"] == 1
    assert "65536" in answer.json()["rejected"][0]["reason"]


async def test_a_thousand_and_one_records_are_too_many(lean: Api) -> None:
    body = gzip.compress(json.dumps(lean.batch(*([7] * 1001))).encode())

    is_problem(await lean.client.post("/v1/records", content=body, headers=bearer(SEND) | GZIP), 413)


@pytest.mark.parametrize("record", [b"0", b"{}", b'""', b"[ ]"])
async def test_millions_of_tiny_records_are_too_many_and_are_not_made(lean: Api, record: bytes) -> None:
    """Eight mebibytes of them would be hundreds in memory: the list is counted before it is read."""
    head = json.dumps(lean.batch()).encode()[:-2]
    body = gzip.compress(head + b",".join([record] * 1_500_000) + b"]}")

    is_problem(await lean.client.post("/v1/records", content=body, headers=bearer(SEND) | GZIP), 413)


async def test_a_dense_record_among_few_is_no_list_that_is_too_long(lean: Api) -> None:
    records = [lean.violation(id=f"v-{n}", detail={"n": [n] * 20_000}) for n in range(3)]

    answer = await lean.send(*records)

    assert (answer.status_code, answer.json()["accepted"]) == (200, 3)


async def test_a_body_above_one_mebibyte_is_refused_while_it_streams(lean: Api) -> None:
    """The sender names no length; the collector must not read on to find out."""
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 65_536
            yield b" " * 65_536

    is_problem(await lean.client.post("/v1/records", content=endless(), headers=bearer(SEND) | JSON), 413)
    assert given <= 1024 * 1024 + 2 * 65_536


async def test_an_announced_length_above_the_limit_is_refused_unread(lean: Api) -> None:
    is_problem(await lean.client.post("/v1/records", content=b" " * (1024 * 1024 + 1), headers=bearer(SEND) | JSON), 413)


async def test_a_gzip_bomb_is_refused_without_inflating_it(lean: Api) -> None:
    bomb = gzip.compress(b" " * 50_000_000)

    is_problem(await lean.client.post("/v1/records", content=bomb, headers=bearer(SEND) | GZIP), 413)


@pytest.mark.parametrize(
    "body",
    [b"not gzip", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"more", gzip.compress(b"{}") + gzip.compress(b"{}"), b""],
    ids=["other", "cut", "trailing", "two members", "empty"],
)
async def test_broken_gzip_is_refused(lean: Api, body: bytes) -> None:
    is_problem(await lean.client.post("/v1/records", content=body, headers=bearer(SEND) | GZIP), 400)


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/plain"}, JSON | {"Content-Encoding": "br"}, JSON | {"Content-Encoding": "gzip, gzip"}]
)
async def test_other_media_and_encodings_are_415(lean: Api, headers: dict[str, str]) -> None:
    is_problem(await lean.client.post("/v1/records", content=b"{}", headers=bearer(SEND) | headers), 415)


async def test_records_beyond_what_may_be_under_way_are_asked_to_come_again(lean: Api) -> None:
    intake = lean.app.state.intake
    with intake.hold() as held:
        held.take(intake.limit_bytes - 100)
        refused = await lean.send(lean.violation(id="v"))
    accepted = await lean.send(lean.violation(id="v"))

    is_problem(refused, 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert (accepted.json()["accepted"], intake.held_bytes) == (1, 0)
    assert 'batches_refused_total{reason="overloaded"} 1.0' in (await lean.get("/metrics")).text


async def test_a_body_that_trickles_is_refused(make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    import asyncio

    async def never_ending() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with make_api(empty_sqlite_url, body_timeout_s=0.1) as api:
        is_problem(await api.client.post("/v1/records", content=never_ending(), headers=bearer(SEND) | JSON), 408)


class TestTokens:
    @pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer wrong", "bearer \u00fc"])
    async def test_no_token_or_an_unknown_one_is_401(self, lean: Api, header: str | None) -> None:
        headers = {} if header is None else {b"Authorization": header.encode()}

        answer = await lean.client.post("/v1/records", json=lean.batch(lean.violation()), headers=headers)

        is_problem(answer, 401)
        assert "Bearer" in answer.headers["www-authenticate"]
        assert await lean.stored_ids() == set()

    @pytest.mark.parametrize(
        ("method", "path", "token"),
        [
            ("POST", "/v1/records", READ),
            ("POST", "/v1/alerts", READ),
            ("GET", "/v1/violations", SEND),
            ("GET", "/v1/violations/x", SEND),
            ("GET", "/v1/alerts", SEND),
            ("GET", "/v1/queues", SEND),
            ("GET", "/v1/gates/x", SEND),
            ("GET", "/metrics", SEND),
        ],
    )
    async def test_a_known_token_of_another_scope_is_403(self, lean: Api, method: str, path: str, token: str) -> None:
        is_problem(await lean.client.request(method, path, headers=bearer(token)), 403)

    async def test_every_route_but_health_and_runbooks_asks_for_a_token(self, lean: Api) -> None:
        open_paths = {"/healthz", "/readyz", "/runbooks", "/runbooks/{name}"}
        paths = (await lean.get("/openapi.json")).json()["paths"]

        for path, operations in paths.items():
            if path in open_paths:
                continue
            for method in operations:
                answer = await lean.client.request(method.upper(), path)
                assert answer.status_code == 401, f"{method} {path}"

    async def test_two_tokens_live_side_by_side_while_one_is_rotated(
        self, make_api: Callable[..., Any], empty_sqlite_url: str, tmp_path: Any
    ) -> None:
        from isolation_monitor.collector.app import create_app
        from isolation_monitor.collector.security import Guard

        tokens = tmp_path / "send"
        tokens.write_text("old-token\nnew-token\n")
        settings = load_settings(database_url=empty_sqlite_url, send_token_file=tokens, read_token="r")

        guard: Guard = create_app(settings).state.guard

        assert guard.key_of("old-token", "ingest").scopes == guard.key_of("new-token", "ingest").scopes == {"ingest", "alerts"}

    def test_an_alerts_token_of_its_own_takes_the_route_from_the_send_token(self) -> None:
        settings = load_settings(send_token="s", read_token="r", alerts_token="a")

        assert scopes_of(settings, "s") == {"ingest"}
        assert scopes_of(settings, "r") == {"read", "operate", "gates"}
        assert scopes_of(settings, "a") == {"alerts"}


class TestStart:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({}, "COLLECTOR_SEND_TOKEN"),
            ({"send_token": "s"}, "COLLECTOR_READ_TOKEN"),
            ({"send_token": " ", "read_token": "r"}, "COLLECTOR_SEND_TOKEN"),
            ({"send_token": "x", "read_token": "x"}, "share"),
            ({"send_token": "s", "read_token_file": "/nonexistent/token"}, "COLLECTOR_READ_TOKEN_FILE"),
            ({"send_token": "s", "read_token": "r", "database_url": "mysql://u:secret@h/x"}, "COLLECTOR_DATABASE_URL"),
            ({"send_token": "s", "read_token": "r", "prometheus_url": "ftp://x"}, "COLLECTOR_PROMETHEUS_URL"),
            ({"send_token": "s", "read_token": "r", "ingest_bytes": 1000}, "COLLECTOR_INGEST_BYTES=1000"),
        ],
    )
    def test_wrong_settings_stop_the_start_and_are_named(
        self, settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key in ("SEND_TOKEN", "READ_TOKEN", "DATABASE_URL"):
            monkeypatch.delenv(f"COLLECTOR_{key}", raising=False)

        with pytest.raises(SettingsError, match=named) as caught:
            load_settings(**settings)

        assert "secret" not in str(caught.value)

    def test_settings_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLLECTOR_SEND_TOKEN", "from-env")
        monkeypatch.setenv("COLLECTOR_READ_TOKEN", "r")
        monkeypatch.setenv("COLLECTOR_DATABASE_URL", "postgresql://db/x")

        settings = load_settings()

        assert scopes_of(settings, "from-env") == {"ingest", "alerts"}
        assert settings.database_url == "postgresql+asyncpg://db/x"
        assert "from-env" not in repr(settings)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/records/", 404),
        ("DELETE", "/v1/records", 405),
        ("GET", "/v1/records", 405),
        ("GET", "/v1/violations/a%00b", 400),
        ("GET", "/v1/violations?kind=%00", 400),
    ],
)
async def test_the_frameworks_own_refusals_are_problems_too(lean: Api, method: str, path: str, status: int) -> None:
    is_problem(await lean.client.request(method, path, headers=bearer(READ)), status)


async def test_a_defect_is_a_problem_without_a_stack_in_it(lean: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from isolation_monitor.collector.evidence.service import EvidenceService

    async def broken(*_: object) -> None:
        raise KeyError("internal secret")

    monkeypatch.setattr(EvidenceService, "find", broken)

    answer = await lean.get("/v1/violations")

    is_problem(answer, 500)
    assert "secret" not in answer.text
