"""The request being judged: one object per HTTP request or WebSocket message, found through a ContextVar and in `scope`.

The principal is taken at entry and set, never inherited. The variable is deliberately not reset at exit: what a later
request finds in it is the proof that contexts leak between requests (`detectors/inherited_context.py`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks

if TYPE_CHECKING:
    from isolation_monitor.telemetry.flags.arms import Arms
    from isolation_monitor.telemetry.metrics.cells import HistogramCell
    from isolation_monitor.telemetry.principals import Principal, Scope
    from isolation_monitor.telemetry.stacks import RawStack
    from isolation_monitor.telemetry.violations import Violation

SCOPE_KEY: Final = "isolation_monitor.request"

IDLE_AFTER_S: Final = 60.0
"""A connection is idle when nothing went either way for so long."""
DEAD_AFTER_S: Final = 60.0
KEPT_OF_SCOPE: Final = ("type", "path", "root_path", "query_string", "headers", "path_params", "endpoint", "route")
"""What late frames and remembered runs are judged by, of the scope of a connection that is over."""

next_serial: Callable[[], int] = itertools.count(1).__next__
clock = time.perf_counter


class Connection:
    """One WebSocket: bound at its handshake to a principal and to a serial number that is never used again."""

    __slots__ = (
        "answers", "asked", "closed", "closed_by", "heard_at", "is_accepted", "is_measured", "opened_at", "outcome", "principal", "said",
        "scope", "sending", "sent_at", "serial", "served", "task",
    )  # fmt: skip

    def __init__(self, principal: Principal | None, scope: Scope) -> None:
        self.serial = next_serial()
        self.principal = principal
        self.scope = scope
        self.served: Served | None = None
        self.said: Any = None
        """What its messages said so far, for the content detector."""
        self.closed = False
        self.is_measured = False
        """Whether the ladder of delivery counts its events; else they are delivered when the server took them."""
        self.task: Callable[[], object] | None = None
        """Weak reference to the task that handles it."""
        self.opened_at = clock()
        self.is_accepted = False
        self.outcome: str | None = None
        """What became of its handshake, one of `names.HANDSHAKE_OUTCOMES`; None until it is known."""
        self.closed_by: str | None = None
        self.heard_at = 0.0
        """When something came from its client last: a message, a pong, an acknowledgement; 0 before the first. As `opened_at`."""
        self.sent_at = 0.0
        """When the application sent something last."""
        self.sending: RequestContext | None = None
        """Whose event the frame is that is being sent: its run's request, else the message that is being served."""
        self.answers = False
        """Its client's pongs or acknowledgements are seen here, so that their absence says something."""
        self.asked = 0
        """How often it was asked anew whose it is, before a frame to nobody known."""

    def answered(self) -> None:
        """Note that the client's side answered by itself: a pong, an acknowledgement."""
        self.heard_at = clock()
        self.answers = True

    def let_go(self) -> None:
        """The connection is over: a run that is remembered must not hold its session, its state and the request of its handshake."""
        self.scope = {key: self.scope[key] for key in KEPT_OF_SCOPE if key in self.scope}
        self.sending = None

    def sending_arm(self) -> str:
        """Return the arm of the frame that is being sent."""
        return self.sending.arm if self.sending is not None else "none"

    def state(self, now: float) -> str:
        """Return `busy`, `idle`, or `dead`: it was sent something a minute ago or more and has not answered since, though it does so."""
        if self.answers and self.sent_at > self.heard_at and now - self.heard_at >= DEAD_AFTER_S:
            return "dead"
        return "idle" if now - max(self.opened_at, self.heard_at, self.sent_at) >= IDLE_AFTER_S else "busy"


class Served:
    """What answered a request, and the cell of its duration: what is left of the scope when the request is over.

    Kept for the next requests, so that the request path finds them with one look-up. `endpoint` and `route` are held, so
    that their identities are not used again.
    """

    __slots__ = ("cell", "endpoint", "method", "route", "status")

    def __init__(self, scope: Scope, status: int = 0, cell: HistogramCell | None = None) -> None:
        # Read after the response: the router sets these while handling the request.
        self.route: Any = scope.get("route")
        self.endpoint: Any = scope.get("endpoint")
        self.method: str = scope.get("method") or "WS"
        self.status = status
        self.cell: Any = cell
        """None for WebSocket messages, whose duration is nobody's."""


class RequestContext:
    """One request under judgement. `serial` rises with time within the process; `started` is `time.perf_counter()`.

    Slots, all set at once: reading a default from the class costs more, in CPython 3.11, than setting it.
    """

    __slots__ = (
        "arm",
        "arms",
        "baseline",
        "checkouts",
        "connection",
        "exposed",
        "failed",
        "fetched",
        "finished",
        "ingress",
        "is_watched",
        "open_runs",
        "pending",
        "principal",
        "responded",
        "scope",
        "serial",
        "served",
        "started",
        "status",
        "stream",
        "unverifiable",
        "violated",
        "violations",
        "worked_until",
    )

    def __init__(self, principal: Principal | None, scope: Scope, connection: Connection | None, baseline: Context | None) -> None:
        self.serial = next_serial()
        self.principal = principal
        self.scope: Scope | None = scope
        """The ASGI scope until the request is over, then None."""
        self.connection = connection
        self.baseline = baseline
        """Context at entry, or the one of the request it was inherited from: what was there before anybody's request."""
        self.status = 0
        self.stream: Any = None
        """The streaming answer that carries events of runs (`delivery/streamed.py`), once it has begun."""
        self.arm = "none"
        self.arms: Arms | None = None
        """What it was given of each rollout; None until it evaluates a flag."""
        self.exposed = False
        self.violated = False
        self.unverifiable = False
        """A required check could not run on this request: it is never counted as isolated."""
        self.failed = False
        self.responded = False
        """The last byte of the answer was handed to the server."""
        self.finished = False
        self.checkouts: dict[int, Any] | None = None
        """Database connections out for this request, by key; None until the first."""
        self.fetched: list[Any] | None = None
        """What its reads from stores returned (`provenance.Fetched`), by reference, until shortly after it is over."""
        self.is_watched = False
        """One of the requests that detectors look at closely, as many a second as `looks_per_second` allows."""
        self.ingress: Any = None
        """What it said of itself when it came in, for the content detector; None until somebody reads it."""
        self.open_runs = 0
        self.worked_until = 0.0
        """When the last of its runs ended, as `started`; 0 where none did."""
        self.pending: list[Any] | None = None
        """Findings that wait for the route to be known."""
        self.violations: list[Violation] | None = None
        self.served: Served | None = None
        """Set when the request is over; until then the scope tells."""
        self.started = clock()

    @property
    def transport(self) -> str:
        """`http`, or `websocket` for the handshake and each message of a connection."""
        return "http" if self.connection is None else "websocket"

    def is_of_another(self, other: RequestContext) -> bool:
        """Return whether two requests are known to run for different principals."""
        return self.principal is not None and other.principal is not None and self.principal.id != other.principal.id

    def seal(self) -> None:
        """Keep what evidence may need of the scope, and let the scope go: a finished request must not hold the host's objects."""
        if self.scope is not None:
            self.served = Served(self.scope)
            self.scope = None

    @property
    def route(self) -> str:
        """`METHOD /template` when the router has run, else `METHOD unmatched`. Never the raw path: ids live in it."""
        served = self._served
        template = getattr(served.route, "path", None) if served is not None else None
        method = served.method if served is not None else "WS"
        return f"{method} {template if isinstance(template, str) else names.UNMATCHED}"

    @property
    def endpoint_stack(self) -> RawStack:
        """Where the endpoint that serves this request is defined; empty before routing."""
        served = self._served
        return stacks.of_function(served.endpoint if served is not None else None)

    @property
    def _served(self) -> Served | None:
        scope = self.scope
        return self.served if scope is None else Served(scope)


CURRENT: ContextVar[RequestContext | None] = ContextVar("isolation_monitor_request", default=None)


class _Nobody:
    """Stands for the requests without a principal, which are one side of an overlap like any principal's."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = 0


class Exposure:
    """Tells which requests overlapped a request of another principal, in a few integer operations each.

    A request is exposed when, between its entry and its end, a request of another principal was live in this process or
    a connection of another principal was open: an event could have gone there. That is so exactly when the latest moment
    at which somebody entered while, himself included, more than one principal was live, is not before its own entry.
    Moments are serial numbers. Written by one event loop; a second loop in the same process may miss an overlap.
    """

    __slots__ = ("latest_finished", "latest_overlap", "nobody", "principals")

    def __init__(self) -> None:
        self.nobody = _Nobody()
        self.principals = 0
        """Principals with something live now."""
        self.latest_overlap = 0
        self.latest_finished = 0
        """The request judged last."""

    def enter(self, principal: Principal | None, serial: int) -> None:
        """Count something of a principal as live until `leave`."""
        who = self.nobody if principal is None else principal
        if not who.live:
            self.principals += 1
        who.live += 1
        if self.principals > 1:
            self.latest_overlap = serial

    def named(self, principal: Principal, serial: int) -> None:
        """What was live as nobody's has turned out to be a principal's."""
        self.leave(None, serial)
        self.enter(principal, serial)

    def leave(self, principal: Principal | None, serial: int) -> bool:
        """End what `enter` began with the same two; return whether it was exposed."""
        who = self.nobody if principal is None else principal
        if who.live > 1:
            who.live -= 1
        elif who.live:
            who.live = 0
            self.principals -= 1
        return self.latest_overlap >= serial
