"""Hooks on asyncio and on threads: they change nothing that the application can see, and come off again."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio._backends._asyncio import AsyncIOBackend

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import anyio_threads, asyncio_tasks, threads
from isolation_monitor.telemetry.lab import Lab

PATCHED: tuple[tuple[Any, str], ...] = (
    (asyncio.Queue, "put_nowait"),
    (asyncio.Queue, "get_nowait"),
    (asyncio.Event, "set"),
    (asyncio.Event, "clear"),
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
    (AsyncIOBackend, "run_sync_in_worker_thread"),
)


@pytest.fixture
def installed(monitor: Any) -> Any:
    """The three integrations, alone: others that wrap the same methods are not under test."""
    done = [one.install(monitor.detection) for one in (asyncio_tasks, threads, anyio_threads)]
    yield done
    for one in reversed(done):
        one.undo()


def serve(installed: list[Any]) -> None:
    for one in installed:
        if one.serving is not None:
            one.serving()


def originals() -> list[object]:
    return [vars(owner)[name] for owner, name in PATCHED]


async def test_everything_comes_off_again(monitor) -> None:
    before = (originals(), asyncio.get_running_loop().get_task_factory(), sys.get_asyncgen_hooks())
    done = [one.install(monitor.detection) for one in (asyncio_tasks, threads, anyio_threads)]
    serve(done)
    assert all(ours is not original for ours, original in zip(originals(), before[0], strict=True))

    for one in reversed(done):
        one.undo()

    assert (originals(), asyncio.get_running_loop().get_task_factory(), sys.get_asyncgen_hooks()) == before


async def test_every_patch_is_listed(installed) -> None:
    listed = {patch.target for one in installed for patch in one.patches if patch.active}

    assert {f"{owner.__name__}.{name}" for owner, name in PATCHED} <= listed


async def test_tasks_keep_name_context_result_and_exception(monitor, installed) -> None:
    serve(installed)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")
    context = contextvars.Context()
    context.run(variable.set, "inner")

    async def read() -> str:
        return variable.get()

    async def fail() -> None:
        raise LookupError("the application's own")

    CURRENT.set(Lab(monitor.principals).request())
    named = asyncio.create_task(read(), name="named", context=context)
    failing = asyncio.create_task(fail())

    assert (named.get_name(), await named, await asyncio.create_task(read())) == ("named", "inner", "outer")
    with pytest.raises(LookupError):
        await failing
    CURRENT.set(None)


async def test_the_applications_own_task_factory_goes_on_making_the_tasks(monitor, installed) -> None:
    class Own(asyncio.Task[Any]):
        pass

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **kwargs: Own(coro, loop=loop, **kwargs))
    serve(installed)
    CURRENT.set(Lab(monitor.principals).request())

    task = asyncio.create_task(asyncio.sleep(0))

    assert type(task) is Own
    assert id(task) in monitor.detection.task_leak._alive
    await task
    CURRENT.set(None)
    installed[0].undo()
    loop.set_task_factory(None)


async def test_a_factory_that_wrapped_ours_keeps_working_when_ours_is_taken_off(monitor, installed) -> None:
    serve(installed)
    loop = asyncio.get_running_loop()
    ours = loop.get_task_factory()
    assert ours is not None
    loop.set_task_factory(lambda loop, coro, **kwargs: ours(loop, coro, **kwargs))

    installed[0].undo()

    assert await asyncio.create_task(asyncio.sleep(0, "done")) == "done"
    loop.set_task_factory(None)


async def test_failures_of_the_detectors_never_reach_the_application(monitor, installed, samples) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    serve(installed)
    for name in ("started",):
        setattr(monitor.detection.task_leak, name, breaks)
    for name in ("put", "taken", "signalled", "cleared", "_job_started"):
        setattr(monitor.detection.foreign_task, name, breaks)
    CURRENT.set(Lab(monitor.principals).request())
    queue: asyncio.Queue[int] = asyncio.Queue()
    event = asyncio.Event()

    queue.put_nowait(1)
    event.set()
    event.clear()
    with ThreadPoolExecutor(1) as pool:
        assert await asyncio.get_running_loop().run_in_executor(pool, lambda: 2) == 2
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

    assert queue.get_nowait() == 1
    assert await anyio.to_thread.run_sync(lambda: 3) == 3
    assert await asyncio.create_task(asyncio.sleep(0, 4)) == 4
    assert samples(monitor, "isolation_monitor_errors_total", hook="asyncio") > 0
    CURRENT.set(None)


async def test_exceptions_and_arguments_of_jobs_pass_unchanged(monitor, installed) -> None:
    def job(*args: int, **kwargs: int) -> Any:
        if not args:
            raise LookupError("the application's own")
        return args, kwargs

    CURRENT.set(Lab(monitor.principals).request())
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(job, 1, 2, fn=3, owner=4).result(30) == ((1, 2), {"fn": 3, "owner": 4})
        with pytest.raises(LookupError):
            pool.submit(job).result(30)
    assert await asyncio.to_thread(job, 1, function=2) == ((1,), {"function": 2})
    CURRENT.set(None)


async def test_task_groups_work_and_end(monitor, installed) -> None:
    serve(installed)
    CURRENT.set(Lab(monitor.principals).request())
    seen: list[int] = []

    async def add(n: int) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(n)

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(add, n)

    assert sorted(seen) == list(range(10))
    CURRENT.set(None)


def test_uvloop_is_hooked_too(monitor, installed) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def main() -> int:
        serve(installed)
        CURRENT.set(Lab(monitor.principals).request())
        task = asyncio.create_task(asyncio.sleep(0), name="named")
        noted = len(monitor.detection.task_leak._alive)
        await task
        return noted if task.get_name() == "named" else -1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) >= 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_run_for_their_request(monitor, installed) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    serve(installed)
    request = Lab(monitor.principals).request()
    CURRENT.set(request)

    async def look() -> Any:
        return CURRENT.get()

    assert await asyncio.create_task(look()) is request
    CURRENT.set(None)


async def test_queues_whose_items_nobody_knows_stay_right(monitor, installed) -> None:
    """Items from before the hooks, and more of them than are remembered, are nobody's; order and content stay."""
    foreign = monitor.detection.foreign_task
    queue: asyncio.Queue[int] = asyncio.Queue()
    queue.put_nowait(0)
    CURRENT.set(Lab(monitor.principals).request())

    for n in range(1, 1_500):
        queue.put_nowait(n)
    taken = [queue.get_nowait() for _ in range(1_500)]

    assert taken == list(range(1_500))
    assert all(len(owners) <= 1_000 for owners in [foreign._queues.get(queue) or ()])
    CURRENT.set(None)
