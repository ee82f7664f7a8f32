"""Runs what applications declare, coroutine functions and plain ones alike, and tells by a future when it is over.

A plain function runs in a daemon thread of its own: one that hangs keeps nobody from going on or from ending the process. It
takes a copy of the caller's context along.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from isolation_monitor.telemetry.errors import LifecycleError

# Any: what an application's function returns.
Function = Callable[[], Any]


class Work:
    """One call that is under way. `thread_id` is the thread of a plain function, `task` the task of a coroutine, once they run."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        # From here on a waiter that is cancelled does not cancel it for the others.
        self.future.set_running_or_notify_cancel()
        self.thread_id: int | None = None
        self.task: asyncio.Task[Any] | None = None
        self.ended = 0.0
        """When it was over, on the clock of `time.monotonic`; 0 until then."""
        self._inner: Future[Any] | None = None

    def cancel(self) -> None:
        """Ask a coroutine to end; a thread cannot be asked."""
        if self._inner is not None:
            self._inner.cancel()

    def _finish(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        self.ended = time.monotonic()
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def _run(self, function: Function, home: asyncio.AbstractEventLoop | None) -> None:
        self.thread_id = threading.get_ident()
        try:
            result = function()
            if inspect.iscoroutine(result):
                # `lambda: engine.dispose()`, say.
                result = self._on_loop(result, home)
        except BaseException as error:
            self._finish(None, error)
        else:
            self._finish(result, None)

    def _on_loop(self, coroutine: Any, home: asyncio.AbstractEventLoop | None) -> Any:
        if home is None or not home.is_running():
            return asyncio.run(coroutine)
        self._inner = asyncio.run_coroutine_threadsafe(self._noting(coroutine), home)
        return self._inner.result()

    async def _noting(self, coroutine: Any) -> Any:
        self.task = asyncio.current_task()
        return await coroutine

    def _begin_on_loop(self, function: Function, home: asyncio.AbstractEventLoop) -> None:
        async def call() -> Any:
            return await self._noting(function())

        coroutine = call()
        try:
            self._inner = inner = asyncio.run_coroutine_threadsafe(coroutine, home)
        except RuntimeError:
            coroutine.close()
            raise

        def over(done: Future[Any]) -> None:
            with contextlib.suppress(BaseException):
                if done.cancelled():
                    self._finish(None, asyncio.CancelledError())
                elif (error := done.exception()) is not None:
                    self._finish(None, error)
                else:
                    self._finish(done.result(), None)

        inner.add_done_callback(over)


def begin(function: Function, home: asyncio.AbstractEventLoop | None, name: str) -> Work:
    """Call `function`: a coroutine function on the loop `home` where that runs, else on a loop of its own; anything else in a thread.

    At the end of the interpreter, when no thread can be started any more, the call happens here and now.
    """
    work = Work()
    if inspect.iscoroutinefunction(function) and home is not None and home.is_running():
        try:
            work._begin_on_loop(function, home)
        except RuntimeError:
            # Closed since somebody looked.
            home = None
        else:
            return work
    thread = threading.Thread(target=copy_context().run, args=(work._run, function, home), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        work._run(function, home)
    else:
        work.thread_id = thread.ident
    return work


def check_function(function: object, what: str) -> None:
    """Raises LifecycleError: `function` cannot be called without arguments."""
    if not callable(function):
        raise LifecycleError(f"{what} is {type(function).__qualname__}, which cannot be called: give a function or a coroutine function")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise LifecycleError(f"{what} is a generator, whose body would never run: give a function or a coroutine function")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise LifecycleError(f"{what} takes arguments ({error}): give one that takes none, such as a lambda around it") from None
    except ValueError:
        # Built in, without a signature: it will show.
        return
