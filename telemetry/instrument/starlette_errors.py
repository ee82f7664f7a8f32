"""Starlette's and FastAPI's exception handlers: what a request failed with, before a handler makes an answer of it.

Unhandled exceptions reach the middleware by themselves. Handled ones end here, and only whether two requests failed with
the same exception, or with one caused by the other's, is of interest. An `HTTPException` is an answer, not a failure: a
service may keep one and raise it for everybody. Its cause is what is looked at.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.containment import Containment
    from isolation_monitor.telemetry.detection import Detection

LIBRARY: Final = "starlette._exception_handler"
FUNCTION: Final = "_lookup_exception_handler"


def install(detection: Detection) -> Installed:
    """Patch the function that looks for the handler of an exception: it is called once for each."""
    module, version = sys.modules[LIBRARY], metadata.version("starlette")
    if FUNCTION not in vars(module) or version.split(".")[0] not in ("0", "1"):
        patch = Patch("starlette", version, FUNCTION, True, False, "not known in this version: not patched")
        return Installed([patch], lambda: None)
    undo = patches.replace(module, FUNCTION, lambda original: _lookup(original, detection))
    return Installed([Patch("starlette", version, FUNCTION, reversible=True, active=True)], undo)


def _lookup(original: Callable[..., Any], detection: Detection) -> Callable[..., Any]:
    containment, switch = detection.containment, detection.starvation.switch

    def lookup(*arguments: Any, **named: Any) -> Any:
        if switch.is_on:
            _note(containment, arguments[-1] if arguments else named.get("exc"))
        return original(*arguments, **named)

    return lookup


def _note(containment: Containment, error: object) -> None:
    request = CURRENT.get()
    if request is not None and isinstance(error, BaseException):
        containment.raised(request, error, is_answer=any(cls.__name__ == "HTTPException" for cls in type(error).__mro__))
