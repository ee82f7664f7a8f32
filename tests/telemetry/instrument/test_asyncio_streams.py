"""Clients written by hand on asyncio's streams: answers in the wrong hands are seen. The right ways of sharing: the file beside."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_connection import STREAM_KEY
from isolation_monitor.telemetry.instrument import asyncio_streams as integration
from isolation_monitor.telemetry.instrument import redis as redis_integration
from isolation_monitor.telemetry.instrument.integrations import Installed
from tests.telemetry.acting import Acting, gathered, hooked
from tests.telemetry.line_backend import Backend, Pair, ask, give_up, known, running_backend, settled, unread, until

METHODS = (
    *((asyncio.StreamReader, name) for name in integration.READS),
    *((asyncio.StreamWriter, name) for name in (*integration.WRITES, "close")),
)


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


# --- what is wrong --------------------------------------------------------------------------------------------------------------


async def test_the_answer_to_a_cancelled_question_is_read_by_the_next_principal(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()

    await give_up(acting, "u1", pair)
    task = acting.act("u2", ask, pair, "mine")
    backend.go_on.set()
    answer = await task
    await until(lambda: acting.found())

    found = acting.found()
    assert answer == "answer to SLOW"
    assert [(v.kind, v.grade) for v in found] == [(names.DIRTY_HANDOVER, "crossed")]
    assert found[0].victim.principal == acting.monitor.principals.named("u1").hash
    assert found[0].offender.principal == acting.monitor.principals.named("u2").hash
    assert found[0].offender.stack
    assert "ask" in found[0].offender.stack[-1]
    assert acting.errors() == 0


async def test_a_line_that_lost_step_is_reported_for_everybody_who_reads_from_it(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()
    backend.go_on.set()
    await give_up_between(acting, "u0", pair)

    answers = []
    for user in ("u1", "u2", "u3"):
        await until(lambda: unread(pair))
        answers.append(await acting.act(user, ask, pair, user))
    await until(lambda: len(acting.found()) == 3)

    assert answers == ["answer to u0", "answer to u1", "answer to u2"]
    assert {v.grade for v in acting.found(names.DIRTY_HANDOVER)} == {"crossed"}


async def give_up_between(acting: Acting, user: str, pair: Pair) -> None:
    """Ask, and end before the read begins."""

    async def only_write() -> None:
        pair[1].write(user.encode() + b"\n")

    await acting.act(user, only_write)


async def test_the_rest_of_a_half_read_answer_is_left_to_the_next_principal(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()

    await acting.act("u1", ask, pair, "WORDS 5")
    answer = await acting.act("u2", ask, pair, "mine")
    await until(lambda: acting.found())

    assert answer == "word 1"
    assert [(v.kind, v.grade) for v in acting.found()] == [(names.DIRTY_HANDOVER, "crossed")]


async def test_an_answer_that_a_closing_pool_finds_unread_is_proof_as_well(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()

    await acting.act("u1", ask, pair, "WORDS 5")
    await acting.act("u2", ask, pair, "mine")
    pair[1].close()

    assert [v.grade for v in acting.found(names.DIRTY_HANDOVER)] == ["crossed"]


async def test_a_second_reader_is_refused_by_the_stream_and_reported(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()

    first = acting.task("u1", ask, pair, "SLOW")
    await until(lambda: pair[0]._waiter is not None)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="already waiting"):
        await acting.act("u2", ask, pair, "mine")
    backend.go_on.set()
    await first

    assert [(v.kind, v.grade) for v in acting.found()] == [(names.SHARED_CONNECTION, "reachable")]


async def test_answers_read_in_another_order_than_asked_are_in_the_wrong_hands(backend: Backend, acting: Acting) -> None:
    pair, turn = await backend.connect(), asyncio.Event()

    async def slowly() -> bytes:
        pair[1].write(b"first\n")
        await turn.wait()
        return await pair[0].readline()

    async def quickly() -> bytes:
        pair[1].write(b"second\n")
        return await pair[0].readline()

    slow = acting.task("u1", slowly)
    await asyncio.sleep(0)
    assert await acting.task("u2", quickly) == b"answer to first\n"
    turn.set()
    assert await slow == b"answer to second\n"

    assert [(v.kind, v.grade) for v in acting.found()] == [(names.SHARED_CONNECTION, "crossed")]


async def test_a_pipeline_loses_step_when_one_of_its_readers_is_cancelled(backend: Backend, acting: Acting) -> None:
    pair, lock = await backend.connect(), asyncio.Lock()

    async def piped(question: str) -> bytes:
        pair[1].write(question.encode() + b"\n")
        async with lock:
            return await pair[0].readline()

    first = acting.task("u1", piped, "SLOW")
    await until(lambda: pair[0]._waiter is not None)  # type: ignore[attr-defined]
    second = asyncio.create_task(acting.act("u2", piped, "mine"))
    await until(lambda: lock._waiters)
    first.cancel()
    await gathered(first)
    backend.go_on.set()

    assert await second == b"answer to SLOW\n"
    await until(lambda: acting.found())
    assert [(v.kind, v.grade) for v in acting.found()] == [(names.DIRTY_HANDOVER, "crossed")]


async def test_a_child_process_that_answers_is_a_line_like_any_other(installed: Installed, acting: Acting) -> None:
    code = "import sys\nfor line in sys.stdin: print('word', line.strip(), flush=True); print('more', flush=True)"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    pair = (child.stdout, child.stdin)

    await acting.act("u1", ask, pair, "one")
    await until(lambda: unread(pair))
    await acting.act("u2", ask, pair, "two")
    await until(lambda: acting.found())
    child.stdin.close()
    await child.communicate()

    assert acting.found()[0].resource.name == "a child process"


async def test_requests_of_one_principal_accuse_nobody(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()

    await acting.act("u1", ask, pair, "WORDS 5")
    await acting.act("u1", ask, pair, "mine")
    pair[1].close()

    assert acting.found() == []


async def test_streams_of_a_server_are_left_alone(installed: Installed, acting: Acting) -> None:
    """The host may be its own server: one connection from a proxy carries many users' requests."""
    writers: list[asyncio.StreamWriter] = []
    readers: list[asyncio.StreamReader] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        readers.append(reader)
        writers.append(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    await until(lambda: writers)

    async def answer() -> None:
        writers[0].write(b"answer\n")

    await acting.act("u1", answer)

    assert readers[0].__dict__[STREAM_KEY] is None
    for writer in (client, writers[0]):
        writer.close()
    server.close()


async def test_a_stream_that_a_driver_counts_is_not_counted_twice(monitor: IsolationMonitor, backend: Backend, acting: Acting) -> None:
    pytest.importorskip("redis")
    from redis.asyncio.connection import Connection

    pair = await backend.connect()
    with hooked(redis_integration.install, monitor):
        connection = Connection()
        connection._reader, connection._writer = pair

        async def send() -> None:
            await connection.send_packed_command([b"WORDS 2\n"], check_health=False)
            await pair[0].readline()

        for user in ("u1", "u2", "u3"):
            await acting.act(user, send)
        connection._reader = connection._writer = None

    assert STREAM_KEY in pair[0].__dict__
    assert known(pair) is None
    assert acting.found() == []


# --- a guest in its host --------------------------------------------------------------------------------------------------------------


async def test_everything_comes_off_again(monitor: IsolationMonitor) -> None:
    before = [vars(owner)[name] for owner, name in METHODS]

    with hooked(integration.install, monitor) as installed:
        assert all(vars(owner)[name] is not original for (owner, name), original in zip(METHODS, before, strict=True))
        assert {patch.target for patch in installed.patches if patch.active} == {
            f"asyncio.{owner.__name__}.{name}" for owner, name in METHODS
        }

    assert [vars(owner)[name] for owner, name in METHODS] == before


async def test_a_newer_python_is_left_alone(monitor: IsolationMonitor, monkeypatch: Any) -> None:
    monkeypatch.setattr(integration, "NEWEST", sys.version_info[:2])
    before = [vars(owner)[name] for owner, name in METHODS]

    with hooked(integration.install, monitor) as installed:
        assert [patch.active for patch in installed.patches] == [False]
        assert [vars(owner)[name] for owner, name in METHODS] == before


async def test_errors_of_the_monitor_stay_in_the_monitor(backend: Backend, acting: Acting, monkeypatch: Any) -> None:
    pair = await backend.connect()
    await acting.act("u1", ask, pair, "first")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("broken")

    for name in ("writes", "reads", "read", "failed", "closes"):
        monkeypatch.setattr(integration.Line, name, broken)

    assert await acting.act("u2", ask, pair, "mine") == "answer to mine"
    pair[1].close()
    assert acting.errors() > 0


async def test_errors_of_the_host_pass_through(backend: Backend, acting: Acting) -> None:
    pair = await backend.connect()
    await acting.act("u1", ask, pair, "WORDS 1")
    CURRENT.set(acting.request("u1"))
    pair[1].write(b"WORDS 1\n")
    pair[1].write_eof()

    with pytest.raises(asyncio.IncompleteReadError) as raised:
        await pair[0].readexactly(n=1000)

    assert raised.value.partial == b"word 0\n"
    assert await pair[0].read(n=10) == b""
    assert acting.errors() == 0


async def test_what_is_known_of_a_stream_goes_with_it_and_stays_small(backend: Backend, acting: Acting) -> None:
    async def use() -> weakref.ref[Any]:
        pair = await backend.connect()

        async def write() -> None:
            pair[1].write(b"WORDS 1\n")

        for number in range(200):
            await acting.act(f"u{number}", write)
        for number in range(100):
            await acting.act(f"u{number}", ask, pair, "WORDS 2")
        line = known(pair)
        assert max(len(held) for held in (line.asking, line.debts, line.suspects, line.swaps)) <= 64
        line.suspects.clear()
        await settled(pair)
        pair[1].close()
        await pair[1].wait_closed()
        backend.opened.clear()
        return weakref.ref(pair[0])

    reference = await use()
    await asyncio.sleep(0)
    gc.collect()

    assert reference() is None
