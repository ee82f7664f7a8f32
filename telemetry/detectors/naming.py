"""Naming: which known principals a value of the host names, and which places name the principal they are used for.

Shared by the detectors of foreign contexts and foreign tasks. Values are looked at raw, two levels deep: exact built-in
types, and the fields of plain instances as their slots or `__dict__` hold them. No code of the host runs.
A place is *identity-carrying* once it was seen to name several principals, and for the work of one that one. Lists of
people, settings and owners of shared things never become so, and what is not identity-carrying is never a violation.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any, Final

from isolation_monitor.telemetry.principals import Principal

Known = Callable[[str], Principal | None]

DEPTH: Final = 2
ITEMS_LIMIT: Final = 40
"""Fields or items of one object that are looked at."""
TEXT_LIMIT: Final = 200
SLOTS_LIMIT: Final = 2_000
TYPES_LIMIT: Final = 2_000
ENOUGH: Final = 2
"""Principals that a slot must have named; an id that any number or short word could equal by chance needs more."""
ENOUGH_FOR_SHORT: Final = 3
RECENT_S: Final = 30.0
NAMED_LIMIT: Final = 256

_IDENTITY: Final = ("user", "uid", "principal", "tenant", "account", "owner", "actor", "identity", "member", "customer", "caller", "viewer")
_COUNTS: Final = ("count", "total", "num", "size", "max", "limit", "seq", "next", "online", "active")
_HEAP_TYPE: Final = 1 << 9
_SEQUENCES: Final = (list, tuple, deque)
PLAIN: Final = (str, bytes, int, float, bool, complex, type(None), frozenset)
_NO_HOLDERS: Final = (*PLAIN, type, FunctionType, ModuleType)

_Fields = tuple[bool, tuple[tuple[str, MemberDescriptorType], ...]]
_fields_by_type: dict[int, tuple[type, _Fields]] = {}
_dict_of_class = type.__dict__["__dict__"].__get__
_mro_of_class = type.__dict__["__mro__"].__get__


def _fields_of_type(cls: type) -> _Fields:
    """Return whether instances have a `__dict__` that can be read without host code, and their slots."""
    known = _fields_by_type.get(id(cls))
    if known is not None and known[0] is cls:
        return known[1]
    has_dict = cls is SimpleNamespace
    slots: list[tuple[str, MemberDescriptorType]] = []
    if cls.__flags__ & _HEAP_TYPE:
        for base in _mro_of_class(cls):
            if not base.__flags__ & _HEAP_TYPE:
                continue
            for name, entry in list(_dict_of_class(base).items()):
                if name == "__dict__":
                    has_dict = has_dict or type(entry) is GetSetDescriptorType
                elif type(entry) is MemberDescriptorType and len(slots) < ITEMS_LIMIT:
                    slots.append((name, entry))
        if any("__dict__" in _dict_of_class(base) and type(_dict_of_class(base)["__dict__"]) is not GetSetDescriptorType
               for base in _mro_of_class(cls)):  # fmt: skip
            # Somebody computes it: asking would run their code.
            has_dict = False
    fields = (has_dict, tuple(slots))
    if len(_fields_by_type) < TYPES_LIMIT:
        _fields_by_type[id(cls)] = (cls, fields)
    return fields


def fields_of(value: object) -> Iterator[tuple[str, object]]:
    """Yield the fields of a plain instance as it holds them."""
    has_dict, slots = _fields_of_type(type(value))
    if has_dict:
        held = object.__getattribute__(value, "__dict__")
        if type(held) is dict:
            for name, item in list(held.items())[:ITEMS_LIMIT]:
                yield name if type(name) is str else "?", item
    for name, slot in slots:
        try:
            yield name, slot.__get__(value, type(value))
        except AttributeError:
            continue


def names_in(value: object, known: Known, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (path within the value, id) for every known principal that `value` names."""
    kind = type(value)
    if kind is str:
        if 0 < len(value) <= TEXT_LIMIT:  # type: ignore[arg-type]  # an exact str
            if known(value) is not None:  # type: ignore[arg-type]
                yield path, value  # type: ignore[misc]
            else:
                # "user:17", "Bearer 17": the id is what follows.
                for mark in (":", " "):
                    tail = value.rpartition(mark)[2]  # type: ignore[attr-defined]
                    if tail is not value and tail and known(tail) is not None:
                        yield path, tail
    elif kind is int or kind is uuid.UUID:
        text = str(value)
        if known(text) is not None:
            yield path, text
    elif depth < DEPTH and kind not in _NO_HOLDERS:
        if kind is dict:
            for key, item in list(value.items())[:ITEMS_LIMIT]:  # type: ignore[attr-defined]  # an exact dict
                if type(key) is str:
                    yield from names_in(item, known, f"{path}[{key}]", depth + 1)
        elif kind in _SEQUENCES:
            # The last ones: what grows, grows at the end.
            for item in list(value)[-ITEMS_LIMIT:]:  # type: ignore[call-overload]  # an exact sequence
                yield from names_in(item, known, f"{path}[*]", depth + 1)
        else:
            for name, item in fields_of(value):
                yield from names_in(item, known, f"{path}.{name}", depth + 1)


class _Slot:
    __slots__ = ("named", "owners", "quiet", "routes")

    def __init__(self) -> None:
        self.named: dict[str, float] = {}
        """When it was last seen to name whom (`time.perf_counter()`)."""
        self.owners: set[str] = set()
        """Ids of principals for whose own work it was seen to name them."""
        self.routes: set[object] = set()
        """What was running then: who never writes a place may find anything in it."""
        self.quiet: dict[object, bool] = {}
        """By route: whether the place was right each time that no other principal was at work."""


class Slots:
    """What was learned of places: which of their slots carry the identity of who they are used for."""

    def __init__(self) -> None:
        self._slots: dict[tuple[object, str], _Slot] = {}
        self._active: dict[str, float] = {}

    def seen(self, principal: Principal) -> None:
        """Note that a principal is at work now."""
        active = self._active
        active.pop(principal.id, None)
        active[principal.id] = time.monotonic()
        if len(active) > SLOTS_LIMIT:
            del active[next(iter(active))]

    def is_active(self, principal: Principal) -> bool:
        at = self._active.get(principal.id)
        return principal.live > 0 or (at is not None and time.monotonic() - at < RECENT_S)

    def names(self, place: object, path: str, id: str) -> None:
        """Learn that a slot names a principal, at whatever moment."""
        named = self._slot(place, path).named
        if id in named or len(named) < NAMED_LIMIT:
            named[id] = time.perf_counter()

    def named_since(self, place: object, path: str, id: str, since: float) -> bool:
        """Return whether a slot was seen to name a principal since a moment (`time.perf_counter()`)."""
        slot = self._slots.get((place, path))
        return slot is not None and slot.named.get(id, 0.0) >= since

    def right(self, place: object, path: str, principal: Principal, route: object) -> None:
        """Learn that a slot named `principal` while its own work was done."""
        slot = self._slot(place, path)
        if principal.id in slot.named or len(slot.named) < NAMED_LIMIT:
            slot.named[principal.id] = time.perf_counter()
        if len(slot.owners) < 64:
            slot.owners.add(principal.id)
        if len(slot.routes) < 256:
            slot.routes.add(route)

    def quiet(self, place: object, path: str, route: object, is_right: bool) -> None:
        """Learn what a slot named while no other principal was at work: only who writes a place is named there each time."""
        slot = self._slots.get((place, path))
        if slot is not None and (route in slot.quiet or len(slot.quiet) < 256):
            slot.quiet[route] = is_right and slot.quiet.get(route, True)

    def is_written_by(self, place: object, path: str, route: object) -> bool:
        slot = self._slots.get((place, path))
        return slot is not None and slot.quiet.get(route, False)

    def carries_identity(self, place: object, path: str, name: str, route: object = None) -> bool:
        """Return whether a slot was seen to name the right one for enough principals (and for this route, where one is given).

        `name` is what the place is called.
        """
        slot = self._slots.get((place, path))
        if slot is None or not slot.owners or len(slot.named) < ENOUGH or (route is not None and route not in slot.routes):
            return False
        if sum(len(id) >= 4 and not id.isdigit() for id in slot.named) >= ENOUGH:
            return True
        # A counter passes every small number: it takes a name that says what the number is.
        name = f"{name}{path}".lower()
        return len(slot.named) >= ENOUGH_FOR_SHORT and any(w in name for w in _IDENTITY) and not any(w in name for w in _COUNTS)

    def _slot(self, place: object, path: str) -> _Slot:
        slot = self._slots.get((place, path))
        if slot is None:
            if len(self._slots) >= SLOTS_LIMIT:
                del self._slots[next(iter(self._slots))]
            slot = self._slots[place, path] = _Slot()
        return slot

    def forget(self, place: object) -> None:
        for key in [key for key in self._slots if key[0] == place]:
            del self._slots[key]

    def __len__(self) -> int:
        return len(self._slots)


def is_telling(value: Any) -> bool:
    """Return whether a value can hold state: everything but plain built-in values, classes, functions and modules."""
    return type(value) not in _NO_HOLDERS
