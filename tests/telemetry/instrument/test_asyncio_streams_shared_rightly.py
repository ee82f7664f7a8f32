"""The right ways in which clients written by hand share a stream: none of them is a violation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.instrument import asyncio_streams as integration
from isolation_monitor.telemetry.instrument.integrations import Installed
from tests.telemetry.acting import Acting, gathered, hooked
from tests.telemetry.line_backend import Backend, Pair, ask, give_up, known, running_backend, settled, unread, until


@pytest.fixture
def installed(monitor: IsolationMonitor) -> Iterator[Installed]:
    with hooked(integration.install, monitor) as one:
        yield one


@pytest.fixture
def acting(monitor: IsolationMonitor, installed: Installed) -> Acting:
    return Acting(monitor)


@pytest.fixture
async def backend(installed: Installed) -> AsyncIterator[Backend]:
    async with running_backend() as one:
        yield one


# --- what is right ----------------------------------------------------------------------------------------------------------------


async def close_after_cancelling(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()
    await give_up(acting, "u1", pair)
    pair[1].close()
    fresh = await backend.connect()
    assert await acting.act("u2", ask, fresh, "mine") == "answer to mine"
    return [fresh]


async def drain_before_reuse(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()
    await give_up(acting, "u1", pair)
    backend.go_on.set()
    await until(lambda: unread(pair))

    async def drain_then_ask() -> str:
        await pair[0].read(1000)
        return await ask(pair, "mine")

    for user in ("u2", "u3"):
        assert await acting.act(user, drain_then_ask if user == "u2" else lambda: ask(pair, "mine")) == "answer to mine"
    return [pair]


async def drop_answers_with_another_number(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()

    async def ask_by_number(question: str) -> str:
        answer = await ask(pair, question)
        while answer != f"answer to {question}":
            answer = (await pair[0].readline()).decode().strip()
        return answer

    await give_up(acting, "u1", pair)
    backend.go_on.set()
    for number in range(6):
        await acting.act(f"u{number}", ask_by_number, f"mine {number}")
    return [pair]


async def take_turns_with_a_lock(acting: Acting, backend: Backend) -> list[Pair]:
    pair, lock = await backend.connect(), asyncio.Lock()

    async def in_turn(user: str) -> None:
        async with lock:
            assert await ask(pair, user) == f"answer to {user}"
            await asyncio.sleep(0)

    await asyncio.gather(*(acting.act(f"u{n % 4}", in_turn, f"q{n}") for n in range(20)))
    return [pair]


async def pipeline_in_order(acting: Acting, backend: Backend) -> list[Pair]:
    pair, lock = await backend.connect(), asyncio.Lock()

    async def piped(question: str) -> None:
        pair[1].write(question.encode() + b"\n")
        async with lock:
            assert await pair[0].readline() == f"answer to {question}\n".encode()

    await asyncio.gather(*(acting.act(f"u{n % 4}", piped, f"q{n}") for n in range(20)))
    return [pair]


async def _multiplex(acting: Acting, backend: Backend, start: Callable[[Pair, Any], Awaitable[Any]]) -> list[Pair]:
    pair = await backend.connect()
    waiting: dict[str, asyncio.Future[str]] = {}

    async def read_all() -> None:
        async for line in pair[0]:
            answer = line.decode().strip()
            found = waiting.pop(answer.removeprefix("answer to "), None)
            if found is not None and not found.done():
                found.set_result(answer)
            # It lags behind what comes in.
            await asyncio.sleep(0)

    async def call(question: str) -> str:
        waiting[question] = asyncio.get_running_loop().create_future()
        pair[1].write(question.encode() + b"\n")
        return await waiting[question]

    async def impatient(question: str) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call(question), 0.0)

    reading = await start(pair, read_all)
    for round in range(5):
        await asyncio.gather(
            *(acting.act(f"u{n % 4}", call if n % 3 else impatient, f"q{round}.{n}") for n in range(12)),
        )
    reading.cancel()
    await gathered(reading)
    return [pair]


async def read_by_a_task_of_its_own(acting: Acting, backend: Backend) -> list[Pair]:
    async def start(pair: Pair, read_all: Any) -> Any:
        return asyncio.create_task(read_all())

    return await _multiplex(acting, backend, start)


async def read_by_a_task_that_a_living_request_started(acting: Acting, backend: Backend) -> list[Pair]:
    async def start(pair: Pair, read_all: Any) -> Any:
        request = acting.request("u0")

        async def first() -> Any:
            pair[1].write(b"hello\n")
            return asyncio.create_task(read_all())

        return await acting.task(request, first)

    return await _multiplex(acting, backend, start)


async def only_write(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()

    async def count() -> None:
        pair[1].writelines([b"QUIET ", b"count 1\n"])

    for number in range(10):
        await acting.act(f"u{number}", count)
    return [pair]


async def only_read(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()
    pair[1].write(b"WORDS 8\n")
    for number in range(8):
        await acting.act(f"u{number % 3}", pair[0].readline)
    return [pair]


async def poll_then_ask_and_give_back(acting: Acting, backend: Backend) -> list[Pair]:
    """A subscription that is polled until nothing comes, and ended: the cancelled read was owed nothing."""
    pair = await backend.connect()

    async def follow() -> None:
        await ask(pair, "subscribe")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pair[0].readline(), 0.01)
        await ask(pair, "unsubscribe")

    await acting.act("u1", follow)
    for user in ("u2", "u3"):
        assert await acting.act(user, ask, pair, "mine") == "answer to mine"
    return [pair]


async def ask_outside_of_requests(acting: Acting, backend: Backend) -> list[Pair]:
    pair = await backend.connect()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ask(pair, "SLOW"), 0.01)
    backend.go_on.set()
    await ask(pair, "next")
    assert known(pair) is None
    return [pair]


async def distrust_what_does_not_fit(acting: Acting, backend: Backend) -> list[Pair]:
    """The client looks at what it reads, and closes."""
    pair = await backend.connect()
    await acting.act("u1", ask, pair, "WORDS 5")

    async def careful() -> None:
        if await ask(pair, "mine") != "answer to mine":
            pair[1].close()

    await acting.act("u2", careful)
    return [pair]


RIGHT = (
    close_after_cancelling,
    drain_before_reuse,
    drop_answers_with_another_number,
    take_turns_with_a_lock,
    pipeline_in_order,
    read_by_a_task_of_its_own,
    read_by_a_task_that_a_living_request_started,
    only_write,
    only_read,
    poll_then_ask_and_give_back,
    ask_outside_of_requests,
    distrust_what_does_not_fit,
)


@pytest.mark.parametrize("way", RIGHT, ids=lambda way: way.__name__)
async def test_right_ways_to_share_a_stream_are_silent(way: Any, backend: Backend, acting: Acting, monkeypatch: Any) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.detectors.stream_exchanges.LOOKS_S", (0.01, 0.1))

    pairs = await way(acting, backend)
    for pair in pairs:
        await settled(pair)
        pair[1].close()

    assert acting.found() == []
    assert acting.errors() == 0
