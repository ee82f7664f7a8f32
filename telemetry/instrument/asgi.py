"""The ASGI middleware: one object per application, around everything else.

Pure ASGI, so it works with any framework. Its own failures are counted and swallowed; the host's answers, exceptions and
timing pass through unchanged. Request path rules (measured, see docs/decisions): no prometheus_client, no lock, no uuid,
no second route match, no `current_task()`; `send` is a plain function that returns the inner awaitable.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, SCOPE_KEY, RequestContext, Served, clock
from isolation_monitor.telemetry.detectors import inherited_context
from isolation_monitor.telemetry.instrument import host_http_metrics
from isolation_monitor.telemetry.instrument.bodies import Reading
from isolation_monitor.telemetry.instrument.steps import stepwise
from isolation_monitor.telemetry.instrument.websocket import Sockets
from isolation_monitor.telemetry.metrics.cells import unexposed_histogram

if TYPE_CHECKING:
    from isolation_monitor.telemetry.instrument.bodies import ASGIApp, Message, Receive, Scope, Send
    from isolation_monitor.telemetry.metrics.cells import HistogramCell
    from isolation_monitor.telemetry.monitor import IsolationMonitor

LAST_SYNC_S: Final = 1.0
"""How long the end of the application waits for the disk to have what was found last."""
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
        self._by_credential = monitor.principals.by_credential
        self._by_id = monitor.principals.by_id
        self._context_passes = monitor.ledger.passes[names.INHERITED_CONTEXT]
        self._isolated = monitor.ledger.isolated_cells("http")
        # Identities are not used again: each object is kept by what is found under its identity.
        self._served: dict[tuple[int, int, str, int], Served] = {}
        """By endpoint, route, method and status; the first two by identity."""
        self._measures = False
        self._unexposed: HistogramCell | None = None
        """Takes the durations of all requests while they are measured by somebody else."""
        self._latest_served: dict[int, Served] = {}
        """By identity of the endpoint: the combination that it served last."""
        self._pages = frozenset(p for p in (monitor.settings.isolation_path, f"{monitor.settings.isolation_path}/all") if p)
        self._main_page = monitor.settings.metrics_path
        self._excluded, self._set_aside_prefixes = _patterns(monitor.settings.exclude)
        # What the excluded paths begin with, cut to the shortest: a look-up costs a third of `startswith`, and tells the same of
        # nearly every path.
        self._beginning_length = min(map(len, self._set_aside_prefixes), default=0)
        self._beginnings = frozenset(prefix[: self._beginning_length] for prefix in self._set_aside_prefixes)
        self._health = monitor.lifecycle.endpoint
        self._set_aside = self._pages | self._excluded | {self._main_page, *self._health.paths}
        self._sockets = Sockets(monitor)
        self._looks = monitor.detection.looks
        self._baseline: Context | None = None
        """The context in which the latest request began that was watched and inherited nothing."""
        self._overwrites = monitor.detection.shared_state.overwrites
        self._answering = monitor.detection.answering
        self._reads_bodies = monitor.settings.body_limit_bytes > 0
        self._content = monitor.detection.foreign_content

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
                # IsolationMonitor.principal_of for the users that are known already.
                try:
                    user = monitor.extractor(scope)
                    principal = self._by_id.get(user) if user else None
                    if principal is None and user:
                        principal = monitor.principals.named(user)
                except Exception as error:
                    principal = None
                    self._ledger.internal_error("principal", error)
            earlier = CURRENT.get()
            looks = self._looks
            if (watched := looks.left > 0) or earlier is not None or self._baseline is None:
                baseline = copy_context()
                if earlier is None:
                    self._baseline = baseline
            else:
                # Servers start all requests from one context: a copy for each would be what this request costs most.
                baseline = self._baseline
            request = RequestContext(principal, scope, None, baseline)
            if earlier is not None:
                inherited_context.judge(request, earlier)
            # Deliberately never reset: who finds it there was started inside this request's context.
            CURRENT.set(request)
            scope[SCOPE_KEY] = request
            if watched:
                looks.left -= 1
                request.is_watched = True
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
        if self._reads_bodies and (principal is not None or monitor.extractor is not None):
            receive, send = self._reading(request, scope, receive, send)
        elif watched:
            send = self._watching_send(request, send)
        else:
            send = _counting_send(request, send)
        try:
            if watched and self._overwrites.slots:
                await stepwise(self.app(scope, receive, send), request, self._overwrites, monitor.detection.stepped)
            else:
                await self.app(scope, receive, send)
        except BaseException as error:
            # Cancelled by a client that left is no failure of the server; everything else that escapes is.
            request.failed = isinstance(error, Exception)
            if not request.status:
                request.status = 500
            monitor.detection.containment.raised(request, error)
            raise
        finally:
            try:
                if principal is None and request.principal is not None:
                    # Named when it began to answer (`bodies.py`), and entered under that name.
                    who = principal = request.principal
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
                if request.checkouts or request.fetched is not None:
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
                if watched:
                    monitor.detection.ended(request)
                durations: HistogramCell = served.cell
                seconds = clock() - request.started
                values, at = durations.values, durations.index
                values[at + bisect_left(durations.bounds, seconds)] += 1.0
                values[at + durations.sum_offset] += seconds
                if request.arms is not None:
                    self._ledger.rollouts.ended(request, status >= 500 or request.failed, seconds)
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
            elif path in self._health.paths:
                await self._health.beside(self.app, scope, receive, send)
            else:
                await self.app(scope, receive, send)
        elif kind == "websocket" and self.monitor.is_on and not self._is_excluded(scope["path"]):
            await self._sockets.handle(self.app, scope, receive, send)
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
            served.cell = self._durations(scope, served, status)
            if len(self._served) >= SERVED_LIMIT:
                # An application that makes endpoints as it goes, or clients that invent methods: looked up each time.
                return served
            known = self._served[key] = served
        self._latest_served[id(known.endpoint)] = known
        return known

    def _durations(self, scope: Scope, served: Served, status: int) -> HistogramCell:
        """Return where durations are counted; where the application's own page shows them already, into nothing."""
        if self._unexposed is None and not self._measures:
            choice = self.monitor.settings.http_metrics
            self._measures = choice == "on" or (choice == "auto" and host_http_metrics.found(self.monitor.app) is None)
            # Not found out before the first request: middleware is built until then.
            self._unexposed = None if self._measures else unexposed_histogram(names.HTTP_BUCKETS)
        if self._unexposed is not None:
            return self._unexposed
        return self.monitor.registry.histogram(
            names.HTTP_DURATION,
            http_route=self.monitor.route_template(scope),
            http_request_method=served.method if served.method in names.HTTP_METHODS else "_OTHER",
            http_response_status_code=str(status),
        )

    def _reading(self, request: RequestContext, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Return a receive and a send that read what passes; where that cannot be set up, the request is not evaluated."""
        try:
            self._content.entered(request, scope)
            reading = Reading(self.monitor, request, scope, receive, send)
        except Exception as error:
            request.unverifiable = True
            self._ledger.check_failed(names.FOREIGN_CONTENT, "middleware", error)
            return receive, _counting_send(request, send)
        return (reading.receive if _is_listened_to(scope) else receive), reading.send

    def _watching_send(self, request: RequestContext, send: Send) -> Send:
        """As `_counting_send`, for a request that detectors look at closely when its answer starts."""
        answering = self._answering
        counting_send = _counting_send(request, send)

        def watching_send(message: Message) -> Awaitable[None]:
            if not request.status and message["type"] == "http.response.start":
                answering(request)
            return counting_send(message)

        return watching_send

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

    # --- lifespan ---------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Learn that this process serves: the thread of the event loop becomes the owner of the hot cells."""
        try:
            self.monitor.serving()
        except Exception as error:
            # No thread is to be had, for one. The first request tries again.
            self._ledger.internal_error("middleware", error)

        async def send_started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self.monitor.started()
                except Exception as error:
                    self._ledger.internal_error("middleware", error)
            await send(message)

        try:
            await self.app(scope, receive, send_started)
        finally:
            try:
                self.monitor.worker_deaths.ended()
            except Exception as error:
                self._ledger.internal_error("middleware", error)
            await self._sync_last()

    async def _sync_last(self) -> None:
        """The server may end by the signal that stopped it, which runs nothing of ours: what was found last goes to the disk now."""
        if asyncio._get_running_loop() is None:
            # Trio's, of hypercorn.
            self.monitor.outbox.sync(LAST_SYNC_S)
            return
        try:
            await asyncio.wait_for(asyncio.to_thread(self.monitor.outbox.sync, LAST_SYNC_S), LAST_SYNC_S)
        except TimeoutError:
            return
        except Exception as error:
            self._ledger.internal_error("middleware", error)


def _counting_send(request: RequestContext, send: Send) -> Send:
    def counting_send(message: Message) -> Awaitable[None]:
        if not request.status:
            if message["type"] == "http.response.start":
                request.status = message["status"]
        elif not message.get("more_body", False):
            request.responded = True
        return send(message)

    return counting_send


def _is_listened_to(scope: Scope) -> bool:
    """Return whether what the client sends is read: a body, or that it leaves a stream of events."""
    return any(
        (name == b"content-length" and value != b"0")
        or name == b"transfer-encoding"
        or (name == b"accept" and value.startswith(b"text/event-stream"))
        for name, value in scope["headers"]
    ) or scope.get("http_version") in ("2", "3")


def _patterns(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the patterns that name one path, and the beginnings of the others, which end in `*`."""
    return frozenset(p for p in patterns if not p.endswith("*")), tuple(p[:-1] for p in patterns if p.endswith("*"))
