"""Raw looks at the host's objects: what they hold, without running a line of the host's code.

No `getattr`, no iteration protocol, no hash, no comparison and no `isinstance` (it asks for `__class__`) of theirs: only
the C accessors of built-in types, taken from those types themselves (`dict.items`, the `__dict__` and slot descriptors,
cells of closures). Copies are bounded and made by one C call each, so that another thread cannot change a container in
between; when it does, the look is empty.
"""

from __future__ import annotations

import functools
import gc
import sys
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from itertools import islice
from types import CellType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final, Literal, NamedTuple

Kind = Literal[
    "leaf", "nothing", "dict", "list", "tuple", "set", "deque", "function", "method", "class", "cached", "partial", "module", "variable",
    "instance",
]  # fmt: skip
Assigned = Literal["", "made", "later"]
Step = Literal["attribute", "key", "item", "name", "cell", "default", "result", "part"]

CHILDREN_LIMIT: Final = 96
"""Entries looked at of one container, the newest first where it has an order."""
LAYOUTS_LIMIT: Final = 5_000

# Classes are compared by identity, never by `in` or a set: a metaclass of the host may define `__eq__` and `__hash__`.
_LEAVES: Final = frozenset(map(id, (str, bytes, int, uuid.UUID)))
_NOTHING: Final = frozenset(map(id, (float, bool, complex, type(None), type(...), type(NotImplemented), range, slice, memoryview)))
_NUMBERS: Final = frozenset(map(id, (int, float, bool, type(None))))
_RUNNING_OR_NUMBERS: Final = frozenset(map(id, (BaseException, int, float)))
_CONTAINERS: Final[tuple[tuple[type, Kind], ...]] = (
    (dict, "dict"), (list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set"), (deque, "deque"),
)  # fmt: skip
_LINK: Final = "_lru_list_elem"
_EXACT: Final[tuple[tuple[type, Kind], ...]] = (
    (FunctionType, "function"), (MethodType, "method"), (type(functools.lru_cache(lambda: None)), "cached"),
    (functools.partial, "partial"), (ContextVar, "variable"),
)  # fmt: skip

_namespace: Final = type.__dict__["__dict__"].__get__
_bases: Final = type.__dict__["__mro__"].__get__
_module: Final = type.__dict__["__module__"].__get__
_qualname: Final = type.__dict__["__qualname__"].__get__


class Child(NamedTuple):
    """One thing that an object holds. `key` is an attribute's or variable's name, a dictionary's key or None for items."""

    step: Step
    key: object
    value: object


class Layout:
    """How instances of one class are looked at; found once per class."""

    __slots__ = (
        "_of", "assigns", "attributes", "base_modules", "is_closed", "is_namespace", "kind", "module", "name", "setters", "slots",
    )  # fmt: skip

    def __init__(self, cls: type) -> None:
        self._of = weakref.ref(cls)
        self.module = _text(_module(cls))
        self.name = _text(_qualname(cls))
        bases = _bases(cls)
        self.base_modules = tuple({_text(_module(base)) for base in bases if base is not object})
        self.kind: Kind = _kind_of(cls, bases)
        self.attributes: Callable[[object], object] | None = None
        self.slots: list[tuple[str, Callable[[object], object]]] = []
        self.assigns: dict[str, Assigned] = {}
        self.setters: dict[str, FunctionType] | None = None
        """When the class's code assigns to an attribute, and the setters of its properties; found when asked for (`additions.py`)."""
        if self.kind in ("instance", "dict", "list", "tuple", "set", "deque"):
            for base in bases:
                for name, member in list(_namespace(base).items()):
                    # Exact types only: a property or descriptor of the host is its code.
                    is_member = type(member) is MemberDescriptorType
                    if type(name) is str and name == "__dict__" and (is_member or type(member) is GetSetDescriptorType):
                        # Either kind: that of `types.SimpleNamespace` is a member.
                        self.attributes = self.attributes or member.__get__
                    elif is_member and type(name) is str:
                        self.slots.append((name, member.__get__))
        self.is_closed = (
            self.kind == "instance"
            and self.attributes is None
            and not self.slots
            and self.module.partition(".")[0] not in sys.stdlib_module_names
            and not any("__getitem__" in _namespace(base) for base in bases)
        )
        """Compiled code of an installed package, as providers of dependencies are: only the garbage collector sees what they hold.
        Not of containers: it does not tell which key a value is under."""

        self.is_namespace = self.kind == "instance" and all(
            any(name in _namespace(base) for base in bases if base is not object) for name in ("__getattr__", "__setattr__")
        )
        """Its attributes may be anybody's: it is asked for all of them, and told of each that is set."""

    def is_of(self, cls: type) -> bool:
        return self._of() is cls

    def dictionary(self, thing: object) -> dict[str, object] | None:
        """Return the attributes of an instance, by reference."""
        if self.attributes is None:
            return None
        try:
            found = self.attributes(thing)
        except (AttributeError, TypeError):
            return None
        return found if type(found) is dict else None


class Layouts:
    """The layouts of the classes met so far."""

    def __init__(self) -> None:
        self._by_class: dict[int, Layout] = {}

    def of(self, thing: object) -> Layout:
        cls = type(thing)
        layout = self._by_class.get(id(cls))
        if layout is None or not layout.is_of(cls):
            if len(self._by_class) >= LAYOUTS_LIMIT:
                self._by_class.clear()
            layout = self._by_class[id(cls)] = Layout(cls)
        return layout


def _kind_of(cls: type, bases: tuple[type, ...]) -> Kind:
    if id(cls) in _LEAVES:
        return "leaf"
    if id(cls) in _NOTHING:
        return "nothing"
    for exact, kind in _EXACT:
        if cls is exact:
            return kind
    if any(base is type for base in bases):
        return "class"
    for base in bases:
        if base is str or base is bytes:
            return "leaf"
        if base is ModuleType:
            return "module"
        if id(base) in _RUNNING_OR_NUMBERS:
            return "nothing"
        for container, kind in _CONTAINERS:
            if base is container:
                return kind
    # Code objects, frames, generators and the like show their members too: they are running code, not state.
    return "nothing" if _module(cls) == "builtins" and cls is not property else "instance"


def is_leaf(value: object) -> bool:
    """Whether a value is exactly a string, bytes, a whole number or a UUID."""
    return id(type(value)) in _LEAVES


def is_closure(value: object) -> bool:
    """Whether a value is a function that holds variables of the one that made it."""
    return type(value) is FunctionType and value.__closure__ is not None


def is_number(value: object) -> bool:
    """Whether a value is exactly a number, a truth value or None."""
    return id(type(value)) in _NUMBERS


def module_of(cls: type) -> str:
    return _text(_module(cls))


def qualname_of(cls: type) -> str:
    return _text(_qualname(cls))


def bases_of(cls: type) -> tuple[type, ...]:
    """Return a class and those it derives from."""
    found: tuple[type, ...] = _bases(cls)
    return found


def namespace_of_class(cls: type) -> dict[str, object]:
    """Return a copy of what a class itself defines."""
    return dict(_namespace(cls))


def plain(leaf: object) -> str:
    """Return a leaf as text: strings and their subclasses, bytes, whole numbers, UUIDs."""
    kind = type(leaf)
    if type(leaf) is str:
        return leaf
    if type(leaf) is bytes:
        return leaf.decode("utf-8", "replace")
    if kind is int or kind is uuid.UUID:
        return str(leaf)
    if issubclass(kind, str):
        return str.__str__(leaf)
    return bytes.decode(leaf, "utf-8", "replace") if issubclass(kind, bytes) else ""  # type: ignore[arg-type]


def children(thing: object, layout: Layout) -> Iterator[Child]:
    """Yield what an object holds; nothing where it changes while it is being copied."""
    try:
        yield from _LOOKS[layout.kind](thing, layout)
    except (RuntimeError, TypeError, AttributeError, ValueError, ReferenceError):
        # Changed by another thread in the middle of the copy, or not laid out as its class says: the next look may succeed.
        return


def _instance(thing: object, layout: Layout) -> Iterator[Child]:
    attributes = layout.dictionary(thing)
    if attributes is not None:
        for name, value in list(islice(dict.items(attributes), CHILDREN_LIMIT)):
            yield Child("attribute", name, value)
    for name, get in layout.slots:
        try:
            yield Child("attribute", name, get(thing))
        except AttributeError:
            continue
    if layout.is_closed:
        cls = type(thing)
        for value in islice(gc.get_referents(thing), CHILDREN_LIMIT):
            if value is not cls:
                yield Child("part", None, value)


def _dict(thing: Any, layout: Layout) -> Iterator[Child]:
    # The view is dict's own, so that a subclass's order and methods are not asked.
    for key, value in list(islice(reversed(dict.items(thing)), CHILDREN_LIMIT)):
        yield Child("key", key, value)
    yield from _instance(thing, layout)


def _list(thing: Any, layout: Layout) -> Iterator[Child]:
    for value in list.__getitem__(thing, slice(-CHILDREN_LIMIT, None)):
        yield Child("item", None, value)
    yield from _instance(thing, layout)


def _tuple(thing: Any, layout: Layout) -> Iterator[Child]:
    for value in tuple.__getitem__(thing, slice(-CHILDREN_LIMIT, None)):
        yield Child("item", None, value)


def _set(thing: Any, layout: Layout) -> Iterator[Child]:
    walk = frozenset.__iter__ if issubclass(type(thing), frozenset) else set.__iter__
    for value in list(islice(walk(thing), CHILDREN_LIMIT)):
        yield Child("item", None, value)
    yield from _instance(thing, layout)


def _deque(thing: Any, layout: Layout) -> Iterator[Child]:
    for value in list(islice(deque.__reversed__(thing), CHILDREN_LIMIT)):
        yield Child("item", None, value)
    yield from _instance(thing, layout)


def _function(thing: Any, layout: Layout) -> Iterator[Child]:
    names = thing.__code__.co_freevars
    for name, cell in zip(names, thing.__closure__ or (), strict=False):
        if type(cell) is CellType:
            try:
                yield Child("cell", name, cell.cell_contents)
            except ValueError:
                # Not filled yet.
                continue
    code = thing.__code__
    defaults = thing.__defaults__ or ()
    for name, value in zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=False):
        yield Child("default", name, value)
    for name, value in list((thing.__kwdefaults__ or {}).items()):
        yield Child("default", name, value)
    for name, value in list(islice(thing.__dict__.items(), CHILDREN_LIMIT)):
        yield Child("attribute", name, value)


def _method(thing: Any, layout: Layout) -> Iterator[Child]:
    yield Child("attribute", "__self__", thing.__self__)
    yield Child("attribute", "__func__", thing.__func__)


def _class(thing: Any, layout: Layout) -> Iterator[Child]:
    for name, value in list(islice(_namespace(thing).items(), 4 * CHILDREN_LIMIT)):
        inner = type(value)
        if inner is staticmethod or inner is classmethod:
            value = value.__func__
        if type(name) is str:
            yield Child("attribute", name, value)


def _cached(thing: Any, layout: Layout) -> Iterator[Child]:
    # The C cache shows its parts only to the garbage collector: its dictionary by key and, where it is bounded, links as the
    # dictionary's values, each as its key and then its result.
    held = gc.get_referents(thing)
    attributes = thing.__dict__
    tables: list[dict[object, object]] = [part for part in held if type(part) is dict and part is not attributes]
    linked = next((table for table in tables if any(type(link).__name__ == _LINK for link in islice(table.values(), 1))), None)
    if linked is not None:
        known = {id(key) for key in islice(reversed(linked), CHILDREN_LIMIT)}
        for at in range(len(held) - 1):
            if id(held[at]) in known:
                yield Child("result", held[at], held[at + 1])
    elif tables:
        for key, value in list(islice(reversed(tables[0].items()), CHILDREN_LIMIT)):
            yield Child("result", key, value)
    yield Child("attribute", "__wrapped__", attributes.get("__wrapped__"))


def _partial(thing: Any, layout: Layout) -> Iterator[Child]:
    for value in gc.get_referents(thing):
        yield Child("item", None, value)


def _variable(thing: Any, layout: Layout) -> Iterator[Child]:
    # In a context of its own there is nothing but the default, one object for all requests.
    try:
        yield Child("attribute", "default", Context().run(thing.get))
    except LookupError:
        return


def _nothing(thing: Any, layout: Layout) -> Iterator[Child]:
    return iter(())


def _text(value: object) -> str:
    return value if type(value) is str else ""


_LOOKS: Final[dict[Kind, Callable[[Any, Layout], Iterator[Child]]]] = {
    "leaf": _nothing,
    "nothing": _nothing,
    "dict": _dict,
    "list": _list,
    "tuple": _tuple,
    "set": _set,
    "deque": _deque,
    "function": _function,
    "method": _method,
    "class": _class,
    "cached": _cached,
    "partial": _partial,
    "module": _nothing,
    "variable": _variable,
    "instance": _instance,
}
