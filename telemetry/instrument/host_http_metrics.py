"""Whether the application measures its requests under our metric's name already: then ours would double every count.

Only what ends on a Prometheus page of this process counts: an instrumentation that sends its numbers elsewhere doubles
nothing here. Looks at class names and instance dictionaries alone; no code of the application or its libraries runs.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import REGISTRY

from isolation_monitor.telemetry import names

_LAYERS: Final = 100
"""Layers of middleware that are looked through."""


def found(app: Any) -> str | None:
    """Return what exposes `http_server_request_duration_seconds` for `app`, in words; None when nothing does.

    `app` is the instrumented application after its middleware was built, or whatever stands around it.
    """
    if names.HTTP_DURATION.name in _entries(REGISTRY, "_names_to_collectors"):
        return "a metric in prometheus_client's registry"
    if any(_is_of(collector, "opentelemetry.exporter.prometheus") for collector in _entries(REGISTRY, "_collector_to_names")):
        for layer in _layers(app):
            # The other histogram is of the old conventions, in milliseconds and under another name.
            if _is_of(layer, "opentelemetry.instrumentation.asgi") and _own(layer, "duration_histogram_new") is not None:
                return "OpenTelemetry's instrumentation"
    return None


def _entries(registry: object, table: str) -> tuple[Any, ...]:
    entries = _own(registry, table)
    # A copy: the application may be registering a metric on another thread.
    return tuple(entries.copy()) if isinstance(entries, dict) else ()


def _layers(app: Any) -> list[Any]:
    """Return the middleware of an application, outermost first, then what is inside."""
    layers: list[Any] = []
    layer = _own(app, "middleware_stack") or app
    while layer is not None and len(layers) < _LAYERS:
        layers.append(layer)
        layer = _own(layer, "app")
    return layers


def _own(thing: Any, attribute: str) -> Any:
    try:
        return object.__getattribute__(thing, "__dict__").get(attribute)
    except AttributeError:
        return None


def _is_of(thing: Any, package: str) -> bool:
    # Of the class itself, which for an instance of a host's class may be anything but is never its code.
    return any(str(kind.__dict__.get("__module__", "")).startswith(package) for kind in type.__getattribute__(type(thing), "__mro__"))
