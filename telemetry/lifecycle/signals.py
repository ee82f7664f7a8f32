"""Signals that end the process: heard first, then given to whoever handled them before, the server's own handlers included.

Only the process and the main thread that installed them act; in a forked child the earlier handler alone does. Python's handlers
are replaced; those of `loop.add_signal_handler` go on as they are, because asyncio hears of signals by another way.
"""

from __future__ import annotations

import functools
import os
import platform
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from isolation_monitor.telemetry.instrument.patches import Patch

NAMES: Final = ("SIGTERM", "SIGINT")
"""What platforms and people end a process by."""

# Any: what `signal.getsignal` returns: a function, a number, or None for a handler of C.
Handler = Any


class Signals:
    """The chained handlers of one application. `heard` is told of each signal; `end` when nothing else would handle it."""

    def __init__(self, heard: Callable[[int], None], end: Callable[[int], None], *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._heard = heard
        self._end = end
        self._before: dict[int, Handler] = {}
        self._first: dict[int, Handler] = {}
        """What was there the first time: whoever took our place since then, and puts us back, means that."""
        self._owner = 0
        self._own = self._handle
        """One object, to know it again by: a method is a new one each time it is asked for."""

    def install(self) -> bool:
        """Stand before the handlers that are there now; whether that was possible: only on the main thread it is."""
        if not self._is_on or threading.current_thread() is not threading.main_thread():
            return False
        self._owner = os.getpid()
        for name in NAMES:
            number: int = getattr(signal, name)
            before = signal.getsignal(number)
            # None: a handler that Python does not know, and could not be given back.
            if before is None or before is signal.SIG_IGN or before is self._own:
                continue
            signal.signal(number, self._own)
            self._before[number] = before
            self._first.setdefault(number, before)
        return True

    def uninstall(self) -> None:
        """Give back what was there before, where nobody stands before us by now."""
        if not self._before or self._owner != os.getpid() or threading.current_thread() is not threading.main_thread():
            return
        for number, before in list(self._before.items()):
            if signal.getsignal(number) is self._own:
                signal.signal(number, before)
                del self._before[number]

    def patches(self) -> list[Patch]:
        """Return the handlers that stand now, for `isomon doctor`."""
        found = []
        for number, before in self._before.items():
            active = signal.getsignal(number) is self._own
            note = f"before {_name(before)}" if active else "another handler took its place"
            found.append(Patch("signal", platform.python_version(), signal.Signals(number).name, reversible=True, active=active, note=note))
        return found

    def give_up(self, number: int) -> None:
        """Let the signal end this process, as if nobody had ever handled it."""
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number, self._first.get(number, signal.SIG_DFL))
        if os.getpid() != self._owner:
            # A forked child: it is not the one that was started here.
            if callable(before):
                before(number, frame)
            elif before is signal.SIG_DFL:
                self.give_up(number)
            return
        self._heard(number)
        if callable(before):
            before(number, frame)
        elif before is signal.SIG_DFL:
            self._end(number)


def _name(handler: Handler) -> str:
    """Return what a handler is called, without asking it for its own text."""
    handler = handler.func if type(handler) is functools.partial else handler
    return getattr(handler, "__qualname__", None) or getattr(handler, "name", None) or type(handler).__qualname__
