"""How long our own code holds the processor in one go, while a thousand sockets talk and all periodic work runs.

Every entry into the monitor's code is wrapped: the housekeeper's jobs, what the middleware calls for each message, and
the faults that it plants on the event loop. A stretch is the CPU time of its thread from entry to return, so that what
the machine gives to others does not count, and the longest of all is the row. Python's garbage collector is held off
meanwhile: it runs for the whole process, in whoever allocates next, and would be counted as ours.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from bench.all_detectors import Watching
from bench.applications import Message, echo
from bench.rows import Row

BUDGET_MS = 5.0
SOCKETS = 1_000


async def stretch(quick: bool) -> list[Row]:
    """The longest stretch on any thread, where it was, and how many were timed."""
    sockets, seconds = (100, 3.0) if quick else (SOCKETS, 30.0)
    stretches = Stretches()
    watching = Watching(self_test_interval_s=1.0, identity_fields=("user_id",))
    app = echo()
    # The application's memory holds something of each user, for the walks through it to look at.
    app.state.latest = {f"user-{n}": {"note": uuid.uuid4().hex, "words": ["lamp"] * 10} for n in range(sockets)}
    stretches.wrap_housekeeper(watching.monitor.housekeeper)
    served = watching.monitor.instrument(app)
    watching.begin()
    stretches.wrap_entries(watching.monitor)
    watching.on()
    gc.collect()
    gc.disable()
    try:
        until = time.monotonic() + seconds
        frames = await asyncio.gather(*(_talk(served, number, until) for number in range(sockets)))
    finally:
        gc.enable()
        watching.off()
        await watching.end()
    return [
        Row("longest stretch of our own code", stretches.longest_ns / 1e6, "ms", BUDGET_MS, note=f"in {stretches.where}"),
        Row("longest stretch of our own code: on the event loop", stretches.longest_on_loop_ns / 1e6, "ms", note=stretches.where_on_loop),
        Row("longest stretch of our own code: stretches timed", float(stretches.timed), "stretches"),
        Row("longest stretch of our own code: frames sent", float(sum(frames)), "frames", note=f"on {sockets:,} sockets in {seconds:g} s"),
    ]


class Stretches:
    """The longest of all timed calls, on all threads and on the event loop's."""

    def __init__(self) -> None:
        self.timed = 0
        self._loop_thread = threading.get_ident()
        self.longest_ns = 0
        self.where = "nothing"
        self.longest_on_loop_ns = 0
        self.where_on_loop = "nothing"

    def timing(self, function: Callable[..., Any], name: str, *, on_loop: bool) -> Callable[..., Any]:
        """Return the function with its CPU time noted; `on_loop` where the event loop may call it, as one thread of several."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self._note(time.thread_time_ns() - began, name, on_loop and threading.get_ident() == self._loop_thread)

        return timed

    def wrap_housekeeper(self, housekeeper: Any) -> None:
        """Time every job, those that are there and those to come. Any: its methods are replaced on the object."""
        housekeeper._ticks[:] = [self.timing(job, _name_of(job), on_loop=False) for job in housekeeper._ticks]
        after, every_second = housekeeper.after, housekeeper.every_second
        housekeeper.after = lambda delay_s, job: after(delay_s, self.timing(job, _name_of(job), on_loop=False))
        housekeeper.every_second = lambda job: every_second(self.timing(job, _name_of(job), on_loop=False))

    def wrap_entries(self, monitor: Any) -> None:
        """Time what the middleware calls for each message, and the planting of faults. Any: as above."""
        from isolation_monitor.telemetry.instrument.websocket import Sockets

        entries = [
            (monitor.detection, ("answering", "ended", "leaving")),
            (monitor.detection.foreign_content, ("entered", "came_in", "answered")),
            (monitor.frames, ("_judge",)),
            (monitor.power, ("_act",)),
        ]
        for holder, methods in entries:
            for method in methods:
                setattr(holder, method, self.timing(getattr(holder, method), f"{type(holder).__name__}.{method}", on_loop=True))
        sockets = next(one for one in _reachable_middleware(monitor.app) if type(one) is Sockets)
        for method in ("_enter_handshake", "_enter_message", "_leave_message", "_take", "_open", "_close"):
            # Slots have no place for a replaced method; `Sockets` has none.
            setattr(sockets, method, self.timing(getattr(sockets, method), f"Sockets.{method}", on_loop=True))

    def _note(self, taken_ns: int, name: str, on_loop: bool) -> None:
        self.timed += 1
        if taken_ns > self.longest_ns:
            self.longest_ns, self.where = taken_ns, name
        if on_loop and taken_ns > self.longest_on_loop_ns:
            self.longest_on_loop_ns, self.where_on_loop = taken_ns, name


async def _talk(app: Any, number: int, until: float) -> int:
    """Hold one connection open until the time is over, and say something new about five times a second."""
    sent = 0
    opened = False

    async def receive() -> Message:
        nonlocal opened
        if not opened:
            opened = True
            return {"type": "websocket.connect"}
        if time.monotonic() >= until:
            return {"type": "websocket.disconnect", "code": 1000}
        await asyncio.sleep(0.2)
        frame = {"type": "note", "user_id": f"user-{number}", "id": uuid.uuid4().hex, "text": "so the lamp is on the table, they say"}
        return {"type": "websocket.receive", "text": json.dumps(frame)}

    async def send(message: Message) -> None:
        nonlocal sent
        if message["type"] == "websocket.send":
            sent += 1

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer token-of-user-%d" % number)],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
        "subprotocols": [],
    }
    await asyncio.get_running_loop().create_task(app(scope, receive, send))
    return sent


def _reachable_middleware(app: Any) -> list[Any]:
    """Return what each layer of a built application holds."""
    layers: list[Any] = []
    layer = app if app.middleware_stack is None else app.middleware_stack
    if app.middleware_stack is None:
        layer = app.middleware_stack = app.build_middleware_stack()
    while layer is not None:
        layers += getattr(layer, "__dict__", {}).values()
        layer = getattr(layer, "app", None)
    return layers


def _name_of(job: Any) -> str:
    return str(getattr(job, "__qualname__", None) or getattr(getattr(job, "func", None), "__qualname__", type(job).__name__))
