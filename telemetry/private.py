"""Private sources: functions whose results the application declares to be one principal's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.errors import SettingsError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.foreign_content import ForeignContent
    from isolation_monitor.telemetry.principals import Principals
    from isolation_monitor.telemetry.violations import Reporter

F = TypeVar("F", bound=Callable[..., Any])


def declare(function: F, by: Callable[..., str] | None, content: ForeignContent, principals: Principals, reporter: Reporter) -> F:
    """Return the function, its results declared private before they are handed on unchanged.

    Args:
        by: gives the owner's id from the function's own arguments; without it, the owner is the current request's principal.

    Raises:
        SettingsError: `function` is not callable, or is a generator.
    """
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SettingsError(f"private() got {function!r}: declare a function or async function that returns the private value")

    def told(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            request = CURRENT.get()
            if by is not None:
                content.declare(result, principals.named(str(by(*args, **kwargs))), None)
            elif request is not None and request.principal is not None:
                content.declare(result, request.principal, request)
        except Exception as error:
            reporter.check_failed(names.FOREIGN_CONTENT, "detector", error)
        return result

    wrapped: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return told(await function(*args, **kwargs), args, kwargs)

    else:

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return told(function(*args, **kwargs), args, kwargs)

    return wrapped  # type: ignore[no-any-return]  # the same signature, by functools.wraps
