"""Looking at another thread's frames while it runs on."""

from __future__ import annotations

import asyncio
import threading

import greenlet

from isolation_monitor.telemetry import running
from isolation_monitor.telemetry.stacks import DEPTH


def test_the_stack_of_a_thread_is_whole_and_bounded() -> None:
    ready, over = threading.Event(), threading.Event()

    def dive(deeper: int) -> None:
        if deeper:
            dive(deeper - 1)
        else:
            ready.set()
            over.wait(30)

    for depth in (3, 500):
        ready.clear()
        over.clear()
        thread = threading.Thread(target=dive, args=(depth,))
        thread.start()
        ready.wait(30)
        assert thread.ident is not None
        seen = running.stack_of_thread(thread.ident)
        over.set()
        thread.join()
        assert seen is not None
        names = [code.co_name for code, _ in seen[1]]
        assert names.count("dive") == (depth + 1 if depth == 3 else names.count("dive"))
        assert len(names) <= 2 * DEPTH
        assert depth == 500 or names[-1] == "_bootstrap"
        assert running.request_of_frames(seen[0]) is None
    assert running.stack_of_thread(-1) is None


def test_a_thread_that_switches_between_greenlets_and_generators_can_be_looked_at() -> None:
    """What a frame's caller was is gone as soon as its thread runs on: reading it then may end the process."""
    stopped = threading.Event()

    def numbers() -> object:
        for number in range(5):
            greenlet.getcurrent().parent.switch(number)
            yield number

    async def work() -> None:
        while not stopped.is_set():
            inner = greenlet.greenlet(lambda: list(numbers()))  # type: ignore[call-overload]
            while not inner.dead:
                inner.switch()
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        for _ in range(20_000):
            assert thread.ident is not None
            seen = running.stack_of_thread(thread.ident)
            if seen is not None:
                running.request_of_frames(seen[0])
    finally:
        stopped.set()
        thread.join()
