"""Starlette and FastAPI: wrap the application in place, and name the route of a request.

Neither is imported: an application is recognised by what its class hierarchy is called, and its class's own methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.principals import Scope

SUPPORTED_MAJOR = (0, 1)


@dataclass(frozen=True, slots=True)
class InPlace:
    """How an application was instrumented in place, and how to undo it."""

    patch: Patch
    undo: Callable[[], None]


def instrument(app: Any, wrap: Callable[[Any], Any]) -> InPlace | None:
    """Wrap a Starlette application's whole middleware stack; None when `app` is no Starlette application of a known version.

    The instance's `build_middleware_stack` is replaced, so that the monitor stands outside the error middleware and sees
    the answers to unhandled exceptions; middleware added later still goes inside.
    """
    if not _is_starlette(app) or _major("starlette") not in SUPPORTED_MAJOR:
        return None
    original = app.build_middleware_stack
    # Of another instrumentation that has done the same before, if any.
    before = vars(app).get("build_middleware_stack")
    undone = False

    def build_middleware_stack() -> Any:
        stack = original()
        return stack if undone else wrap(stack)

    app.build_middleware_stack = build_middleware_stack
    if getattr(app, "middleware_stack", None) is not None:
        # Already built, by an earlier request or a lifespan: wrap what stands.
        app.middleware_stack = wrap(app.middleware_stack)

    def undo() -> None:
        nonlocal undone
        undone = True
        if vars(app).get("build_middleware_stack") is not build_middleware_stack:
            # Somebody has wrapped ours, which only hands through from here on, or has put back what was there before.
            return
        if before is None:
            del app.build_middleware_stack
        else:
            app.build_middleware_stack = before

    return InPlace(Patch("starlette", metadata.version("starlette"), "app.build_middleware_stack", reversible=True, active=True), undo)


def route_template(scope: Scope) -> str:
    """Return the template of the route that served a request, `unmatched` where none did.

    `scope["route"]` is set by FastAPI and by Starlette of recent years; older ones set only the endpoint, whose route is
    looked up once per endpoint among the application's routes (the result is cached by the caller). There, an endpoint that
    serves several routes goes under the first of them.
    """
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    endpoint = scope.get("endpoint")
    if endpoint is not None:
        for route in _all_routes(getattr(scope.get("app"), "routes", None) or (), ""):
            if route[1] is endpoint:
                return route[0]
    return names.UNMATCHED


def _all_routes(routes: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for route in routes:
        path = prefix + str(getattr(route, "path", ""))
        found.append((path, getattr(route, "endpoint", None)))
        inner = getattr(route, "routes", None)
        if inner:
            found += _all_routes(inner, path)
    return found


def _is_starlette(app: Any) -> bool:
    return any(c.__module__ == "starlette.applications" and c.__qualname__ == "Starlette" for c in type(app).__mro__)


def _major(distribution: str) -> int | None:
    try:
        return int(metadata.version(distribution).split(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None
