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
