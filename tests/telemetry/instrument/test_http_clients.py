"""httpx, httpx2, aiohttp and requests against a real upstream: what their calls carry, and that they work as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import httpx
import httpx2
import pytest
import requests
import uvicorn

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.violations import Violation

LIBRARIES = ("httpx", "httpx2", "aiohttp", "requests")


@dataclass
class Upstream:
    """An HTTP server of another team: /login gives a session cookie, /whoami answers by it, else by the token."""

    url: str = ""
    sessions: dict[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        sent = {name.decode(): value.decode() for name, value in scope["headers"]}
        cookies = dict(part.strip().split("=", 1) for part in sent.get("cookie", "").split(";") if "=" in part)
        headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        answer: Any = {"ok": True}
        status = 200
        path = scope["path"]
        if path == "/login":
            user = json.loads(body)["user"]
            session = f"{len(self.sessions):032x}"
            self.sessions[session] = user
            headers.append((b"set-cookie", f"sid={session}; Path=/".encode()))
        elif path == "/whoami":
            answer = {"user": self.sessions.get(cookies.get("sid", "")) or sent.get("authorization", "").removeprefix("Bearer tok-")}
        elif path == "/affine":
            headers.append((b"set-cookie", b"AWSALB=0123456789abcdef; Path=/"))
            headers.append((b"set-cookie", b"JSESSIONID=0123456789ABCDEF; Path=/"))
            answer = {"user": parse_qs(scope["query_string"].decode()).get("user", [""])[0]}
        elif path == "/redirect":
            status, answer = 302, None
            headers.append((b"location", b"/whoami"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    app = Upstream()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", loop="asyncio", http="h11"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    app.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield app
    server.should_exit = True
    thread.join(30)
    listener.close()


class Shared:
    """One client for all users, whichever library it is of."""

    def __init__(self, library: str, url: str) -> None:
        self.library = library
        self.url = url
        modules: dict[str, Callable[[], Any]] = {
            "httpx": httpx.AsyncClient,
            "httpx2": httpx2.AsyncClient,
            "aiohttp": lambda: aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)),
            "requests": requests.Session,
        }
        self.client = modules[library]()

    async def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        url = self.url + path
        if self.library == "aiohttp":
            async with self.client.request(method, url, json=body, headers=headers) as answer:
                return await answer.json()
        if self.library == "requests":
            answer = await asyncio.to_thread(self.client.request, method, url, json=body, headers=headers)
        else:
            answer = await self.client.request(method, url, json=body, headers=headers, follow_redirects=True)
        return answer.json()

    def write_header(self, value: str) -> None:
        self.client.headers["Authorization"] = value

    async def close(self) -> None:
        if self.library == "requests":
            self.client.close()
        elif self.library == "aiohttp":
            await self.client.close()
        else:
            await self.client.aclose()


@pytest.fixture(params=LIBRARIES)
async def shared(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[Shared]:
    one = Shared(request.param, upstream.url)
    yield one
    await one.close()


Handler = Callable[[str], Awaitable[Any]]


class Service:
    """An instrumented application whose requests do what a handler says, in the name of the request's user."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self.handler: Handler | None = None
        self.client = client(monitor.instrument(self._app))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        assert self.handler is not None
        answer = await self.handler(user)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def act(self, user: str, handler: Handler) -> Any:
        self.handler = handler
        return (await self.client.get("/act", user=user)).json()

    @property
    def found(self) -> list[Violation]:
        return [one for one in self.monitor.violations() if one.kind == names.FOREIGN_CREDENTIAL]


@pytest.fixture
def service(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> Iterator[Service]:
    yield Service(monitor, client)
    monitor.uninstrument()


async def test_a_cookie_jar_that_keeps_the_first_users_session_is_found(service: Service, shared: Shared) -> None:
    async def first(user: str) -> Any:
        await shared.call("POST", "/login", {"user": user, "password": "x"})
        return await shared.call("GET", "/whoami")

    async def later(user: str) -> Any:
        return await shared.call("GET", "/whoami")

    assert await service.act("alice", first) == {"user": "alice"}

    assert await service.act("bobby", later) == {"user": "alice"}

    (violation,) = service.found
    assert violation.grade == "crossed"
    assert violation.resource.detail["credential"] == "cookie sid"
    assert violation.offender is not None
    if shared.library != "requests":
        # Called in a thread of the pool, which has no line of the application on its stack.
        assert any("test_http_clients.py" in line for line in violation.offender.stack)


async def test_a_session_of_ones_own_per_user_is_silent(service: Service, shared: Shared, upstream: Upstream) -> None:
    async def alone(user: str) -> Any:
        own = Shared(shared.library, upstream.url)
        await own.call("POST", "/login", {"user": user, "password": "x"})
        answer = await own.call("GET", "/redirect")
        await own.close()
        return answer

    for user in ("alice", "bobby", "alice"):
        assert await service.act(user, alone) == {"user": user}

    assert service.found == []


async def test_a_header_of_a_shared_client_written_per_request_is_found(service: Service, shared: Shared) -> None:
    written = asyncio.Event()

    async def slow(user: str) -> Any:
        shared.write_header(f"Bearer {user}")
        await written.wait()
        return await shared.call("GET", "/whoami")

    async def fast(user: str) -> Any:
        shared.write_header(f"Bearer {user}")
        written.set()
        return await shared.call("GET", "/whoami")

    async def either(user: str) -> Any:
        return await (slow if user == "alice" else fast)(user)

    service.handler = either
    await asyncio.gather(service.client.get("/", user="alice"), service.client.get("/", user="bobby"))

    assert {one.offender.principal for one in service.found if one.offender} == {service.monitor.principals.named("alice").hash}


async def test_opaque_tokens_written_into_a_shared_client_prove_their_users_in_time(service: Service, shared: Shared) -> None:
    """All write, then all wait, then all send what the last one wrote: only the writes tell whose the tokens are."""
    tokens = {"alice": "0f1e2d3c4b5a", "bobby": "9a8b7c6d5e4f", "carol": "112233445566"}
    barrier = asyncio.Barrier(3)

    async def act(user: str) -> Any:
        shared.write_header(f"Bearer {tokens[user]}")
        await barrier.wait()
        return await shared.call("GET", "/whoami")

    service.handler = act
    for _ in range(4):
        await asyncio.gather(*(service.client.get("/", user=user) for user in tokens))

    assert len(service.found) >= 3


async def test_a_service_token_that_some_request_renews_is_silent(service: Service, shared: Shared) -> None:
    renewed = 0

    async def act(user: str) -> Any:
        nonlocal renewed
        if renewed % 3 == 0:
            shared.write_header(f"Bearer service-token-{renewed}")
        renewed += 1
        return await shared.call("GET", "/whoami")

    for _ in range(4):
        for user in ("alice", "bobby", "carol", "david"):
            await service.act(user, act)

    assert service.found == []


async def test_headers_given_per_call_and_steering_cookies_are_silent(service: Service, shared: Shared) -> None:
    async def act(user: str) -> Any:
        return await shared.call("GET", f"/affine?user={user}", headers={"Authorization": f"Bearer {user}"})

    for user in ("alice", "bobby", "carol", "alice"):
        assert await service.act(user, act) == {"user": user}

    assert service.found == []


async def test_what_an_upstream_answered_is_known_to_provenance(service: Service, shared: Shared) -> None:
    seen: list[Any] = []
    service.monitor.detection.stores.on_write.append(lambda _, written: seen.append(written))

    async def act(user: str) -> Any:
        await shared.call("POST", "/login", {"user": user, "password": "x"})
        request = CURRENT.get()
        assert request is not None
        return [[read.store, read.key, bytes(read.values).decode()] for read in request.fetched or ()]

    kept = await service.act("alice", act)

    assert ["http", f"{shared.url}/login", '{"ok": true}'] in kept
    assert any(one.store == "http" and b'"alice"' in bytes(one.values) for one in seen)


async def test_what_an_upstream_answered_is_known_with_the_detector_off(
    make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any], shared: Shared
) -> None:
    service = Service(make_monitor(detectors=("foreign_credential=off",)), client)

    async def act(user: str) -> Any:
        await shared.call("GET", "/whoami", headers={"Authorization": "Bearer tok-x1"})
        request = CURRENT.get()
        assert request is not None
        return len(request.fetched or ())

    assert await service.act("alice", act) == 1
    service.monitor.uninstrument()


async def test_outside_of_requests_clients_work_as_before(service: Service, shared: Shared) -> None:
    assert await shared.call("GET", "/whoami", headers={"Authorization": "Bearer tok-nobody"}) == {"user": "nobody"}


async def test_exceptions_and_cancellation_pass_unchanged(service: Service, shared: Shared) -> None:
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    closed_url = f"http://127.0.0.1:{free.getsockname()[1]}"
    free.close()

    async def act(user: str) -> Any:
        caught: list[Any] = []
        broken = Shared(shared.library, closed_url)
        with contextlib.suppress(Exception):
            try:
                await broken.call("GET", "/")
            except Exception as error:
                caught.append(type(error).__module__.partition(".")[0])
                raise
        await broken.close()
        if shared.library != "requests":
            task = asyncio.ensure_future(shared.call("GET", "/whoami"))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            caught.append(task.cancelled())
        return caught

    answer = await service.act("alice", act)

    assert answer[0] == shared.library
    assert answer[1:] in ([], [True])


async def test_streams_are_left_to_the_reader(service: Service, upstream: Upstream) -> None:
    async def act(user: str) -> Any:
        parts = []
        async with (
            httpx.AsyncClient() as one,
            one.stream("GET", upstream.url + "/whoami", headers={"Authorization": "Bearer tok-x1"}) as answer,
        ):
            async for part in answer.aiter_bytes():
                parts.append(part)
        async with (
            aiohttp.ClientSession() as session,
            session.get(upstream.url + "/whoami", headers={"Authorization": "Bearer tok-x1"}) as got,
        ):
            parts.append(await got.content.read())
        return b"".join(parts).decode()

    assert await service.act("alice", act) == '{"user": "x1"}{"user": "x1"}'


def owners() -> list[tuple[Any, str]]:
    return [
        *((getattr(module, cls), "_send_single_request") for module in (httpx, httpx2) for cls in ("Client", "AsyncClient")),
        *((module.Response, name) for module in (httpx, httpx2) for name in ("read", "aread")),
        *((module.Headers, name) for module in (httpx, httpx2) for name in ("__setitem__", "update")),
        (aiohttp.ClientSession, "headers"),
        (aiohttp.ClientRequest, "send"),
        (aiohttp.ClientResponse, "start"),
        (aiohttp.ClientResponse, "read"),
        (requests.adapters.HTTPAdapter, "send"),
        (requests.Response, "content"),
        (requests.Session, "send"),
        (requests.structures.CaseInsensitiveDict, "__setitem__"),
    ]


def test_uninstrument_restores_the_libraries(monitor: IsolationMonitor) -> None:
    before = [vars(owner)[name] for owner, name in owners()]
    monitor.instrument(lambda scope, receive, send: None)
    assert all(vars(owner)[name] is not old for (owner, name), old in zip(owners(), before, strict=True))
    assert {patch.library for patch in monitor.patches if patch.active} >= set(LIBRARIES)

    monitor.uninstrument()

    assert [vars(owner)[name] for owner, name in owners()] == before
    assert not any(patch.active for patch in monitor.patches if patch.library in LIBRARIES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_unknown_version_is_left_alone(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.instrument.http_calls.metadata.version", lambda name: "99.0")
    before = [vars(owner)[name] for owner, name in owners()]

    monitor.instrument(lambda scope, receive, send: None)

    assert [vars(owner)[name] for owner, name in owners()] == before
    patches = [patch for patch in monitor.patches if patch.library == library]
    assert patches
    assert not any(patch.active for patch in patches)
    assert all("99.0" in patch.note for patch in patches)
    monitor.uninstrument()


async def test_a_broken_detector_never_reaches_the_client(
    service: Service, shared: Shared, monkeypatch: pytest.MonkeyPatch, samples: Callable[..., float]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("isolation_monitor.telemetry.detectors.credentials.credentials_of", fail)
    monkeypatch.setattr(service.monitor.detection.stores, "read", fail)

    async def act(user: str) -> Any:
        return await shared.call("GET", "/whoami", headers={"Authorization": f"Bearer tok-{user}"})

    assert await service.act("alice", act) == {"user": "alice"}
    assert samples(service.monitor, "isolation_checks_total", detector=names.FOREIGN_CREDENTIAL, result="error") >= 1


def test_importing_the_integrations_imports_no_client() -> None:
    import subprocess

    code = (
        "import sys\n"
        "from isolation_monitor.telemetry.instrument import aiohttp, httpx, httpx2, requests\n"
        "print([name for name in ('aiohttp', 'httpx', 'httpx2', 'requests') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
