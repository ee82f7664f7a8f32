"""asyncio's streams: clients written by hand on `StreamReader` and `StreamWriter`, which no driver's integration sees.

What is known of a stream lies in its reader's `__dict__`; the writer is followed to its reader. Streams that nobody's
request has written to, those of servers, and those that the integration of a driver counts are left alone.
Cost: a look-up per call outside of requests; in requests an entry and a stack (about 3 us) per command.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import weakref
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_connection import STREAM_KEY
from isolation_monitor.telemetry.detectors.stream_exchanges import Line, StreamExchanges, is_more_than_blanks
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, replace

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Detection

NEWEST: Final = (3, 15)
"""The first Python whose streams have not been looked at: they are left alone."""
WRITES: Final = ("write", "writelines")
READS: Final = ("read", "readuntil", "readexactly")
"""`readline` and iteration read by `readuntil`."""


def install(detection: Detection) -> Installed:
    """Patch the two classes of streams."""
    version = platform.python_version()
    if sys.version_info >= NEWEST:
        note = "this Python is newer than what is supported: not patched"
        return Installed([Patch("asyncio", version, "asyncio.StreamReader", True, False, note)], lambda: None)
    hooks = _Hooks(detection)
    undo: list[Callable[[], None]] = []
    made: list[Patch] = []
    for owner, attributes, make in (
        (asyncio.StreamWriter, WRITES, hooks.write),
        (asyncio.StreamWriter, ("close",), hooks.close),
        (asyncio.StreamReader, READS, hooks.read),
    ):
        for attribute in attributes:
            undo.append(replace(owner, attribute, make))
            made.append(Patch("asyncio", version, f"asyncio.{owner.__name__}.{attribute}", True, True))

    def take_off() -> None:
        hooks.is_active = False
        while undo:
            undo.pop()()

    return Installed(made, take_off)


class _Stream:
    """A reader as its line sees it; held by the line, which the reader holds."""

    __slots__ = ("_reader", "failed")

    def __init__(self, reader: asyncio.StreamReader, failed: Callable[[Exception], None]) -> None:
        self._reader = weakref.ref(reader)
        self.failed = failed

    def has_rest(self) -> bool:
        # The reader's own fields: what it offers in public tells of the end only.
        reader: Any = self._reader()
        return reader is not None and not reader._eof and reader._exception is None and is_more_than_blanks(reader._buffer)

    def look_later(self, delay_s: float) -> None:
        reader: Any = self._reader()
        # In a context of nobody's: what runs there is not the request's.
        if reader is not None:
            reader._loop.call_later(delay_s, self._look, context=Context())

    def _look(self) -> None:
        try:
            reader = self._reader()
            line = reader.__dict__.get(STREAM_KEY) if reader is not None else None
            if type(line) is Line:
                line.look()
        except Exception as error:
            self.failed(error)


class _Hooks:
    """Makes the replacements."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self._home = StreamExchanges(detection.kit, detection.shared_connection, detection.dirty_handover)
        self.is_active = True

    def write(self, original: Any) -> Any:
        current = CURRENT.get

        # Each replacement has the names that the original gives its arguments: callers may use them.
        def note(writer: Any) -> None:
            try:
                request = current()
                reader = writer._reader
                line = reader.__dict__.get(STREAM_KEY) if reader is not None else None
                if type(line) is Line:
                    self._write(line, request, writer)
                elif request is not None:
                    self._first(writer, request)
            except Exception as error:
                self._failed(error)

        def write(self: Any, data: Any) -> Any:
            note(self)
            return original(self, data)

        return write

    def close(self, original: Any) -> Any:
        def close(writer: Any) -> Any:
            try:
                reader = _reader_of(writer)
                line = reader.__dict__.get(STREAM_KEY) if reader is not None else None
                if type(line) is Line:
                    line.closes(CURRENT.get())
            except Exception as error:
                self._failed(error)
            return original(writer)

        return close

    def read(self, original: Any) -> Any:
        hooks, failed = self, self._failed

        async def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            line = self.__dict__.get(STREAM_KEY)
            if type(line) is not Line or not hooks.is_active:
                return await original(self, *args, **kwargs)
            request = None
            try:
                request = line.reads()
            except Exception as error:
                failed(error)
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                try:
                    line.failed(request, error)
                except Exception as own:
                    failed(own)
                raise
            try:
                line.read(request, not result)
            except Exception as error:
                failed(error)
            return result

        return read

    # --- what they do -----------------------------------------------------------------------------------------------

    def _write(self, line: Line, request: RequestContext | None, writer: Any) -> None:
        if line.home is not self._home:
            # Of a monitor that is gone.
            if request is not None:
                self._watch(writer, request)
        elif self._home.is_on and self.is_active:
            line.writes(request)
        else:
            line.closes(request)

    def _first(self, writer: Any, request: RequestContext) -> None:
        reader = _reader_of(writer)
        if reader is None:
            return
        known = reader.__dict__.get(STREAM_KEY, self)
        if type(known) is Line:
            self._write(known, request, writer)
        elif known is self and self._home.is_on and self.is_active:
            self._watch(writer, request)

    def _watch(self, writer: Any, request: RequestContext) -> None:
        reader = _reader_of(writer)
        if reader is None:
            return
        if getattr(writer._protocol, "_client_connected_cb", None) is not None:
            # The host's own server: its streams belong to its clients.
            reader.__dict__[STREAM_KEY] = None
            return
        line = reader.__dict__[STREAM_KEY] = Line(self._home, _name(writer), _Stream(reader, self._failed))
        line.writes(request)

    def _failed(self, error: BaseException) -> None:
        self._detection.kit.reporter.check_failed(names.DIRTY_HANDOVER, "asyncio", error)


def _reader_of(writer: Any) -> Any:
    """Return the reader that belongs to a writer; the pipe that answers, for that of a child process."""
    reader = writer._reader
    if reader is None and type(writer._protocol) is SubprocessStreamProtocol:
        return writer._protocol.stdout
    return reader


def _name(writer: Any) -> str:
    """Return where a stream goes, for evidence."""
    if type(writer._protocol) is SubprocessStreamProtocol:
        return "a child process"
    try:
        peer = writer.get_extra_info("peername")
    except Exception:
        peer = None
    if type(peer) is tuple and len(peer) >= 2:
        return f"stream {peer[0]}:{peer[1]}"
    return f"stream {peer}" if type(peer) is str and peer else "stream"
