"""redis-py 4.2 to 8.x, blocking and asyncio: commands and replies are counted per connection, hand-overs looked at in the pool.

Everything hangs on the connection classes, below clients, pipelines and locks, so that whoever writes to a connection
is seen. A reply belongs to the oldest command without one. Connections that get messages unasked (publish/subscribe,
MONITOR) are not counted. A pipeline object that is filled by requests of two principals is one session of two owners.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_connection import STREAM_KEY
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.shared_connection import Sent
    from isolation_monitor.telemetry.stacks import RawStack

OLDEST: Final = (4, 2)
NEWEST: Final = (8, 999)
_UNASKED: Final = frozenset(("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "SYNC", "PSYNC"))
_CONTROL: Final = _UNASKED | frozenset(
    ("AUTH", "HELLO", "SELECT", "PING", "CLIENT", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "UNSUBSCRIBE", "PUNSUBSCRIBE",
     "SUNSUBSCRIBE", "PUBLISH", "SPUBLISH", "INFO", "CONFIG", "COMMAND", "SCRIPT", "FUNCTION", "QUIT", "RESET", "ECHO", "TIME", "CLUSTER",
     "READONLY", "WAIT")
)  # fmt: skip
"""Commands whose first argument is no key."""
_WRITES: Final = frozenset(
    ("SET", "SETEX", "PSETEX", "SETNX", "GETSET", "MSET", "MSETNX", "APPEND", "SETRANGE", "HSET", "HMSET", "HSETNX", "LPUSH", "RPUSH",
     "LPUSHX", "RPUSHX", "LINSERT", "LSET", "SADD", "ZADD", "XADD", "JSON.SET", "JSON.MSET", "JSON.MERGE")
)  # fmt: skip
_KEY: Final = "_isolation_monitor_wire"
_HOLDS: Final = (str, bytes, list, dict, set, tuple)


class _Wire:
    """What is known of one connection; it lies in the connection's own `__dict__`, lives as long, and stands for it.

    The asyncio connections of redis-py 4 take no weak reference.
    """

    __slots__ = ("__weakref__", "accused", "commands", "connecting", "database", "home", "name", "selected", "selector", "stack", "taken")

    def __init__(self, home: object, name: str, database: str) -> None:
        self.home = home
        self.name = name
        self.database = database
        self.commands: list[tuple[Any, ...]] | None = None
        """What the next `send_packed_command` sends, where we saw it packed."""
        self.connecting = 0
        self.selected = ""
        """Database that a request chose and left; empty while it is the configured one."""
        self.selector: RequestContext | None = None
        self.stack: RawStack = ()
        self.accused: RequestContext | None = None
        self.taken: tuple[RequestContext, RawStack] | None = None
        """Who has it from its pool now; one stack serves for the commands that follow."""


def install(detection: Detection) -> Installed:
    """Hook the blocking and the asyncio client; nothing where the version is unknown."""
    import redis

    version = str(redis.__version__)
    if not OLDEST <= numbers_of(version) <= NEWEST:
        note = "not supported: 4.2 to 8.x are"
        return Installed([Patch("redis", version, "redis.connection", reversible=True, active=False, note=note)], lambda: None)
    import redis.asyncio.client
    import redis.asyncio.connection
    import redis.client
    import redis.connection

    patching = Patching("redis", version)
    libraries: tuple[tuple[Any, Any, bool], ...] = (
        (redis.connection, redis.client, False),
        (redis.asyncio.connection, redis.asyncio.client, True),
    )
    for owner, clients, is_async in libraries:
        hooks = _Hooks(detection, is_async)
        base = getattr(owner, "AbstractConnection", None) or owner.Connection
        targets: list[tuple[Any, dict[str, Callable[[Any], Any]]]] = [
            (base, {
                "send_command": hooks.send_command, "pack_commands": hooks.pack_commands, "send_packed_command": hooks.send_packed_command,
                "read_response": hooks.read_response, "connect": hooks.connect, "disconnect": hooks.disconnect,
            }),
            (owner.ConnectionPool, {"get_connection": hooks.get_connection, "release": hooks.release}),
            (owner.BlockingConnectionPool, {"get_connection": hooks.get_connection, "release": hooks.release}),
            (clients.Pipeline, {"execute_command": hooks.pipeline_command, "reset": hooks.pipeline_reset}),
        ]  # fmt: skip
        for target, makers in targets:
            for attribute, make in makers.items():
                # What a class inherits is hooked where it is defined.
                if attribute in vars(target):
                    patching.replace(target, attribute, make)

    return Installed(patching.patches, patching.undo)


class _Hooks:
    """Makes the replacements for one of the two clients: each comes in a plain shape and in an asynchronous one."""

    def __init__(self, detection: Detection, is_async: bool) -> None:
        self._detection = detection
        self._shared = detection.shared_connection
        self._dirty = detection.dirty_handover
        self._leaks = detection.leaks
        self._stores = detection.stores
        self._switch = detection.switches[names.SHARED_CONNECTION]
        self._is_async = is_async

    # --- replacements -----------------------------------------------------------------------------------------------

    def send_command(self, original: Any) -> Any:
        def note(connection: Any, args: tuple[Any, ...]) -> None:
            try:
                self._wire(connection).commands = [args]
            except Exception as error:
                self._failed(error)

        def send_command(connection: Any, *args: Any, **kwargs: Any) -> Any:
            note(connection, args)
            return original(connection, *args, **kwargs)

        if not self._is_async:
            return send_command

        async def send_command_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            note(connection, args)
            return await original(connection, *args, **kwargs)

        return send_command_async

    def pack_commands(self, original: Any) -> Any:
        def pack_commands(connection: Any, commands: Iterable[Any]) -> Any:
            # It is iterated once by the original; an iterator would be used up by counting.
            known = commands if type(commands) in (list, tuple) else list(commands)
            try:
                self._wire(connection).commands = list(known)
            except Exception as error:
                self._failed(error)
            return original(connection, known)

        return pack_commands

    def send_packed_command(self, original: Any) -> Any:
        def send(connection: Any, *args: Any, **kwargs: Any) -> Any:
            entry = self._before_send(connection)
            try:
                result = original(connection, *args, **kwargs)
            except BaseException as error:
                self._send_failed(connection, entry, error)
                raise
            self._after_send(connection, entry)
            return result

        if not self._is_async:
            return send

        async def send_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            entry = self._before_send(connection)
            try:
                result = await original(connection, *args, **kwargs)
            except BaseException as error:
                self._send_failed(connection, entry, error)
                raise
            self._after_send(connection, entry)
            return result

        return send_async

    def read_response(self, original: Any) -> Any:
        from redis.exceptions import ResponseError

        def read(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                response = original(connection, *args, **kwargs)
            except ResponseError:
                self._read(connection, None, kwargs)
                raise
            self._read(connection, response, kwargs)
            return response

        if not self._is_async:
            return read

        async def read_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                response = await original(connection, *args, **kwargs)
            except ResponseError:
                self._read(connection, None, kwargs)
                raise
            self._read(connection, response, kwargs)
            return response

        return read_async

    def connect(self, original: Any) -> Any:
        def connect(connection: Any, *args: Any, **kwargs: Any) -> Any:
            wire = self._connecting(connection)
            try:
                return original(connection, *args, **kwargs)
            finally:
                if wire is not None:
                    wire.connecting -= 1

        if not self._is_async:
            return connect

        async def connect_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            wire = self._connecting(connection)
            try:
                return await original(connection, *args, **kwargs)
            finally:
                if wire is not None:
                    wire.connecting -= 1

        return connect_async

    def disconnect(self, original: Any) -> Any:
        def disconnect(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self._begun_anew(connection)
            return original(connection, *args, **kwargs)

        if not self._is_async:
            return disconnect

        async def disconnect_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self._begun_anew(connection)
            return await original(connection, *args, **kwargs)

        return disconnect_async

    def get_connection(self, original: Any) -> Any:
        def get_connection(pool: Any, *args: Any, **kwargs: Any) -> Any:
            connection = original(pool, *args, **kwargs)
            self._taken(connection)
            return connection

        if not self._is_async:
            return get_connection

        async def get_connection_async(pool: Any, *args: Any, **kwargs: Any) -> Any:
            connection = await original(pool, *args, **kwargs)
            self._taken(connection)
            return connection

        return get_connection_async

    def release(self, original: Any) -> Any:
        def release(pool: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
            self._released(connection)
            return original(pool, connection, *args, **kwargs)

        if not self._is_async:
            return release

        async def release_async(pool: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
            self._released(connection)
            return await original(pool, connection, *args, **kwargs)

        return release_async

    def pipeline_command(self, original: Any) -> Any:
        # Plain in both clients: it returns the pipeline, or an awaitable of it.
        def execute_command(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._shared.used(pipeline, "redis pipeline")
            except Exception as error:
                self._failed(error)
            return original(pipeline, *args, **kwargs)

        return execute_command

    def pipeline_reset(self, original: Any) -> Any:
        def forget(pipeline: Any) -> None:
            try:
                self._shared.closed(pipeline)
            except Exception as error:
                self._failed(error)

        def reset(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            forget(pipeline)
            return original(pipeline, *args, **kwargs)

        if not self._is_async:
            return reset

        async def reset_async(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            forget(pipeline)
            return await original(pipeline, *args, **kwargs)

        return reset_async

    # --- what they do -----------------------------------------------------------------------------------------------

    def _before_send(self, connection: Any) -> Sent | None:
        try:
            wire = self._wire(connection)
            if self._is_async:
                stream = getattr(connection, "_reader", None)
                if stream is not None:
                    # Counted here, so the integration of plain asyncio streams leaves it alone.
                    stream.__dict__[STREAM_KEY] = None
            commands, wire.commands = wire.commands, None
            request = CURRENT.get()
            is_unasked = False
            for command in commands or ():
                is_unasked |= self._command(wire, command, request)
            taken = wire.taken
            stack = taken[1] if taken is not None and taken[0] is request else None
            entry = self._shared.sent(wire, wire.name, len(commands) if commands else 1, commands, stack)
            if is_unasked:
                self._shared.uncounted(wire)
                # Held for as long as somebody listens, by design.
                self._leaks.checked_in(id(wire))
            return entry
        except Exception as error:
            self._failed(error)
            return None

    def _command(self, wire: _Wire, command: tuple[Any, ...], request: RequestContext | None) -> bool:
        """Note one command; return whether messages come unasked after it."""
        word = command[0] if command else ""
        if type(word) is not str:
            return False
        if len(command) == 1 and " " in word:
            word = word.split(" ", 1)[0]
        word = word.upper()
        if wire.connecting:
            return word in _UNASKED
        if word == "SELECT" and len(command) > 1:
            chosen = str(command[1]) if type(command[1]) in (int, str) else ""
            wire.selected = "" if chosen == wire.database else chosen
            wire.selector, wire.accused = request, None
            wire.stack = stacks.capture(4) if wire.selected else ()
        elif wire.selected and word not in _CONTROL and wire.selector is not None and request is not None and wire.accused is not request:
            wire.accused = request
            state = {"database": f"{wire.selected} instead of {wire.database}"}
            self._dirty.found(wire, wire.name, state, wire.selector, wire.stack)
        if request is not None and word in _WRITES and len(command) > 2:
            self._stores.written("kv", wire.name, command[1], command[2:])
        return word in _UNASKED or (word == "CLIENT" and any(part in ("REPLY", "reply") for part in command[1:2] if type(part) is str))

    def _after_send(self, connection: Any, entry: Sent | None) -> None:
        if entry is not None:
            try:
                self._shared.still_sent(self._wire(connection), entry)
            except Exception as error:
                self._failed(error)

    def _send_failed(self, connection: Any, entry: Sent | None, error: BaseException) -> None:
        # Cancelled while the buffer drains: the command may be on its way, so its reply is owed. Else the client disconnects.
        if entry is not None and isinstance(error, Exception):
            try:
                self._shared.unsent(self._wire(connection), entry)
            except Exception as own:
                self._failed(own)

    def _read(self, connection: Any, response: Any, kwargs: dict[str, Any]) -> None:
        try:
            if kwargs.get("push_request"):
                return
            wire = self._wire(connection)
            entry = self._shared.received(wire)
            if entry is None or response is None or type(response) not in _HOLDS or CURRENT.get() is None:
                return
            commands: Any = entry.note
            if not commands:
                return
            command = commands[len(commands) - entry.left - 1]
            word = command[0].upper() if command and type(command[0]) is str else ""
            if word == "EXEC":
                self._stores.read("kv", wire.name, None, response)
            elif word and word not in _CONTROL and word not in _WRITES and len(command) > 1:
                self._stores.read("kv", wire.name, command[1], response)
        except Exception as error:
            self._failed(error)

    def _connecting(self, connection: Any) -> _Wire | None:
        try:
            wire = self._wire(connection)
            wire.connecting += 1
            if getattr(connection, "_sock", None) is None and getattr(connection, "_writer", None) is None:
                self._begun_anew(connection)
            return wire
        except Exception as error:
            self._failed(error)
            return None

    def _begun_anew(self, connection: Any) -> None:
        try:
            wire = connection.__dict__.get(_KEY)
            if type(wire) is _Wire:
                self._shared.reconnected(wire)
                wire.selected, wire.selector, wire.stack, wire.accused = "", None, (), None
        except Exception as error:
            self._failed(error)

    def _taken(self, connection: Any) -> None:
        try:
            request = CURRENT.get()
            if request is None:
                return
            wire = self._wire(connection)
            unread = self._shared.unread(wire)
            entry = self._shared.oldest_unread(wire) if unread else None
            if entry is None or entry.request is None:
                self._dirty.taken(wire, wire.name)
            else:
                self._dirty.found(wire, wire.name, {"unread_replies": str(unread)}, entry.request, entry.stack)
            # A client of one connection takes it for its own life.
            if sys._getframe(2).f_code.co_name not in ("initialize", "__init__"):
                stack = stacks.capture(3)
                wire.taken = (request, stack)
                self._leaks.checked_out(id(wire), wire.name, stack)
        except Exception as error:
            self._failed(error)

    def _released(self, connection: Any) -> None:
        try:
            wire = connection.__dict__.get(_KEY)
            if wire is not None:
                wire.taken = None
                self._leaks.checked_in(id(wire))
        except Exception as error:
            self._failed(error)

    def _wire(self, connection: Any) -> _Wire:
        held = connection.__dict__
        wire = held.get(_KEY)
        if type(wire) is _Wire and wire.home is self:
            return wire
        # Plain attributes of the library's own class, some of them in slots.
        place = getattr(connection, "path", None) or f"{getattr(connection, 'host', '?')}:{getattr(connection, 'port', '?')}"
        database = str(getattr(connection, "db", 0) or 0)
        wire = held[_KEY] = _Wire(self, f"redis {place}/{database}", database)
        return wire

    def _failed(self, error: BaseException) -> None:
        self._detection.kit.reporter.check_failed(names.SHARED_CONNECTION, "redis", error)
