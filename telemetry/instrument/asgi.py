"""The ASGI middleware: one object per application, around everything else.

Pure ASGI, so it works with any framework. Its own failures are counted and swallowed; the host's answers, exceptions and
timing pass through unchanged. Request path rules (measured, see docs/decisions): no prometheus_client, no lock, no uuid,
no second route match, no `current_task()`; `send` is a plain function that returns the inner awaitable.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, SCOPE_KEY, Connection, RequestContext, Served, clock
from isolation_monitor.telemetry.detectors import foreign_identity, inherited_context

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.frames import Frames
    from isolation_monitor.telemetry.metrics.cells import Cell, HistogramCell
    from isolation_monitor.telemetry.monitor import IsolationMonitor
    from isolation_monitor.telemetry.principals import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON: Final = b"json"
_EVENT_STREAM: Final = b"text/event-stream"
SERVED_LIMIT: Final = 5_000
"""Combinations of endpoint, route, method and status whose cells are remembered."""


class IsolationMiddleware:
    """Wraps an ASGI application; `monitor` decides whether it watches or only hands through."""

    def __init__(self, app: ASGIApp, monitor: IsolationMonitor) -> None:
        self.app = app
        self.monitor = monitor
        self._ledger = monitor.ledger
        self._exposure = monitor.ledger.exposure
        self._principal_of = monitor.principal_of
        self._frames: Frames = monitor.frames
        self._by_credential = monitor.principals.by_credential
        self._context_passes = monitor.ledger.passes[names.INHERITED_CONTEXT]
        self._isolated = _isolated_cells(monitor, "http")
        self._isolated_messages = _isolated_cells(monitor, "websocket")
        # Identities are not used again: each object is kept by what is found under its identity.
        self._served: dict[tuple[int, int, str, int], Served] = {}
        """By endpoint, route, method and status; the first two by identity."""
        self._latest_served: dict[int, Served] = {}
        """By identity of the endpoint: the combination that it served last."""
        self._pages = frozenset(p for p in (monitor.settings.isolation_path, f"{monitor.settings.isolation_path}/all") if p)
        self._main_page = monitor.settings.metrics_path
        self._excluded, self._set_aside_prefixes = _patterns(monitor.settings.exclude)
        # What the excluded paths begin with, cut to the shortest: a look-up costs a third of `startswith`, and tells the same of
        # nearly every path.
        self._beginning_length = min(map(len, self._set_aside_prefixes), default=0)
        self._beginnings = frozenset(prefix[: self._beginning_length] for prefix in self._set_aside_prefixes)
        self._set_aside = self._pages | self._excluded | {self._main_page}
        registry = monitor.registry
        self._accepted = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="accepted")
        self._refused = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="refused")
        self._broken = registry.counter(names.WEBSOCKET_CONNECTIONS, outcome="error")
        self._received = registry.counter(names.WEBSOCKET_MESSAGES, direction="received")
        self._sent = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        monitor = self.monitor
        if (
            scope["type"] != "http"
            or (path := scope["path"]) in self._set_aside
            or (path[: self._beginning_length] in self._beginnings and path.startswith(self._set_aside_prefixes))
            or not monitor.is_on
        ):
            await self._aside(scope, receive, send)
            return
        # From here to the end: one request that is judged, written out in one piece. Split into the functions that it is
        # made of, it costs half as much again: between two requests the host pushes our code and objects out of the
        # caches of the processor, so each function, table and module looked at has to be fetched again (bench/).
        request: RequestContext | None = None
        exposure = self._exposure
        try:
            if not monitor.served:
                # A server without lifespan events: the first request tells which thread runs the event loop.
                monitor.serving()
            if monitor.extractor is None:
                # Principals.of_credential for the credentials that are known already.
                principal = None
                for name, value in scope["headers"]:
                    if name == b"authorization":
                        principal = self._by_credential.get(value)
                        break
                if principal is None:
                    principal = monitor.principal_of(scope)
            else:
                principal = monitor.principal_of(scope)
            earlier = CURRENT.get()
            request = RequestContext(principal, scope, None, copy_context())
            if earlier is not None:
                inherited_context.judge(request, earlier)
            # Deliberately never reset: who finds it there was started inside this request's context.
            CURRENT.set(request)
            scope[SCOPE_KEY] = request
            # Exposure.enter; no call in between, so that another thread's event loop cannot come in between either.
            who = exposure.nobody if principal is None else principal
            if not who.live:
                exposure.principals += 1
            who.live += 1
            if exposure.principals > 1:
                exposure.latest_overlap = request.serial
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            request = None
        if request is None:
            await self.app(scope, receive, send)
            return
        if monitor.identity is not None and principal is not None:
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
            try:
                # Exposure.leave; first, so that no failure of ours leaves a principal live for ever.
                if who.live > 1:
                    who.live -= 1
                elif who.live:
                    who.live = 0
                    exposure.principals -= 1
                if exposure.latest_overlap >= request.serial:
                    request.exposed = True
                if request.pending is not None:
                    inherited_context.settle(request, self._ledger)
                if request.checkouts:
                    monitor.request_ended(request)
                passes = self._context_passes
                passes.values[passes.index] += 1.0
                status = request.status
                if status >= 500 or request.failed:
                    monitor.request_failed(request)
                # What is left of the scope. Endpoints are found by identity: one may not be hashable, and its comparison would
                # be the host's code. Comparing four times costs less than a key of four parts.
                endpoint = scope.get("endpoint")
                served = self._latest_served.get(id(endpoint))
                if (
                    served is None
                    or served.endpoint is not endpoint
                    or served.status != status
                    or served.route is not scope.get("route")
                    or served.method != scope["method"]
                ):
                    served = self._find_served(scope, status)
                request.served = served
                request.scope = None
                if principal is None or request.violated or request.unverifiable:
                    # Authentication inside the application may have named the user by now.
                    self._ledger.finish(request, monitor.principal_of(scope) if principal is None else None)
                else:
                    # Ledger.finish for the requests that nothing was found on.
                    request.finished = True
                    exposure.latest_finished = request.serial
                    verdicts = self._isolated[request.arm][request.exposed]
                    verdicts.values[verdicts.index] += 1.0
                # HistogramCell.observe on the thread that owns the first lane.
                durations: HistogramCell = served.cell
                seconds = clock() - request.started
                values, at = durations.values, durations.index
                values[at + bisect_left(durations.bounds, seconds)] += 1.0
                values[at + durations.sum_offset] += seconds
            except Exception as error:
                self._ledger.internal_error("middleware", error)

    async def _aside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything but judged HTTP requests: our pages, WebSockets, lifespan, excluded paths, and all while switched off."""
        kind = scope["type"]
        if kind == "http":
            path = scope["path"]
            if path in self._pages:
                await self.monitor.endpoint(scope, receive, send)
            elif path == self._main_page:
                await self._host_page_or_ours(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        elif kind == "websocket" and self.monitor.is_on and not self._is_excluded(scope["path"]):
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def _is_excluded(self, path: str) -> bool:
        return path in self._excluded or path.startswith(self._set_aside_prefixes)

    def _find_served(self, scope: Scope, status: int) -> Served:
        """Return what answered a request that is not its endpoint's latest combination of route, method and status."""
        served = Served(scope, status)
        key = (id(served.endpoint), id(served.route), served.method, status)
        known = self._served.get(key)
        if known is None:
            served.cell = self.monitor.registry.histogram(
                names.HTTP_DURATION,
                http_route=self.monitor.route_template(scope),
                http_request_method=served.method if served.method in names.HTTP_METHODS else "_OTHER",
                http_response_status_code=str(status),
            )
            if len(self._served) >= SERVED_LIMIT:
                # An application that makes endpoints as it goes, or clients that invent methods: looked up each time.
                return served
            known = self._served[key] = served
        self._latest_served[id(known.endpoint)] = known
        return known

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
        unit: RequestContext | None = self._enter_handshake(scope, connection)
        frames, received, sent = self._frames, self._received, self._sent
        handshake = "refused"

        async def watching_receive() -> Message:
            nonlocal unit
            # One inbound message and what it starts is one request. It is judged when the application asks for the next
            # one, or, while a run of it is still going, when the next one comes.
            if unit is not None and not unit.finished and not unit.open_runs:
                self._leave_message(unit, connection)
            message = await receive()
            if message["type"] == "websocket.receive":
                received.values[received.index] += 1.0
                if unit is not None and not unit.finished:
                    self._leave_message(unit, connection)
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
            self._close(connection)
            if handshake != "accepted":
                (self._refused if handshake == "refused" else self._broken).inc()
            if unit is not None and not unit.finished:
                self._leave_message(unit, connection)

    def _open(self, scope: Scope) -> Connection:
        connection = Connection(self._principal_of(scope), scope)
        try:
            self.monitor.connections.add(connection)
            self._exposure.enter(connection.principal, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)
        return connection

    def _close(self, connection: Connection) -> None:
        connection.closed = True
        try:
            self.monitor.connections.discard(connection)
            self._exposure.leave(connection.principal, connection.serial)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def _enter_handshake(self, scope: Scope, connection: Connection) -> RequestContext | None:
        try:
            earlier = CURRENT.get()
            request = RequestContext(connection.principal, scope, connection, copy_context())
            if earlier is not None:
                inherited_context.judge(request, earlier)
            CURRENT.set(request)
            scope[SCOPE_KEY] = request
            self._note_overlap(request)
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _enter_message(self, scope: Scope, connection: Connection, previous: RequestContext | None) -> RequestContext | None:
        try:
            principal = connection.principal
            if principal is None:
                principal = self._named_late(scope, connection)
            request = RequestContext(principal, scope, connection, None if previous is None else previous.baseline)
            # Set in the task that receives, so that what it starts belongs to this message.
            CURRENT.set(request)
            self._note_overlap(request)
        except Exception as error:
            self._ledger.check_failed(names.INHERITED_CONTEXT, "middleware", error)
            return None
        return request

    def _note_overlap(self, request: RequestContext) -> None:
        """Exposure.enter without its counting: the open connection keeps its principal live for all its messages."""
        exposure = self._exposure
        if exposure.principals > 1:
            exposure.latest_overlap = request.serial

    def _named_late(self, scope: Scope, connection: Connection) -> Principal | None:
        """Ask again whose the connection is: authentication inside the application may have named the user by now."""
        principal = self._principal_of(scope)
        if principal is not None:
            exposure = self._exposure
            exposure.leave(None, connection.serial)
            exposure.enter(principal, connection.serial)
            connection.principal = principal
        return principal

    def _leave_message(self, request: RequestContext, connection: Connection) -> None:
        try:
            if request.pending is not None:
                inherited_context.settle(request, self._ledger)
            if request.checkouts:
                self.monitor.request_ended(request)
            if request.failed:
                self.monitor.request_failed(request)
            served = connection.served
            if served is None or served.endpoint is None:
                # Once for all messages of a connection, but not before a router has run.
                served = connection.served = Served(connection.scope)
            request.served = served
            request.scope = None
            exposure = self._exposure
            if exposure.latest_overlap >= request.serial:
                request.exposed = True
            if request.principal is None or request.violated or request.unverifiable:
                self._ledger.finish(request)
            else:
                # Ledger.finish for the messages that nothing was found on.
                request.finished = True
                exposure.latest_finished = request.serial
                cell = self._isolated_messages[request.arm][request.exposed]
                cell.values[cell.index] += 1.0
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    # --- lifespan ---------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Learn that this process serves: the thread of the event loop becomes the owner of the hot cells."""
        self.monitor.serving()
        await self.app(scope, receive, send)


def _counting_send(request: RequestContext, send: Send) -> Send:
    def counting_send(message: Message) -> Awaitable[None]:
        if not request.status:
            if message["type"] == "http.response.start":
                request.status = message["status"]
        elif not message.get("more_body", False):
            request.responded = True
        return send(message)

    return counting_send


def _isolated_cells(monitor: IsolationMonitor, transport: str) -> dict[str, tuple[Cell, Cell]]:
    """Return the cells of the verdict `isolated`: by arm, then by whether the request was exposed."""
    cells = monitor.ledger.verdict_cells
    return {arm: (cells[transport, "isolated", False, arm], cells[transport, "isolated", True, arm]) for arm in names.ARMS}


def _patterns(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the patterns that name one path, and the beginnings of the others, which end in `*`."""
    return frozenset(p for p in patterns if not p.endswith("*")), tuple(p[:-1] for p in patterns if p.endswith("*"))
