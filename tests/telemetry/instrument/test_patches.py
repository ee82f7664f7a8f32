"""Replacements of a library's attributes are taken off again, in whichever order their monitors go."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from asgiref.compatibility import guarantee_single_callable
from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware

from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import INTEGRATIONS


class Base:
    def inherited(self) -> list[str]:
        return ["inherited"]


class Library(Base):
    def own(self) -> list[str]:
        return ["own"]


def layer(name: str) -> Callable[[Any], Any]:
    return lambda original: lambda self: [name, *original(self)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("attribute", ["own", "inherited"])
def test_in_any_order_the_last_undo_leaves_what_was_there(attribute: str, order: tuple[int, ...]) -> None:
    before = dict(vars(Library))
    undo = [patches.replace(Library, attribute, layer(name)) for name in "abc"]
    assert getattr(Library(), attribute)() == ["c", "b", "a", attribute]

    for one in order:
        undo[one]()

    assert dict(vars(Library)) == before
    assert not patches.in_place()


async def test_a_plain_function_for_a_coroutine_function_passes_for_one() -> None:
    """OpenTelemetry's middleware asks asgiref, which asks so, and would break every request of the host."""

    class Application:
        async def __call__(self, scope: str, receive: str, send: str) -> list[str]:
            return [scope, receive, send]

    undo = []
    for _ in range(2):  # two monitors
        undo.append(patches.replace(Application, "__call__", lambda original: lambda self, *arguments: original(self, *arguments)))
        wrapped = guarantee_single_callable(Application())
        assert await wrapped("a", "b", "c") == ["a", "b", "c"]

    for one in undo:
        one()


def test_what_somebody_else_wrapped_stays_below_theirs_and_goes_with_it() -> None:
    before = dict(vars(Library))
    first, second = (patches.replace(Library, "own", layer(name)) for name in "ab")
    ours = vars(Library)["own"]
    Library.own = layer("theirs")(ours)  # type: ignore[method-assign]

    second()
    assert Library().own() == ["theirs", "b", "a", "own"]
    assert patches.in_place() == ["Library.own"]

    Library.own = ours  # type: ignore[method-assign]
    first()
    assert dict(vars(Library)) == before
    assert not patches.in_place()


def test_an_undo_is_done_once() -> None:
    undo = patches.replace(Library, "own", layer("a"))
    undo()
    again = patches.replace(Library, "own", layer("b"))

    undo()

    assert Library().own() == ["b", "own"]
    again()


@pytest.mark.parametrize("order", ["theirs first", "ours first"])
def test_an_application_that_another_instrumentation_has_wrapped_stays_wrapped_by_it(monitor: Any, order: str) -> None:
    """OpenTelemetry replaces the same method of an application; taking the monitor off must not take that off."""
    app, wrapped = FastAPI(), []

    def theirs() -> None:
        inner = app.build_middleware_stack
        app.build_middleware_stack = lambda: wrapped.append(True) or inner()  # type: ignore[method-assign,func-returns-value]

    steps = [theirs, lambda: monitor.instrument(app)]
    for step in steps if order == "theirs first" else reversed(steps):
        step()
    monitor.uninstrument()

    stack = app.build_middleware_stack()

    assert wrapped == [True]
    assert type(stack) is ServerErrorMiddleware


def test_an_application_whose_own_stack_was_put_back_by_somebody_is_left_so(monitor: Any) -> None:
    app = FastAPI()
    own = app.build_middleware_stack
    monitor.instrument(app)
    app.build_middleware_stack = own  # type: ignore[method-assign]  # as OpenTelemetry's uninstrument_app does

    monitor.uninstrument()

    assert type(app.build_middleware_stack()) is ServerErrorMiddleware
    assert not any(patch.active for patch in monitor.patches)


async def test_one_hook_that_does_not_come_off_keeps_no_other_on(monitor: Any, samples: Any) -> None:
    app = FastAPI()
    monitor.instrument(app)

    def fails() -> None:
        raise AttributeError("somebody was faster")

    monitor._undo.append(fails)
    monitor.uninstrument()

    assert type(app.build_middleware_stack()) is ServerErrorMiddleware
    assert not any(patch.active for patch in monitor.patches)
    assert samples(monitor, "isolation_monitor_errors_total") == 1


def test_what_is_patched_keeps_its_names_its_signature_and_its_kind(monitor: Any) -> None:
    """Applications pickle functions, make mocks of classes and call by names: each must work as on the original."""

    async def app(*_: Any) -> None: ...

    for library, _ in INTEGRATIONS:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    monitor.instrument(app)
    places = [(layers[0].owner, attribute) for (_, attribute), layers in patches._layers.items()]
    watched = [getattr(owner, attribute) for owner, attribute in places]
    monitor.uninstrument()

    assert len(watched) > 40
    for (owner, attribute), function in zip(places, watched, strict=True):
        original = getattr(owner, attribute)
        if isinstance(original, FunctionType):
            where = f"{owner}.{attribute}"
            assert inspect.signature(function) == inspect.signature(original), where
            assert (function.__module__, function.__qualname__) == (original.__module__, original.__qualname__), where
            # Whatever ours names must have the names, and the order, of the original.
            of_ours, skipped = named(function), isinstance(owner, type)
            assert of_ours[skipped:] == named(original)[skipped : len(of_ours)], where


def named(function: Any) -> list[str]:
    """Return the parameters that a function itself can be given by name."""
    every = inspect.signature(function, follow_wrapped=False).parameters.values()
    return [one.name for one in every if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
