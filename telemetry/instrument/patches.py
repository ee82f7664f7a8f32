"""Patches of foreign libraries: made and taken off in one way, and listed by `isomon doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_ORIGINAL: Final = "__isolation_monitor_original__"


@dataclass(slots=True)
class Patch:
    """One change to a foreign library's object. `target` names it; `active` is False once it was taken off again."""

    library: str
    version: str
    target: str
    reversible: bool
    active: bool
    note: str = ""


def replace(owner: Any, attribute: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Replace `owner.attribute` by `make(original)`; return what puts the original back.

    `owner` is a class, module or object of a library. The replacement must do what the original does, whatever happens
    in ours. When somebody else has wrapped ours by the time of the undo, ours stays below theirs: it must then only hand
    through, so replacements ask their detector's switch at every call.
    """
    own = attribute in vars(owner)
    # Taken from `vars`, so that static and class methods stay what they are.
    original = vars(owner)[attribute] if own else getattr(owner, attribute)
    replacement = make(original)
    try:
        setattr(replacement, _ORIGINAL, original)
    except AttributeError:
        # A classmethod or staticmethod object of an old Python takes no attributes; it is recognised by identity.
        pass
    setattr(owner, attribute, replacement)

    def undo() -> None:
        if vars(owner).get(attribute) is not replacement:
            return
        if own:
            setattr(owner, attribute, original)
        else:
            delattr(owner, attribute)

    return undo


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
