"""Additions: what an application put on objects of its framework or driver: `app.ctx.user = …`, `session.params = …`.

What else those objects hold are their own books. An addition is an attribute that the application's code mentions and that no code
of the object's own class assigns; one that the application assigns and the class only when an object is made; what a property
keeps that the application assigns to; or a bag: a plain namespace, there for the application's things. Objects that stand for one
connection have none.
"""

from __future__ import annotations

from types import FunctionType, MemberDescriptorType, SimpleNamespace
from typing import Final

from isolation_monitor.telemetry.detectors.places import STORE_ATTR, stored_by
from isolation_monitor.telemetry.detectors.raw_objects import Assigned, Child, Layout, Layouts, bases_of, children, namespace_of_class

CHILDREN_OF_BAG: Final = 3
"""A bag has one dictionary and hardly anything beside it."""


class Additions:
    """Knows which names the application mentions and assigns to; both are filled by whoever reads its code."""

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self.assigned: set[str] = set()
        self.mentioned: set[str] = set()

    def of(self, thing: object, layout: Layout) -> frozenset[str]:
        """Return the names of the attributes of a framework's object that are the application's business; often none."""
        held = [child for child in children(thing, layout) if child.step == "attribute" and type(child.key) is str]
        found = {child.key for child in held if self._is_bag(child)}
        through = self._set_through_properties(type(thing), layout)
        for child in held:
            name = str(child.key)
            if name in self.mentioned or name in through:
                by_itself = _assigned_by_itself(type(thing), layout, name)
                if not by_itself or (by_itself == "made" and (name in self.assigned or name in through)):
                    found.add(name)
        if found and any(child.key == "scope" and type(child.value) is dict for child in held):
            # A request or a socket: what it holds is its user's, and goes with it.
            return frozenset()
        return frozenset(str(name) for name in found)

    def is_bag(self, thing: object, layout: Layout) -> bool:
        """Return whether an object is a namespace for anybody's things: one dictionary, read and written as attributes."""
        if type(thing) is SimpleNamespace:
            return True
        if not layout.is_namespace:
            return False
        held = [child for child in children(thing, layout) if child.step == "attribute"]
        return len(held) <= CHILDREN_OF_BAG and sum(type(child.value) is dict for child in held) == 1

    def _is_bag(self, child: Child) -> bool:
        return self.is_bag(child.value, self._layouts.of(child.value))

    def _set_through_properties(self, cls: type, layout: Layout) -> set[str]:
        found: set[str] = set()
        for name, setter in _properties(cls, layout).items():
            if name in self.assigned:
                found.update(stored_by(setter.__code__, STORE_ATTR))
        return found


def _properties(cls: type, layout: Layout) -> dict[str, FunctionType]:
    """Return the setters of a class's properties; found once per class."""
    if layout.setters is None:
        found: dict[str, FunctionType] = {}
        for base in bases_of(cls):
            for name, member in namespace_of_class(base).items():
                if type(member) is property and type(member.fset) is FunctionType:
                    found.setdefault(name, member.fset)
        layout.setters = found
    return layout.setters


def _assigned_by_itself(cls: type, layout: Layout, name: str) -> Assigned:
    """Return when the methods of a class assign to an attribute: never, where they make, copy and load objects, or later."""
    known = layout.assigns.get(name)
    if known is None:
        known = ""
        for base in bases_of(cls):
            for title, member in namespace_of_class(base).items():
                if title == name and type(member) is not MemberDescriptorType:
                    # A default, a property or a method: the class knows of it.
                    known = known or "made"
                elif type(member) is FunctionType and name in member.__code__.co_names and name in stored_by(member.__code__, STORE_ATTR):
                    known = known or "made" if title.startswith("__") and title.endswith("__") else "later"
                if known == "later":
                    break
        layout.assigns[name] = known
    return known
