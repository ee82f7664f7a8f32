"""Patches of foreign libraries: made and taken off in one way, and listed by `isomon doctor`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final


@dataclass(slots=True)
class Patch:
    """One change to a foreign library's object. `target` names it; `active` is False once it was taken off again."""

    library: str
    version: str
    target: str
    reversible: bool
    active: bool
    note: str = ""


class _Layer:
    """One replacement of one attribute. Monitors of one process may lay several upon each other, and go in any order."""

    __slots__ = ("is_over", "is_own", "original", "owner", "replacement")

    def __init__(self, owner: Any, is_own: bool, original: Any, replacement: Any) -> None:
        self.owner = owner
        self.is_own = is_own
        """Whether the owner had the attribute itself; False for one it inherits."""
        self.original = original
        self.replacement = replacement
        self.is_over = False


_layers: dict[tuple[int, str], list[_Layer]] = {}
"""By the id of the owner, which its layers keep alive, and the attribute: the layers that are in place, lowest first."""
_lock: Final = threading.Lock()


def replace(owner: Any, attribute: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace `owner.attribute` by `make(original)`; return what puts the original back.

    `owner` is a class, module or object of a library. The replacement must do what the original does, whatever happens
    in ours. Undone in any order, replacements of one attribute leave the original once the last of them is undone. Only
    when somebody else has wrapped ours by then does ours stay below theirs: it must then only hand through, so
    replacements ask their detector's switch at every call.
    """
    with _lock:
        is_own = attribute in vars(owner)
        # Taken from `vars`, so that static and class methods stay what they are.
        original = vars(owner)[attribute] if is_own else getattr(owner, attribute)
        layer = _Layer(owner, is_own, original, _dressed_as(original, make(original)))
        setattr(owner, attribute, layer.replacement)
        _layers.setdefault((id(owner), attribute), []).append(layer)

    def undo() -> None:
        with _lock:
            layer.is_over = True
            _take_off(owner, attribute)

    return undo


def _dressed_as(original: Any, replacement: Any) -> Any:
    """Give a function the name, the signature and the kind of the one that it stands for.

    Applications pickle functions by their names, and `create_autospec` and injectors ask for signatures. A plain function that
    stands for a coroutine function is marked as one: asgiref takes an application without that mark for one of the old kind, and
    calls it with its scope alone.
    """
    if isinstance(replacement, FunctionType) and isinstance(original, FunctionType):
        functools.update_wrapper(replacement, original)
    if isinstance(replacement, FunctionType) and _is_async(original) and not _is_async(replacement):
        if sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(replacement)
        else:
            vars(replacement)["_is_coroutine"] = asyncio.coroutines.__dict__["_is_coroutine"]
    return replacement


def _is_async(function: Any) -> bool:
    # Before 3.12 the mark is asyncio's; since 3.14 asyncio's question is deprecated.
    return inspect.iscoroutinefunction(function) if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction(function)


def _take_off(owner: Any, attribute: str) -> None:
    """Take off the layers that are over, from the top down to the first that is still wanted or has been wrapped."""
    layers = _layers.get((id(owner), attribute), [])
    while layers and layers[-1].is_over and vars(owner).get(attribute) is layers[-1].replacement:
        top = layers.pop()
        if top.is_own:
            setattr(owner, attribute, top.original)
        else:
            delattr(owner, attribute)
    if not layers:
        _layers.pop((id(owner), attribute), None)


def in_place() -> list[str]:
    """Name what is replaced at this moment in this process, by whichever monitor."""
    with _lock:
        return [f"{getattr(layers[0].owner, '__qualname__', layers[0].owner)}.{attribute}" for (_, attribute), layers in _layers.items()]


class Patching:
    """The changes to one library: made one by one, taken off together, the latest first."""

    def __init__(self, library: str, version: str) -> None:
        self._library = library
        self._version = version
        self.patches: list[Patch] = []
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Any, attribute: str, make: Callable[[Any], Any]) -> None:
        """Replace a class's method, and list that by the class's full name."""
        self._undo.append(replace(owner, attribute, make))
        target = f"{owner.__module__}.{owner.__qualname__}.{attribute}"
        self.patches.append(Patch(self._library, self._version, target, reversible=True, active=True))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def numbers_of(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version, of the second the digits only; (0, 0) where there are none.

    >>> numbers_of("4.2.2")
    (4, 2)
    """
    try:
        major, minor = version.split(".")[:2]
        return int(major), int("".join(letter for letter in minor if letter.isdigit()) or 0)
    except ValueError:
        return 0, 0
