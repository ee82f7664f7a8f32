"""The ASGI middleware: one object per application, around everything else.

Pure ASGI, so it works with any framework. Its own failures are counted and swallowed; the host's answers, exceptions and
timing pass through unchanged. Request path rules (measured, see docs/decisions): no prometheus_client, no lock, no uuid,
no second route match, no `current_task()`; `send` is a plain function that returns the inner awaitable.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, SCOPE_KEY, Connection, RequestContext
from isolation_monitor.telemetry.detectors import foreign_identity, inherited_context

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.frames import Frames
    from isolation_monitor.telemetry.metrics.cells import HistogramCell
    from isolation_monitor.telemetry.monitor import IsolationMonitor
    from isolation_monitor.telemetry.principals import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_clock = time.perf_counter
_JSON: Final = b"json"
_EVENT_STREAM: Final = b"text/event-stream"


class IsolationMiddleware:
    """Wraps an ASGI application; `monitor` decides whether it watches or only hands through."""

    def __init__(self, app: ASGIApp, monitor: IsolationMonitor) -> None:
        self.app = app
        self.monitor = monitor
        self._ledger = monitor.ledger
        self._principal_of = monitor.principal_of
        self._is_excluded = _excluder(monitor.settings.exclude)
        self._frames: Frames = monitor.frames
        self._durations: dict[tuple[int, str, int], tuple[HistogramCell, object]] = {}
        # Known per connection object at accept: the page paths are compared before anything else happens.
        self._pages = frozenset(p for p in (monitor.settings.isolation_path, f"{monitor.settings.isolation_path}/all") if p)
        self._main_page = monitor.settings.metrics_path
        registry = monitor.registry
        self._accepted = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="accepted")
        self._refused = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="refused")
        self._broken = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="error")
        self._received = registry.counter(names.WEBSOCKET_MESSAGES, direction="received")
        self._sent = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            path = scope["path"]
            if path in self._pages:
                await self.monitor.endpoint(scope, receive, send)
            elif path == self._main_page:
                await self._host_page_or_ours(scope, receive, send)
            elif not self.monitor.is_on or self._is_excluded(path):
                await self.app(scope, receive, send)
            else:
                await self._http(scope, receive, send)
        elif kind == "websocket" and self.monitor.is_on and not self._is_excluded(scope["path"]):
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.monitor.served:
            # A server without lifespan events: the first request tells which thread runs the event loop.
            self.monitor.serving()
        request = self._enter("http", scope)
        if request is None:
            await self.app(scope, receive, send)
            return
        if self.monitor.identity is not None and request.principal is not None:
            send = self._reading_send(request, send)
        else:
            send = _counting_send(request, send)
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            # Cancelled by a client that left is no failure of the server; everything else that escapes is.
            request.failed = isinstance(error, Exception)
            if not request.status:
                request.status = 500
            raise
        finally:
            self._leave(request, scope)

    def _enter(self, transport: str, scope: Scope, connection: Connection | None = None) -> RequestContext | None:
        try:
            earlier = CURRENT.get()
            principal = connection.principal if connection is not None else self._principal_of(scope)
            request = RequestContext(transport, principal, scope, connection)
            scope[SCOPE_KEY] = request
            inherited_context.enter(request, earlier)
            self._ledger.exposure.enter(principal, request.serial)
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _leave(self, request: RequestContext, scope: Scope) -> None:
        try:
            ledger = self._ledger
            if request.pending is not None:
                inherited_context.settle(request, ledger)
            # Authentication inside the application may have named the user by now.
            late = self._principal_of(scope) if request.principal is None else None
            if request.checkouts:
                self.monitor.request_ended(request)
            passes = ledger.passes[names.INHERITED_CONTEXT]
            passes.values[passes.index] += 1.0
            if request.status >= 500 or request.failed:
                self.monitor.request_failed(request)
            request.seal()
            ledger.finish(request, late)
            # By identity: a framework's route may not be hashable, and its comparison would be the host's code. The route
            # is kept beside the cell, so that its identity is not recycled.
            key = (id(request.route_object or request.endpoint), request.method, request.status)
            known = self._durations.get(key)
            cell = known[0] if known is not None else self._duration_cell(key, request, scope)
            cell.observe(_clock() - request.started)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def _duration_cell(self, key: tuple[int, str, int], request: RequestContext, scope: Scope) -> HistogramCell:
        method = key[1] if key[1] in names.HTTP_METHODS else "_OTHER"
        cell = self.monitor.registry.histogram(
            names.HTTP_DURATION,
            http_route=self.monitor.route_template(scope),
            http_request_method=method,
            http_response_status_code=str(key[2]),
        )
        if len(self._durations) < 5_000:
            self._durations[key] = (cell, request.route_object or request.endpoint)
        return cell

    def _reading_send(self, request: RequestContext, send: Send) -> Send:
        """Return a send that collects a JSON body, bounded, and checks its identity fields before the last part leaves."""
        limit = self.monitor.settings.body_limit_bytes
        parts: list[bytes] = []
        state = {"read": False, "size": 0, "encoding": b"", "stream": False}

        def reading_send(message: Message) -> Awaitable[None]:
            try:
                kind = message["type"]
                if kind == "http.response.start":
                    request.status = message["status"]
                    if request.pending is not None:
                        inherited_context.settle(request, self._ledger)
                    for name, value in message.get("headers", ()):
                        if name == b"content-type":
                            state["stream"] = value.startswith(_EVENT_STREAM)
                            state["read"] = _JSON in value or state["stream"]
                        elif name == b"content-encoding":
                            state["encoding"] = value
                elif kind == "http.response.body":
                    more = message.get("more_body", False)
                    if state["read"]:
                        body = message.get("body", b"")
                        if state["stream"] and not state["encoding"]:
                            self._check_body(request, body, b"")
                        else:
                            state["size"] += len(body)  # type: ignore[operator]  # one dict holds the four small states
                            if state["size"] > limit:  # type: ignore[operator]
                                state["read"] = False
                                parts.clear()
                                self._ledger.skipped(names.FOREIGN_IDENTITY)
                                request.unverifiable = True
                            elif more:
                                parts.append(bytes(body))
                            else:
                                self._check_body(request, b"".join((*parts, body)) if parts else body, state["encoding"])  # type: ignore[arg-type]
                    if not more:
                        request.responded = True
            except Exception as error:
                request.unverifiable = True
                self._ledger.check_failed(names.FOREIGN_IDENTITY, "middleware", error)
            return send(message)

        return reading_send

    def _check_body(self, request: RequestContext, body: bytes, encoding: bytes) -> None:
        identity, principal = self.monitor.identity, request.principal
        if identity is None or principal is None or principal.is_credential:
            self._ledger.skipped(names.FOREIGN_IDENTITY)
            return
        plain = foreign_identity.inflated(body, encoding)
        if plain is None:
            request.unverifiable = True
            self._ledger.skipped(names.FOREIGN_IDENTITY)
            return
        found = identity.foreign_in_bytes(plain, principal.id)
        if found is None:
            passes = self._ledger.passes[names.FOREIGN_IDENTITY]
            passes.values[passes.index] += 1.0
        else:
            foreign_identity.report(self._ledger, self.monitor.principals, request, found, "the answer")

    # --- the monitor's own pages ------------------------------------------------------------------------------------

    async def _host_page_or_ours(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve our main page only where the application has none: its own answer at this path is never replaced."""
        refused = False

        async def send_unless_missing(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == 404:
                refused = True
            if not refused:
                await send(message)

        await self.app(scope, receive, send_unless_missing)
        if refused:
            await self.monitor.endpoint(scope, receive, send)
        else:
            self.monitor.host_owns_metrics_path = True

    # --- WebSocket --------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self._open(scope)
        held = connection.principal
        unit: RequestContext | None = self._enter("websocket", scope, connection)
        frames, received, sent = self._frames, self._received, self._sent
        handshake = "refused"

        async def watching_receive() -> Message:
            nonlocal unit
            # One inbound message and what it starts is one request. It is judged when the application asks for the next
            # one, or, while a run of it is still going, when the next one comes.
            if unit is not None and not unit.finished and not unit.open_runs:
                self._leave_message(unit)
            message = await receive()
            if message["type"] == "websocket.receive":
                received.values[received.index] += 1.0
                if unit is not None and not unit.finished:
                    self._leave_message(unit)
                unit = self._enter_message(scope, connection, unit)
            elif message["type"] == "websocket.disconnect":
                connection.closed = True
            return message

        def watching_send(message: Message) -> Awaitable[None]:
            nonlocal handshake
            kind = message["type"]
            if kind == "websocket.send":
                sent.values[sent.index] += 1.0
                if frames.reads:
                    return frames.send(message, send, connection, unit)
            elif kind == "websocket.accept":
                handshake = "accepted"
                self._accepted.inc()
            elif kind == "websocket.close":
                connection.closed = True
            return send(message)

        try:
            await self.app(scope, watching_receive, watching_send)
        except BaseException as error:
            if unit is not None:
                unit.failed = isinstance(error, Exception)
            handshake = "error" if handshake == "refused" else handshake
            raise
        finally:
            self._close(connection, held)
            if handshake != "accepted":
                (self._refused if handshake == "refused" else self._broken).inc()
            if unit is not None and not unit.finished:
                self._leave_message(unit)

    def _open(self, scope: Scope) -> Connection:
        connection = Connection(self._principal_of(scope), scope)
        try:
            self.monitor.connections.add(connection)
            self._ledger.exposure.enter(connection.principal, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)
        return connection

    def _close(self, connection: Connection, held: Principal | None) -> None:
        connection.closed = True
        try:
            self.monitor.connections.discard(connection)
            self._ledger.exposure.leave(held, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def _enter_message(self, scope: Scope, connection: Connection, previous: RequestContext | None) -> RequestContext | None:
        try:
            if connection.principal is None:
                connection.principal = self._principal_of(scope)
            request = RequestContext("websocket", connection.principal, scope, connection)
            if previous is not None:
                request.baseline = previous.baseline
            # Set in the task that receives, so that what it starts belongs to this message.
            CURRENT.set(request)
            self._ledger.exposure.enter(request.principal, request.serial)
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _leave_message(self, request: RequestContext) -> None:
        try:
            ledger = self._ledger
            if request.pending is not None:
                inherited_context.settle(request, ledger)
            if request.checkouts:
                self.monitor.request_ended(request)
            if request.failed:
                self.monitor.request_failed(request)
            request.seal()
            ledger.finish(request)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    # --- lifespan ---------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Learn that this process serves: the thread of the event loop becomes the owner of the hot cells."""
        self.monitor.serving()
        await self.app(scope, receive, send)


def _counting_send(request: RequestContext, send: Send) -> Send:
    def counting_send(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            request.status = message["status"]
        elif not message.get("more_body", False):
            request.responded = True
        return send(message)

    return counting_send


def _excluder(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    exact = frozenset(p for p in patterns if not p.endswith("*"))
    prefixes = tuple(p[:-1] for p in patterns if p.endswith("*"))

    def is_excluded(path: str) -> bool:
        return path in exact or path.startswith(prefixes)

    return is_excluded
