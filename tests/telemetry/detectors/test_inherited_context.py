"""Contexts that leak between requests: found where the application's own variables crossed, silent where nothing did."""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

current_user: contextvars.ContextVar[str] = contextvars.ContextVar("current_user")


def service(remembers: bool = True) -> Any:
    """The well-known defect: the user is loaded once per context, so a context that is reused keeps the first user."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        if remembers:
            try:
                user = current_user.get()
            except LookupError:
                current_user.set(user)
        body = json.dumps({"text": f"hello {user}"}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_a_context_reused_for_another_user_is_a_violation_that_names_the_variable(monitor, client) -> None:
    calls = client(monitor.instrument(service()))
    shared = contextvars.Context()

    await calls.get("/", user="ann", context=shared)
    answer = await calls.get("/", user="bob", context=shared)

    assert answer.json() == {"text": "hello ann"}, "the harm itself"
    [violation] = monitor.violations()
    assert (violation.kind, violation.grade) == ("inherited_context", "reachable")
    assert violation.resource.name == "current_user"
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert violation.offender.principal == monitor.principals.named("bob").hash


async def test_a_third_request_in_a_leaking_context_is_found_too(monitor, client) -> None:
    """The second request sets nothing itself; what it handed on came from the first."""
    calls = client(monitor.instrument(service()))
    shared = contextvars.Context()

    for user in ("ann", "bob", "cid"):
        await calls.get("/", user=user, context=shared)

    assert [v.offender.principal for v in monitor.violations()] == [monitor.principals.named(u).hash for u in ("bob", "cid")]


async def test_a_reused_context_that_carries_nothing_of_the_application_is_no_violation(monitor, client) -> None:
    calls = client(monitor.instrument(service(remembers=False)))
    shared = contextvars.Context()

    for user in ("ann", "bob", "cid"):
        await calls.get("/", user=user, context=shared)

    assert monitor.violations() == []


async def test_the_same_user_twice_in_one_context_is_no_violation(monitor, client) -> None:
    calls = client(monitor.instrument(service()))
    shared = contextvars.Context()

    await calls.get("/", user="ann", context=shared)
    await calls.get("/", user="ann", context=shared)

    assert monitor.violations() == []


async def test_a_request_that_an_application_makes_to_itself_is_no_violation(monitor, client) -> None:
    """An in-process call runs inside the caller's context on purpose, while the caller still waits for it."""
    inner = service()
    outer_app: Any = None

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/outer":
            current_user.set("gateway")
            nested = {**scope, "path": "/inner", "headers": [(b"authorization", b"Bearer robot")]}
            await outer_app(nested, receive, send)
        else:
            await inner(scope, receive, send)

    outer_app = monitor.instrument(gateway)
    await client(outer_app).get("/outer", user="ann")

    assert monitor.violations() == []


async def test_both_requests_of_a_violation_count_as_violated(monitor, client, samples) -> None:
    """The first was counted isolated when it ended; it counts again as violated, and says so."""
    calls = client(monitor.instrument(service()))
    shared = contextvars.Context()

    await calls.get("/", user="ann", context=shared)
    await calls.get("/", user="bob", context=shared)
    await calls.get("/", user="cid")

    assert samples(monitor, "isolation_requests_total", verdict="violated") == 2
    assert samples(monitor, "isolation_requests_reclassified_total") == 1
    assert samples(monitor, "isolation_requests_total", verdict="isolated") == 2
    assert samples(monitor, "isolation_violations_total", kind="inherited_context", grade="reachable") == 1


async def test_every_request_counts_one_check(monitor, client, samples) -> None:
    calls = client(monitor.instrument(service()))

    await asyncio.gather(*(calls.get("/", user=f"user-{n}") for n in range(20)))

    assert samples(monitor, "isolation_checks_total", detector="inherited_context", result="pass") == 20
