"""Asking a source: with a time limit, a circuit, and an answer whatever happens. Nothing here raises but a cancellation of the caller.

Async functions run as tasks of the loop that asks, plain ones on threads of our own. One that does not end in time is cancelled and left
behind, never waited for: it may not listen. What it returns is data of the host: exact types are taken, nothing of it is called.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from isolation_monitor.telemetry.resolution.circuit import Circuit
from isolation_monitor.telemetry.resolution.registry import LONGEST_ID, Entry
from isolation_monitor.telemetry.resolution.threads import Threads

HIT, MISS, INVALID, TIMEOUT, FAILED, SKIPPED = "hit", "miss", "invalid", "timeout", "failed", "skipped"

Loop = Callable[[], asyncio.AbstractEventLoop | None]
"""Returns the loop on which the application's async functions live; None while it does not serve."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said. `result` is one of `names.ID_ANSWERS`; `value` the entry, thread or owner of a hit; `detail` what went wrong."""

    source: str
    result: str
    value: Any = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.result} ({self.detail})" if self.detail else self.result


class Source:
    """One function that is asked, and what it has earned: its circuit. `read` takes its result apart: None a miss, ValueError no answer."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        read: Callable[[Any], Any],
        timeout_s: float,
        threads: Threads,
        loop: Loop,
        *,
        is_async: bool | None = None,
    ) -> None:
        self.name = name
        self.circuit = Circuit()
        self.on_answer: list[Callable[[Answer], None]] = []
        self._function = function
        self._read = read
        self._timeout_s = timeout_s
        self._threads = threads
        self._loop = loop
        # Known of a registry; of the application's functions it is found out. A plain one that returns a coroutine is noticed when it does.
        call = getattr(type(function), "__call__", None)  # noqa: B004  # not whether, but what
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call) if is_async is None else is_async

    async def ask(self, *arguments: Any) -> Answer:
        """Ask from the event loop, which never waits for it."""
        if not self.circuit.allows():
            return self._told(SKIPPED, "it failed again and again")
        work: asyncio.Future[Any] | None = None
        try:
            work = asyncio.ensure_future(self._function(*arguments)) if self._is_async else self._aside(arguments)
            done, _ = await asyncio.wait({work}, timeout=self._timeout_s)
            if done and not work.cancelled() and work.exception() is None and inspect.iscoroutine(work.result()):
                # A plain function that returns what is to be awaited, a lambda around an async one for example.
                work = asyncio.ensure_future(work.result())
                done, _ = await asyncio.wait({work}, timeout=self._timeout_s)
        except Exception as error:
            return self._broke(error)
        except BaseException:
            # The caller was cancelled, or the process is being ended.
            if work is not None:
                _leave(work)
            self.circuit.gave_up()
            raise
        if not done:
            _leave(work)
            return self._late()
        return self._answered(work)

    def ask_now(self, *arguments: Any) -> Answer:
        """Ask from a thread, which waits for it. A thread that runs an event loop must not wait: there only `skipped` comes back."""
        if asyncio._get_running_loop() is not None:
            return self._told(SKIPPED, "on the event loop: await the resolution instead")
        loop = self._loop()
        if self._is_async and (loop is None or not loop.is_running()):
            return self._told(SKIPPED, "it is asynchronous, and no event loop serves")
        if not self.circuit.allows():
            return self._told(SKIPPED, "it failed again and again")
        work: concurrent.futures.Future[Any] | None = None
        try:
            if self._is_async and loop is not None:
                work = asyncio.run_coroutine_threadsafe(self._function(*arguments), loop)
            else:
                work = self._on_thread(arguments)
            concurrent.futures.wait((work,), self._timeout_s)
            if work.done() and work.exception() is None and inspect.iscoroutine(work.result()):
                if loop is None or not loop.is_running():
                    work.result().close()
                    return self._broke(RuntimeError("it is asynchronous, and no event loop serves"))
                work = asyncio.run_coroutine_threadsafe(work.result(), loop)
                concurrent.futures.wait((work,), self._timeout_s)
        except Exception as error:
            return self._broke(error)
        except BaseException:
            self.circuit.gave_up()
            raise
        if not work.done():
            work.cancel()
            return self._late()
        return self._answered(work)

    def _aside(self, arguments: Iterable[Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(self._on_thread(arguments))

    def _on_thread(self, arguments: Iterable[Any]) -> concurrent.futures.Future[Any]:
        return self._threads.submit(partial(copy_context().run, self._function, *arguments))

    def _answered(self, work: Any) -> Answer:
        """Read the result of an `asyncio` or `concurrent` future that is done."""
        if work.cancelled():
            return self._broke(RuntimeError("it was cancelled"))
        error = work.exception()
        if error is not None:
            return self._broke(error)
        self.circuit.succeeded()
        try:
            value = self._read(work.result())
        except ValueError as wrong:
            return self._told(INVALID, str(wrong))
        return self._told(MISS) if value is None else self._told(HIT, value=value)

    def _late(self) -> Answer:
        self.circuit.failed()
        return self._told(TIMEOUT, f"no answer within {self._timeout_s:g} s")

    def _broke(self, error: BaseException) -> Answer:
        self.circuit.failed()
        # The type alone: a message may hold users' ids, and reading it would run the host's code.
        return self._told(FAILED, type(error).__qualname__)

    def _told(self, result: str, detail: str = "", value: Any = None) -> Answer:
        answer = Answer(self.name, result, value, detail)
        for listener in self.on_answer:
            listener(answer)
        return answer


def read_thread(value: object) -> tuple[str, str | None] | None:
    """Take an application's answer apart: None, a thread's id, or a pair of thread's and owner's id (which may be None).

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    pair: tuple[Any, Any] = value if type(value) is tuple and len(value) == 2 else (value, None)
    thread, owner = pair
    if not is_id(thread) or (owner is not None and not is_id(owner)):
        raise ValueError(f"a thread's id as text was expected, or a pair of thread and owner, not {type(value).__name__}")
    return thread, owner


def read_owner(value: object) -> str | None:
    """Take the answer to whose a thread is apart: None (there is no such thread), or the owner's id.

    Raises:
        ValueError: it is something else.
    """
    if value is not None and not is_id(value):
        raise ValueError(f"a user's id as text was expected, not {type(value).__name__}")
    return value  # type: ignore[return-value]  # checked above


def read_entry(value: object) -> Entry | None:
    """Take a registry's answer apart.

    Raises:
        ValueError: it is no entry.
    """
    if value is not None and type(value) is not Entry:
        raise ValueError(f"an entry was expected, not {type(value).__name__}")
    return value


def is_id(value: object) -> bool:
    """Return whether a value can be an id: text of 1 to 200 printable characters."""
    return type(value) is str and 0 < len(value) <= LONGEST_ID and value.isprintable()


def _leave(work: asyncio.Future[Any]) -> None:
    work.cancel()
    # Whatever it still raises was answered for already: nobody is to be told that it was never asked for.
    work.add_done_callback(_look_away)


def _look_away(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()
