"""Declared factories: creation and reset are timed, and each instance is proven fresh.

A factory may be a function, an async function, a generator or async generator (as FastAPI dependencies are), or a class.
The wrapper keeps the signature, returns what the factory returned, and lets its exceptions pass unchanged.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.errors import SettingsError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.instance_reuse import InstanceReuse
    from isolation_monitor.telemetry.detectors.slow_creation import SlowCreation
    from isolation_monitor.telemetry.ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])
SCOPES = ("request", "user", "process")


class Factories:
    """Wraps declared factories; `scope` is how far an instance may be shared: `request`, `user` or `process`."""

    def __init__(self, ledger: Ledger, reuse: InstanceReuse, slow: SlowCreation, is_on: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._reuse = reuse
        self._slow = slow
        self._is_on = is_on
        self._undo: list[Callable[[], None]] = []

    def declare(self, component: str, scope: str, reset: str | None) -> Callable[[F], F]:
        """Return the decorator.

        Raises:
            SettingsError: `scope` is not one of request, user, process.
        """
        if scope not in SCOPES:
            raise SettingsError(f"factory {component!r} has scope={scope!r}: use one of {', '.join(SCOPES)}")
        # The series exist before the first instance does, so that the first slow or shared one is seen by increase().
        self._ledger.registry.histogram(names.INSTANCE_CREATE, component=component)
        self._ledger.registry.counter(names.INSTANCE_SHARED, component=component)

        def decorate(make: F) -> F:
            wrapped: F = self._wrap(make, component, scope, reset)
            return wrapped

        return decorate

    def uninstrument(self) -> None:
        """Take the wrappers off the declared classes; wrapped functions become pass-through with the monitor off."""
        while self._undo:
            self._undo.pop()()

    def _created(self, component: str, scope: str, reset: str | None, instance: object, duration_s: float) -> None:
        try:
            request = CURRENT.get()
            self._ledger.registry.histogram(names.INSTANCE_CREATE, component=component).observe(duration_s)
            self._slow.created(component, duration_s, request)
            if scope != "process" and self._reuse.received(component, scope, instance, request):
                self._ledger.registry.counter(names.INSTANCE_SHARED, component=component).inc()
            if reset is not None:
                self._time_reset(component, reset, type(instance))
        except Exception as error:
            self._ledger.check_failed(names.INSTANCE_REUSE, "factory", error)

    def _wrap(self, make: Any, component: str, scope: str, reset: str | None) -> Any:
        created, is_on, clock = self._created, self._is_on, time.perf_counter
        if inspect.isclass(make):
            return self._wrap_class(make, component, scope, reset)
        if inspect.iscoroutinefunction(make):

            @functools.wraps(make)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                instance = await make(*args, **kwargs)
                if is_on():
                    created(component, scope, reset, instance, clock() - start)
                return instance

        elif inspect.isasyncgenfunction(make):

            @functools.wraps(make)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                generator = make(*args, **kwargs)
                first = True
                try:
                    async for instance in generator:
                        if first and is_on():
                            created(component, scope, reset, instance, clock() - start)
                        first = False
                        # An exception thrown in at the yield must reach the host's own generator.
                        try:
                            yield instance
                        except BaseException as error:
                            try:
                                await generator.athrow(error)
                            except StopAsyncIteration:
                                return
                finally:
                    await generator.aclose()

        elif inspect.isgeneratorfunction(make):

            @functools.wraps(make)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                generator = make(*args, **kwargs)
                try:
                    instance = next(generator)
                except StopIteration as stop:
                    return stop.value
                if is_on():
                    created(component, scope, reset, instance, clock() - start)

                def rest() -> Any:
                    try:
                        yield instance
                    except GeneratorExit:
                        generator.close()
                        raise
                    except BaseException as error:
                        try:
                            generator.throw(error)
                        except StopIteration as stop:
                            return stop.value
                    return (yield from generator)

                return (yield from rest())

        else:

            @functools.wraps(make)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                instance = make(*args, **kwargs)
                if is_on():
                    created(component, scope, reset, instance, clock() - start)
                return instance

        return wrapped

    def _wrap_class(self, cls: type, component: str, scope: str, reset: str | None) -> type:
        """Wrap `__init__` in place: the class stays itself, and a singleton made by `__new__` runs through here again."""
        # Through vars and setattr: the class keeps its identity, only its initialiser is timed.
        original: Callable[..., None] = cls.__dict__.get("__init__") or getattr(cls, "__init__")  # noqa: B009
        own = "__init__" in vars(cls)

        @functools.wraps(original)
        def __init__(instance: Any, *args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            original(instance, *args, **kwargs)
            # A subclass's instances are the subclass's own declaration to make.
            if type(instance) is cls and self._is_on():
                self._created(component, scope, reset, instance, time.perf_counter() - start)

        setattr(cls, "__init__", __init__)  # noqa: B010

        def undo() -> None:
            if own:
                setattr(cls, "__init__", original)  # noqa: B010
            else:
                delattr(cls, "__init__")

        self._undo.append(undo)
        return cls

    def _time_reset(self, component: str, reset: str, cls: type) -> None:
        """Time the class's reset method, found in the class itself and never by attribute access on an instance."""
        original = vars(cls).get(reset)
        if not inspect.isfunction(original) or getattr(original, "__isolation_monitor__", False):
            return
        histogram = self._ledger.registry.histogram(names.INSTANCE_RESET, component=component)
        is_on, clock = self._is_on, time.perf_counter
        wrapped: Any
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                try:
                    return await original(*args, **kwargs)
                finally:
                    if is_on():
                        histogram.observe(clock() - start)

            wrapped = timed_async
        else:

            @functools.wraps(original)
            def timed(*args: Any, **kwargs: Any) -> Any:
                start = clock()
                try:
                    return original(*args, **kwargs)
                finally:
                    if is_on():
                        histogram.observe(clock() - start)

            wrapped = timed
        wrapped.__isolation_monitor__ = True
        setattr(cls, reset, wrapped)
        self._undo.append(lambda: setattr(cls, reset, original))
