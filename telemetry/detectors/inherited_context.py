"""Inherited context: a request that starts inside the context of an earlier request of another principal.

Sees: the monitor's own ContextVar, left set on purpose, found at ASGI entry; then which *host* variables the earlier
request set that the new request inherits. A violation is reported only when at least one host variable crossed and
still stands there when the answer starts: a context that carries nothing of the application cannot harm anyone, nor can
a variable that the request set for itself.
Cannot see: a context that leaks inside a request (a long-lived worker task started by one request and used by others);
a variable that holds one mutable object for everybody.
Cost: one `ContextVar.get`, `copy_context` and `ContextVar.set` a request (about 0.2 us). Precision: near 1.
Why it happens: asyncio keeps the context in which a reader callback was registered (python/cpython #140947), servers
start pipelined requests inside the finishing one, and pools of worker tasks never leave their first context.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.provenance import texts_in
from isolation_monitor.telemetry.violations import Reporter, Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.lab import Lab

_PLANTED: Final[ContextVar[str]] = ContextVar("isolation_monitor_planted")
_MISSING: Final = object()
_PLAIN: Final = (str, bytes, int, float, bool, type(None))
"""Exact types whose comparison runs no code of the host."""


def judge(request: RequestContext, earlier: RequestContext) -> None:
    """Check a request that found an earlier one in its context; `request.baseline` is the context as it entered."""
    context, request.baseline = request.baseline, earlier.baseline
    if context is not None and request.is_of_another(earlier) and (earlier.finished or earlier.responded):
        crossed = inherited_variables(context, earlier.baseline)
        if crossed:
            # Sides are described once the route is known; the values must be judged now, before the handler runs.
            request.pending = [*(request.pending or ()), (earlier, crossed)]
            request.exposed = True


class Proof:
    """Plants a request that begins in the context of an earlier one of another principal."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def plant(self, lab: Lab) -> None:
        earlier, request = lab.request(), lab.request(of_offender=True)
        earlier.baseline = copy_context()
        earlier.finished = True

        def begin() -> None:
            _PLANTED.set(lab.victim.id)
            request.baseline = copy_context()
            judge(request, earlier)
            settle(request, self._reporter)

        copy_context().run(begin)


def inherited_variables(context: Context, baseline: Context | None) -> list[tuple[ContextVar[Any], object]]:
    """Return the host's variables that differ between a context and the baseline, with their values; ours are left out.

    Values are compared by identity, and by value only where both are of a plain built-in type: no code of the host runs.
    """
    if baseline is None:
        return []
    found = []
    for variable, value in context.items():
        if variable is CURRENT:
            continue
        before = baseline.get(variable, _MISSING)
        if before is value or (type(before) is type(value) and type(value) in _PLAIN and before == value):
            continue
        if _is_infrastructure(variable, value):
            continue
        found.append((variable, value))
    return found


def _is_infrastructure(variable: ContextVar[Any], value: object) -> bool:
    # These say which event loop library runs; every request of a process has the same answer.
    return variable.name in ("current_async_library_cvar", "_current_async_library") and type(value) is str


def _is_own(value: object, request: RequestContext) -> bool:
    """Whether an inherited value names the request's own principal: by a detour over another's context it came home."""
    return request.principal is not None and request.principal.id in texts_in(value)


def settle(request: RequestContext, reporter: Reporter) -> None:
    """Report what waited for the route. Called at the answer's start and at the request's end."""
    waiting, request.pending = request.pending, None
    for earlier, inherited in waiting or ():
        # A request that has set a variable of its own by now, whatever stood there before, was not harmed by it.
        variables = [variable.name for variable, value in inherited if variable.get(_MISSING) is value and not _is_own(value, request)]
        if not variables:
            continue
        reporter.report(
            Violation(
                kind=names.INHERITED_CONTEXT,
                grade="reachable",
                summary=f"{request.route} started inside the context of another principal's earlier {earlier.route}; "
                f"inherited: {', '.join(variables[:5])}",
                resource=Resource("context_variable", variables[0], {"variables": variables[:20]}),
                victim=side_of(earlier),
                offender=side_of(request),
                arm=request.arm,
            ),
            request,
            earlier,
        )
