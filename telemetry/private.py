"""Private sources: functions whose results the application declares to be the current principal's own."""

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
    from isolation_monitor.telemetry.violations import Reporter

F = TypeVar("F", bound=Callable[..., Any])


def declare(function: F, content: ForeignContent, reporter: Reporter) -> F:
    """Return the function, its results declared private before they are handed on unchanged.

    Raises:
        SettingsError: `function` is not callable, or is a generator.
    """
    if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SettingsError(f"private() got {function!r}: declare a function or async function that returns the private value")

    def told(result: Any) -> Any:
        try:
            request = CURRENT.get()
            if request is not None:
                content.declare(result, request)
        except Exception as error:
            reporter.check_failed(names.FOREIGN_CONTENT, "detector", error)
        return result

    wrapped: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return told(await function(*args, **kwargs))

    else:

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return told(function(*args, **kwargs))

    return wrapped  # type: ignore[no-any-return]  # the same signature, by functools.wraps
