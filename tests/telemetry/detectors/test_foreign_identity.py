"""Identity fields in answers: another user's id is a violation of grade crossed, one's own never is."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest


def service(answer: Any, *, encoding: str = "", chunks: int = 1) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json")]
        if encoding == "gzip":
            body = gzip.compress(body)
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        size = max(1, len(body) // chunks)
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        for n, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": n < len(parts) - 1})

    return app


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ({"user_id": "ann", "text": "hi"}, {}),
        ({"items": [{"user_id": "bob"}, {"user_id": "ann"}]}, {}),
        ({"user_id": "ann"}, {"encoding": "gzip"}),
        ({"padding": "x" * 5000, "user_id": "ann"}, {"chunks": 7}),
        (b'{"user_id" :  "\\u0061nn"}', {}),
        ({"user_id": 42}, {}),
    ],
)
async def test_another_users_identity_is_found(monitor, client, answer, options) -> None:
    monitor.identity_fields("user_id")
    calls = client(monitor.instrument(service(answer, **options)))

    await calls.get("/", user="bob")

    [violation] = monitor.violations()
    assert (violation.kind, violation.grade, violation.resource.name) == ("foreign_identity", "crossed", "user_id")
    assert violation.offender.principal == monitor.principals.named("bob").hash


@pytest.mark.parametrize(
    ("user", "answer"),
    [
        ("bob", {"user_id": "bob"}),
        ("42", {"user_id": 42}),
        ("bob", {"author": "ann", "text": "user_id ann"}),
        ("bob", {"user_id": None}),
        ("zoë", {"user_id": "zoë"}),
        ("bob", []),
    ],
)
async def test_ones_own_identity_and_undeclared_fields_are_silent(monitor, client, samples, user, answer) -> None:
    monitor.identity_fields("user_id")
    calls = client(monitor.instrument(service(answer)))

    await calls.get("/", user=user)

    assert monitor.violations() == []
    assert samples(monitor, "isolation_checks_total", detector="foreign_identity", result="pass") == 1


async def test_a_body_above_the_limit_is_not_called_isolated(make_monitor, client, samples) -> None:
    monitor = make_monitor(body_limit_bytes=1000)
    monitor.identity_fields("user_id")
    calls = client(monitor.instrument(service({"padding": "x" * 5000})))

    await calls.get("/", user="bob")

    assert samples(monitor, "isolation_checks_total", detector="foreign_identity", result="skipped") == 1
    assert samples(monitor, "isolation_requests_total", verdict="unverified") == 1


async def test_a_foreign_answer_raises_the_grade_of_the_instance_that_made_it_possible(monitor, client, samples) -> None:
    monitor.identity_fields("user_id")
    cached: dict[str, Any] = {}

    class Agent:
        def __init__(self, user: str) -> None:
            self.user = user

    @monitor.factory("agent")
    def create(user: str) -> Agent:
        return cached.setdefault("agent", Agent(user))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        agent = create(dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer "))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps({"user_id": agent.user}).encode()})

    calls = client(monitor.instrument(app))
    await calls.get("/", user="ann")
    answer = await calls.get("/", user="bob")

    assert answer.json() == {"user_id": "ann"}
    reuse, identity = monitor.violations()
    assert (reuse.kind, reuse.grade) == ("instance_reuse", "crossed")
    assert (identity.kind, identity.detail["cause"]) == ("foreign_identity", reuse.id)
    assert samples(monitor, "isolation_violations_total", kind="instance_reuse", grade="crossed") == 1
