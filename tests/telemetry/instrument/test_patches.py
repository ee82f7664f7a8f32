"""Replacements of a library's attributes are taken off again, in whichever order their monitors go."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.compatibility import guarantee_single_callable

from isolation_monitor.telemetry.instrument import patches


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
