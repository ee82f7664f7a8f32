"""uvicorn: what its WebSocket connections can tell of what arrived: the kernel's word, and pongs.

ASGI knows no pings. Of uvicorn's three implementations, two hand pongs to a method of theirs, which is wrapped (see
`isomon doctor`); the third, of `websockets`' older interface, has a method for pings. The connection behind a `send` is
found where `send` is the server's own bound method; behind a wrapper of somebody else's nothing is asked.

A peer may answer only the latest of several pings (RFC 6455, 5.5.3). So none is sent while uvicorn waits for the answer
to its own, which would otherwise close the connection, and the answer to a later ping of uvicorn's counts for ours.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.kernel_acks import can_ask, is_drained
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of
from isolation_monitor.telemetry.instrument.unanswered import Unanswered

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.acknowledgements import Probe
    from isolation_monitor.telemetry.detection import Detection

HOME: Final = "uvicorn.protocols.websockets"
TESTED: Final = ((0, 35), (1, 0))
"""Versions from the first to below the second: they are asked and wrapped; of others only the kernel tells."""
PAYLOAD: Final = b"isolation"

_waiting: weakref.WeakKeyDictionary[Any, weakref.ref[_HookedProbe]] = weakref.WeakKeyDictionary()
"""By connection: the probe whose ping is not answered yet. Weak on both sides: a probe holds its connection, and a client that
left for good never answers."""
_hooked: Final[Counter[str]] = Counter()
"""Modules whose pongs are heard now, and by how many monitors."""


def install(detection: Detection) -> Installed:
    """Wrap what hears the pongs in the implementation without I/O of its own; `uvicorn_wsproto` does it in the other one."""
    return hook("websockets_sansio_impl", "WebSocketsSansIOProtocol")


def hook(module: str, name: str) -> Installed:
    """Wrap `handle_pong` of one implementation."""
    version = str(sys.modules["uvicorn"].__version__)
    if not _is_tested():
        note = "nobody has looked at this version: no pings, the kernel alone tells what arrived"
        return Installed([Patch("uvicorn", version, f"{HOME}.{module}.{name}.handle_pong", True, False, note)], lambda: None)
    protocol = vars(sys.modules[f"{HOME}.{module}"]).get(name)
    if not isinstance(protocol, type) or "handle_pong" not in vars(protocol):
        note = "this version does not tell of pongs: the kernel alone tells what arrived"
        return Installed([Patch("uvicorn", version, f"{HOME}.{module}.{name}.handle_pong", True, False, note)], lambda: None)
    patching = Patching("uvicorn", version)
    patching.replace(protocol, "handle_pong", _hearing)
    _hooked[f"{HOME}.{module}"] += 1

    def undo() -> None:
        _hooked[f"{HOME}.{module}"] -= 1
        patching.undo()

    return Installed(patching.patches, undo)


def _hearing(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def handle_pong(self: Any, event: Any) -> None:
        try:
            _heard(self, event)
        except Exception:  # uvicorn's connection must not fail because of us
            _waiting.pop(self, None)
        original(self, event)

    return handle_pong


def _heard(protocol: Any, event: Any) -> None:
    waiting = _waiting.get(protocol)
    probe = waiting() if waiting is not None else None
    if probe is None:
        return
    payload = bytes(getattr(event, "data", None) or getattr(event, "payload", None) or b"")
    # A pong that answers uvicorn's own ping counts when that one was sent after ours.
    if payload == PAYLOAD or (payload == protocol.pending_ping_payload and protocol.ping_sent_at > probe.pinged_at):
        del _waiting[protocol]
        probe.answered()


class UvicornProbe:
    """One connection of uvicorn's."""

    def __init__(self, protocol: Any, *, has_kernel: bool, has_pong: bool) -> None:
        self._protocol = protocol
        self.has_kernel = has_kernel
        self.has_pong = has_pong

    def is_drained(self) -> bool:
        """Whether the next hop's kernel has acknowledged every byte."""
        transport = self._protocol.transport
        return transport is not None and is_drained(transport)

    def is_gone(self) -> bool:
        """Whether the connection is closed."""
        transport = self._protocol.transport
        return transport is None or bool(transport.is_closing())

    def held_bytes(self) -> int:
        """How much the event loop still holds for the connection."""
        transport = self._protocol.transport
        return 0 if transport is None else int(transport.get_write_buffer_size())

    def ping(self, ponged: Callable[[], None]) -> bool:
        """Send a ping after everything that was sent so far."""
        raise NotImplementedError


class _HookedProbe(Unanswered, UvicornProbe):
    """The implementations whose pongs are heard."""

    pinged_at = 0.0
    """When its latest ping was sent, by the loop's clock."""

    def ping(self, ponged: Callable[[], None]) -> bool:
        protocol = self._protocol
        if protocol.close_sent or self.is_gone() or protocol.pending_ping_payload is not None or not protocol.handshake_complete:
            return False
        self._write(protocol)
        self.pinged_at, self._ponged = protocol.loop.time(), ponged
        _waiting[protocol] = weakref.ref(self)
        return True

    def _write(self, protocol: Any) -> None:
        raise NotImplementedError


class _SansioProbe(_HookedProbe):
    def _write(self, protocol: Any) -> None:
        protocol.conn.send_ping(PAYLOAD)
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))


class _WsprotoProbe(_HookedProbe):
    def _write(self, protocol: Any) -> None:
        ping = sys.modules["wsproto.events"].Ping(payload=PAYLOAD)
        protocol.transport.write(protocol.conn.send(ping))


class _LegacyProbe(UvicornProbe):
    """The implementation on the older interface of `websockets`, where each pong acknowledges all earlier pings."""

    _task: asyncio.Task[None] | None = None

    def ping(self, ponged: Callable[[], None]) -> bool:
        if self.is_gone() or (self._task is not None and not self._task.done()):
            return False
        self._task = self._protocol.loop.create_task(self._ping(ponged), context=Context())
        return True

    async def _ping(self, ponged: Callable[[], None]) -> None:
        try:
            await (await self._protocol.ping())
        except Exception:  # closed in between: the connection says so itself
            return
        ponged()


def find(send: object) -> Probe | None:
    """Return the probe of the connection whose server's `send` this is; None for another server's."""
    if type(send) is not MethodType:
        return None
    protocol: Any = send.__self__
    kind = type(protocol)
    module = kind.__module__
    if not module.startswith(HOME):
        return None
    has_kernel = can_ask(protocol.transport)
    if module.endswith(".websockets_sansio_impl"):
        return _SansioProbe(protocol, has_kernel=has_kernel, has_pong=_hooked[module] > 0)
    if module.endswith(".wsproto_impl"):
        return _WsprotoProbe(protocol, has_kernel=has_kernel, has_pong=_hooked[module] > 0)
    if module.endswith(".websockets_impl"):
        return _LegacyProbe(protocol, has_kernel=has_kernel, has_pong=_is_tested())
    return UvicornProbe(protocol, has_kernel=has_kernel, has_pong=False)


def _is_tested() -> bool:
    return TESTED[0] <= numbers_of(sys.modules["uvicorn"].__version__) < TESTED[1]
