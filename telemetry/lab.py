"""The lab: synthetic principals and requests, on which detectors are proven to work while the service runs.

Nothing of the host is used: no pool, no socket, no application code. What detectors report here is `synthetic`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from isolation_monitor.telemetry.context import CURRENT, RequestContext

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Principals

T = TypeVar("T")


class Plantable(Protocol):
    """A detector that can be proven: `plant` causes one violation of its kind between the lab's two principals.

    It goes through the detector's own entry points, the ones that the integrations call, with synthetic requests, and
    leaves nothing behind. Whether the violation was reported is judged by the caller.
    """

    def plant(self, lab: Lab) -> None: ...


class Lab:
    """Makes requests of two synthetic principals; each lab has its own two."""

    def __init__(self, principals: Principals) -> None:
        self.name = secrets.token_hex(8)
        """Different for each lab: to make values that nobody else has."""
        self.victim = principals.named(f"isolation-monitor-planted-{self.name}-a")
        self.offender = principals.named(f"isolation-monitor-planted-{self.name}-b")
        self.victim.is_synthetic = self.offender.is_synthetic = True

    def request(self, *, of_offender: bool = False) -> RequestContext:
        """Return a new request of the victim, or of the offender, that is running now."""
        scope = {"type": "http", "method": "GET", "path": "/isolation-monitor/planted", "headers": [], "query_string": b""}
        return RequestContext(self.offender if of_offender else self.victim, scope, None, None)

    def inside(self, request: RequestContext, act: Callable[..., T], *args: Any) -> T:
        """Call `act` as the code of `request` would: in a context of its own in which the request is the current one."""

        def call() -> T:
            CURRENT.set(request)
            return act(*args)

        return copy_context().run(call)
