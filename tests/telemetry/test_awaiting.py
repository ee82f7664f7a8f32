"""What a task waits for, told by its chain of awaits: real tasks, real locks, real threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from isolation_monitor.telemetry import awaiting, stacks


async def look_at(work: Coroutine[Any, Any, Any]) -> awaiting.Waiting:
    """Let a task run until it waits, and return what another thread sees of it."""
    task = asyncio.create_task(work)
    try:
        for _ in range(5):
            await asyncio.sleep(0)
        return await asyncio.to_thread(awaiting.of_task, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def outer(inner: Callable[[], Awaitable[object]]) -> None:
    await middle(inner)


async def middle(inner: Callable[[], Awaitable[object]]) -> None:
    await inner()


async def for_a_queue() -> None:
    await asyncio.Queue[int]().get()


async def for_a_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def for_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def for_a_sleep() -> None:
    await asyncio.sleep(3600)


async def for_a_generator() -> None:
    async def words() -> AsyncIterator[str]:
        await asyncio.sleep(3600)
        yield "word"

    async for _ in words():
        pass


async def for_an_awaitable() -> None:
    class Answer:
        def __await__(self) -> Any:
            return for_a_queue().__await__()

    await Answer()


async def for_a_task() -> None:
    await asyncio.create_task(for_a_queue())


async def for_gathered_tasks() -> None:
    await asyncio.gather(for_a_queue(), for_a_lock())


async def for_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(for_a_queue())


async def for_a_time_limit() -> None:
    await asyncio.wait_for(for_a_queue(), 3600)


async def for_some_tasks() -> None:
    await asyncio.wait([asyncio.create_task(for_a_queue())])


@pytest.mark.parametrize(
    ("wait", "text", "innermost"),
    [
        (for_a_queue, "Queue.get (asyncio/queues.py:", "for_a_queue"),
        (for_a_lock, "Lock.acquire (asyncio/locks.py:", "for_a_lock"),
        (for_a_future, "a future that nobody has resolved", "for_a_future"),
        (for_a_sleep, "asyncio.sleep", "for_a_sleep"),
        (for_a_generator, "asyncio.sleep", "for_a_generator.<locals>.words"),
        (for_an_awaitable, "Queue.get (asyncio/queues.py:", "for_a_queue"),
        (for_a_task, ", in a task that it waits for", "for_a_queue"),
        (for_gathered_tasks, ", in the first of 2 tasks that it waits for", "for_a_queue"),
        (for_a_group, ", in a task that it waits for", "for_a_queue"),
        (for_some_tasks, ", in a task that it waits for", "for_a_queue"),
    ],
)
async def test_the_chain_of_awaits_is_told_from_the_outermost_to_the_innermost(
    wait: Callable[[], Awaitable[object]], text: str, innermost: str
) -> None:
    waiting = await look_at(outer(wait))

    lines = [line.split(" ", 1)[1] for line in stacks.render(waiting.stack)]
    assert lines[:2] == ["outer", "middle"]
    assert lines[-1] == innermost
    assert text in waiting.text


async def test_what_stands_behind_a_time_limit_is_seen() -> None:
    """3.11 runs it in a task of its own, later versions in the same one."""
    waiting = await look_at(outer(for_a_time_limit))

    assert [line.split(" ", 1)[1] for line in stacks.render(waiting.stack)] == ["outer", "middle", "for_a_time_limit", "for_a_queue"]
    assert "Queue.get" in waiting.text


async def test_a_job_in_a_thread_is_named_as_such() -> None:
    gate = threading.Event()
    try:
        waiting = await look_at(outer(lambda: asyncio.get_running_loop().run_in_executor(None, gate.wait)))
    finally:
        gate.set()

    assert waiting.text == "a job in a thread or another process"


async def test_a_task_that_has_not_begun_and_one_that_is_over_are_told_apart_from_waiting() -> None:
    task = asyncio.create_task(for_a_sleep())
    assert awaiting.of_task(task).text == "its turn on the event loop"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    assert awaiting.of_task(task).stack == ()
    assert awaiting.of_task(object()).stack == ()


async def test_code_that_computes_is_seen_on_its_thread() -> None:
    """A run that blocks the loop awaits nothing: where it stands is on the loop's own thread."""
    seen: list[awaiting.Waiting] = []
    running, looked = threading.Event(), threading.Event()

    def look(task: object, thread_id: int) -> None:
        running.wait(20)
        seen.append(awaiting.of_task(task, thread_id))
        looked.set()

    async def compute() -> None:
        running.set()
        assert looked.wait(20)

    task = asyncio.create_task(compute())
    thread = threading.Thread(target=look, args=(task, threading.get_ident()))
    thread.start()
    await task
    thread.join()

    assert any(line.endswith("compute") for line in stacks.render(seen[0].stack))
    assert "has not come back to the event loop" in seen[0].text


async def test_tasks_that_wait_for_each_other_end_the_look() -> None:
    """A circle of tasks must not hold the monitor's thread."""
    tasks: list[asyncio.Task[None]] = []

    async def wait_for_other(number: int) -> None:
        await asyncio.sleep(0)
        await asyncio.wait([tasks[1 - number]])

    tasks += [asyncio.create_task(wait_for_other(0)), asyncio.create_task(wait_for_other(1))]
    for _ in range(5):
        await asyncio.sleep(0)

    waiting = awaiting.of_task(tasks[0])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert [code.co_name for code, _ in waiting.stack].count("wait_for_other") == awaiting.TASKS_FOLLOWED
