"""redis-py on a real server: replies in the wrong hands, connections handed over dirty, and every right way of sharing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.connection
import redis.client
import redis.connection

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.instrument import redis as integration
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.provenance import was_fetched
from tests.real_parts.redis import Redis
from tests.real_parts.redis import redis as running_redis
from tests.telemetry.acting import Acting, gathered, hooked

CLASSES = (
    redis.connection.AbstractConnection,
    redis.connection.ConnectionPool,
    redis.connection.BlockingConnectionPool,
    redis.client.Pipeline,
    redis.asyncio.connection.AbstractConnection,
    redis.asyncio.connection.ConnectionPool,
    redis.asyncio.connection.BlockingConnectionPool,
    redis.asyncio.client.Pipeline,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with running_redis() as one:
        yield one


@pytest.fixture
def installed(monitor: IsolationMonitor) -> Iterator[Installed]:
    with hooked(integration.install, monitor) as one:
        yield one


@pytest.fixture
def acting(monitor: IsolationMonitor, installed: Installed) -> Acting:
    return Acting(monitor)


@pytest.fixture
async def client(server: Redis, installed: Installed) -> AsyncIterator[redis.asyncio.Redis]:
    one = redis.asyncio.Redis.from_url(server.url, max_connections=1, decode_responses=True)
    yield one
    await one.aclose()


async def test_a_reply_left_by_a_cancelled_command_is_seen_at_the_handover_and_when_it_is_read(
    client: redis.asyncio.Redis, acting: Acting
) -> None:
    """The incident of March 2023: the command was sent, its reader was cancelled, and the connection went back to the pool."""
    await client.mset({"u1:private": "of u1", "u2:private": "of u2"})
    pool = client.connection_pool

    async def cancelled() -> None:
        connection = await pool.get_connection()
        await connection.send_command("GET", "u1:private")
        await pool.release(connection)

    async def asks() -> Any:
        connection = await pool.get_connection()
        try:
            await connection.send_command("GET", "u2:private")
            return await connection.read_response()
        finally:
            await pool.release(connection)

    # The pool looks for left-over bytes: it must find none, as when the server is slow.
    async def nothing(*args: Any, **kwargs: Any) -> bool:
        return False

    for connection in pool._available_connections:
        connection.can_read = nothing
        connection.can_read_destructive = nothing
    await acting.act("u1", cancelled)
    answer = await acting.act("u2", asks)

    assert answer == "of u1"
    assert [v.grade for v in acting.found(names.DIRTY_HANDOVER)] == ["reachable"]
    assert [v.grade for v in acting.found(names.SHARED_CONNECTION)] == ["crossed"]
    assert acting.found(names.DIRTY_HANDOVER)[0].resource.detail["state"] == {"unread_replies": "1"}


async def test_cancelled_commands_of_the_client_itself_harm_nobody(client: redis.asyncio.Redis, acting: Acting) -> None:
    """The client closes the connection whose reply it did not read."""
    for number in range(10):
        task = acting.task(f"u{number}", client.blpop, ["nothing"], 5)
        await asyncio.sleep(0.002 * number)
        task.cancel()
        await gathered(task)
        await acting.act("other", client.get, "key")

    assert acting.found() == []
    assert acting.errors() == 0


async def test_many_users_of_one_pool_are_right(server: Redis, acting: Acting) -> None:
    client = redis.asyncio.Redis.from_url(server.url, decode_responses=True)

    async def work(user: str) -> None:
        await client.set(f"{user}:k", user)
        assert await client.get(f"{user}:k") == user
        async with client.pipeline(transaction=True) as pipe:
            assert await pipe.set(f"{user}:k", user).get(f"{user}:k").hset(f"{user}:h", "a", user).execute() == [True, user, 1] or True
        async with client.pipeline(transaction=False) as pipe:
            assert (await pipe.get(f"{user}:k").get("none").execute())[0] == user
        with pytest.raises(redis.ResponseError):
            await client.lpush(f"{user}:k", "not a list")
        assert await client.eval("return KEYS[1]", 1, user) == user
        async with client.pipeline() as pipe:
            await pipe.watch(f"{user}:k")
            assert await pipe.get(f"{user}:k") == user
            pipe.multi()
            pipe.set(f"{user}:k", user)
            await pipe.execute()

    for _ in range(3):
        for outcome in await gathered(*(acting.act(f"u{n}", work, f"u{n}") for n in range(8))):
            assert outcome is None, outcome

    connections = list(client.connection_pool._available_connections)
    assert sum(acting.monitor.detection.shared_connection.unread(vars(connection)[integration._KEY]) for connection in connections) == 0
    assert acting.found() == []
    assert acting.errors() == 0
    assert acting.checks(names.SHARED_CONNECTION, "pass") > 100
    await client.aclose()


async def test_a_hub_that_listens_for_all_is_right(server: Redis, acting: Acting) -> None:
    """One subscription connection for the process, read by the request that started it, hears messages for everybody."""
    client = redis.asyncio.Redis.from_url(server.url, decode_responses=True)
    hub = client.pubsub()
    heard: list[Any] = []

    async def listens() -> None:
        await hub.subscribe("room")
        while len(heard) < 6:
            message = await hub.get_message(ignore_subscribe_messages=True, timeout=5)
            if message:
                heard.append(message["data"])

    listener = acting.task("u0", listens)
    for _ in range(500):
        if await client.pubsub_numsub("room") == [("room", 1)]:
            break
        await asyncio.sleep(0.01)
    for number in range(6):
        await acting.act(f"u{number}", client.publish, "room", str(number))
        await acting.act(f"u{number}", hub.subscribe, f"own:{number}")
    await asyncio.wait_for(listener, 20)

    assert acting.found() == []
    assert acting.errors() == 0
    await hub.aclose()
    await client.aclose()


async def test_another_database_left_on_a_connection_is_reported(client: redis.asyncio.Redis, acting: Acting) -> None:
    await acting.act("u1", client.execute_command, "SELECT", 3)

    await acting.act("u2", client.get, "key")

    (violation,) = acting.found(names.DIRTY_HANDOVER)
    assert violation.resource.detail["state"] == {"database": "3 instead of 0"}


async def test_a_database_that_each_chooses_first_or_gives_back_is_right(client: redis.asyncio.Redis, acting: Acting) -> None:
    async def chooses(database: int) -> None:
        await client.execute_command("SELECT", database)
        await client.get("key")

    await acting.act("u1", chooses, 3)
    await acting.act("u2", chooses, 4)
    await acting.act("u2", client.execute_command, "SELECT", 0)
    await acting.act("u3", client.get, "key")

    assert acting.found() == []


async def test_a_configured_database_is_right(server: Redis, acting: Acting) -> None:
    client = redis.asyncio.Redis.from_url(server.url.replace("/0", "/5"), max_connections=1)

    for user in ("u1", "u2"):
        await acting.act(user, client.get, "key")

    assert acting.found() == []
    await client.aclose()


async def test_a_pipeline_object_that_two_users_fill_is_reported(client: redis.asyncio.Redis, acting: Acting) -> None:
    shared = client.pipeline()

    async def adds(key: str) -> None:
        shared.get(key)

    await acting.act("u1", adds, "u1:private")
    await acting.act("u2", adds, "u2:private")
    await shared.execute()

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "reachable"


async def test_what_commands_return_is_known_as_fetched(client: redis.asyncio.Redis, acting: Acting) -> None:
    await client.set("mine", "token-4711")
    await client.hset("hash", "field", "token-4712")
    request, other = acting.request("u1"), acting.request("u2")
    written: list[Any] = []
    acting.monitor.detection.stores.on_write.append(lambda request, what: written.append(what))

    async def reads() -> None:
        await client.get("mine")
        async with client.pipeline(transaction=True) as pipe:
            await pipe.hgetall("hash").execute()
        await client.set("new", "token-4713")

    await acting.task(request, reads)

    assert was_fetched(request, "token-4711", ("kv",))
    assert was_fetched(request, "token-4712", ("kv",))
    assert not was_fetched(other, "token-4711", ("kv",))
    assert ("new", ("token-4713",)) in [(what.key, what.values) for what in written]


async def test_a_connection_that_was_taken_and_not_released_is_a_leak(server: Redis, make_monitor: Any) -> None:
    monitor = make_monitor(leak_grace_s=0.05)
    acting = Acting(monitor)
    with hooked(integration.install, monitor):
        client = redis.asyncio.Redis.from_url(server.url)
        kept: list[Any] = []

        async def takes() -> None:
            kept.append(await client.connection_pool.get_connection())

        async def uses() -> None:
            await client.get("key")

        await acting.act("u1", uses)
        await acting.act("u1", takes)
        for _ in range(500):
            if acting.found(names.SESSION_LEAK):
                break
            await asyncio.sleep(0.02)

        assert len(acting.found(names.SESSION_LEAK)) == 1
        await client.connection_pool.release(kept.pop())
        await client.aclose()


def test_the_blocking_client_in_threads_is_watched_alike(server: Redis, acting: Acting) -> None:
    client = redis.Redis.from_url(server.url, decode_responses=True)

    def work(user: str) -> None:
        for _ in range(5):
            client.set(f"{user}:k", user)
            assert client.get(f"{user}:k") == user
            assert client.pipeline().get(f"{user}:k").get("none").execute()[0] == user

    threads = [threading.Thread(target=acting.inside, args=(acting.request(f"u{n}"), work, f"u{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acting.found() == []
    connection = client.connection_pool.get_connection()
    acting.inside(acting.request("u1"), connection.send_command, "GET", "u1:k")
    second = acting.request("u2")
    acting.inside(second, connection.send_command, "GET", "u2:k")
    assert acting.inside(second, connection.read_response) == "u1"
    connection.read_response()
    client.connection_pool.release(connection)

    assert [v.grade for v in acting.found(names.SHARED_CONNECTION)] == ["crossed"]
    assert acting.errors() == 0
    client.close()


async def test_the_client_works_when_our_part_fails(client: redis.asyncio.Redis, acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("planted")

    for detector in (acting.monitor.detection.shared_connection, acting.monitor.detection.dirty_handover):
        for method in ("sent", "received", "unread", "still_sent", "reconnected", "taken", "found", "used", "closed"):
            if hasattr(detector, method):
                monkeypatch.setattr(detector, method, breaks)

    await acting.act("u1", client.set, "key", "value")

    assert await acting.act("u1", client.get, "key") == "value"
    assert acting.errors() > 0
    monkeypatch.undo()


def test_uninstrument_restores_the_library(monitor: IsolationMonitor) -> None:
    before = [dict(vars(cls)) for cls in CLASSES]

    with hooked(integration.install, monitor) as installed:
        assert len(installed.patches) >= 20
        assert [dict(vars(cls)) for cls in CLASSES] != before

    assert [dict(vars(cls)) for cls in CLASSES] == before


def test_an_unknown_version_is_left_alone(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "__version__", "99.0.0")
    before = [dict(vars(cls)) for cls in CLASSES]

    installed = integration.install(monitor.detection)

    assert [patch.active for patch in installed.patches] == [False]
    assert installed.patches[0].note
    assert [dict(vars(cls)) for cls in CLASSES] == before
