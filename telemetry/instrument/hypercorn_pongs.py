"""hypercorn: pongs on its WebSocket connections, over HTTP/1.1 and HTTP/2, on its asyncio workers.

hypercorn reads pongs and drops them. What each accepted connection's protocol object tells is looked through on the way; a ping is
sent as hypercorn's own are. Its transport is out of reach from a connection, so there is no word of the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from importlib import metadata
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of
from isolation_monitor.telemetry.instrument.unanswered import Unanswered

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

HOME: Final = "hypercorn.protocol.ws_stream"
TESTED: Final = ((0, 17), (0, 19))
"""Versions from the first to below the second."""

_waiting: weakref.WeakKeyDictionary[Any, weakref.ref[HypercornProbe]] = weakref.WeakKeyDictionary()
"""By stream: the probe whose ping is not answered yet. Weak on both sides: a probe holds its stream, and a client that left for
good never answers."""
_hooked: Final[Counter[str]] = Counter()
_numbers: Final = itertools.count(1)


def install(detection: Detection) -> Installed:
    """Look through what each connection's protocol tells."""
    version = metadata.version("hypercorn")
    stream = vars(sys.modules[HOME]).get("WSStream")
    if not TESTED[0] <= numbers_of(version) < TESTED[1] or not isinstance(stream, type) or not _has_what_is_used(stream):
        note = "nobody has looked at this version: no pings, an event counts as delivered when the server took it"
        return Installed([Patch("hypercorn", version, f"{HOME}.WSStream._accept", True, False, note)], lambda: None)
    patching = Patching("hypercorn", version)
    patching.replace(stream, "_accept", _accepting)
    _hooked[HOME] += 1

    def undo() -> None:
        _hooked[HOME] -= 1
        patching.undo()

    return Installed(patching.patches, undo)


def _has_what_is_used(stream: type) -> bool:
    return {"_accept", "_send_wsproto_event", "app_send"} <= vars(stream).keys()


def _accepting(original: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    async def _accept(self: Any, message: Any) -> None:
        await original(self, message)
        try:
            connection = self.connection
            connection.events = _looking_through(connection.events, weakref.ref(self))
        except Exception:  # hypercorn's connection must not fail because of us
            _waiting.pop(self, None)

    return _accept


def _looking_through(events: Callable[[], Iterator[Any]], stream: weakref.ref[Any]) -> Callable[[], Iterator[Any]]:
    pong = sys.modules["wsproto.events"].Pong

    def looked_through() -> Iterator[Any]:
        for event in events():
            if type(event) is pong:
                with contextlib.suppress(Exception):  # hypercorn's connection must not fail because of us
                    _heard(stream(), bytes(event.payload))
            yield event

    return looked_through


def _heard(stream: Any, payload: bytes) -> None:
    waiting = _waiting.get(stream) if stream is not None else None
    probe = waiting() if waiting is not None else None
    if probe is not None and probe.payload == payload:
        del _waiting[stream]
        probe.answered()


class HypercornProbe(Unanswered):
    """One connection of hypercorn's."""

    has_kernel = False
    has_pong = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._task: asyncio.Task[None] | None = None
        self.payload = b""
        """What its latest ping said."""

    def is_drained(self) -> bool:
        """False: nobody can tell."""
        return False

    def is_gone(self) -> bool:
        """Whether the connection is closed."""
        return bool(self._stream.closed) or self._stream.state.name in ("CLOSED", "HTTPCLOSED")

    def held_bytes(self) -> int:
        """Return 0: hypercorn does not say."""
        return 0

    def ping(self, ponged: Callable[[], None]) -> bool:
        """Send a ping after everything that was sent so far."""
        stream = self._stream
        if self.is_gone() or stream.state.name != "CONNECTED" or (self._task is not None and not self._task.done()):
            return False
        # Numbered: an answer that comes after we have given up must not pass for the next ping's.
        self.payload, self._ponged = b"isolation %d" % next(_numbers), ponged
        _waiting[stream] = weakref.ref(self)
        ping = sys.modules["wsproto.events"].Ping(payload=self.payload)
        self._task = asyncio.get_running_loop().create_task(_send(stream, ping), context=Context())
        return True


async def _send(stream: Any, ping: Any) -> None:
    try:
        await stream._send_wsproto_event(ping)
    except Exception:  # closed in between: the connection says so itself
        _waiting.pop(stream, None)


def find(send: object) -> HypercornProbe | None:
    """Return the probe of the connection whose server's `send` this is; None for another server's."""
    if type(send) is not MethodType or type(send.__self__).__module__ != HOME or not _hooked[HOME]:
        return None
    stream: Any = send.__self__
    # Its workers on trio have no event loop that could be asked for a ping.
    return HypercornProbe(stream) if type(stream.task_group).__module__.startswith("hypercorn.asyncio") else None
