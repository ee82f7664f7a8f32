"""Spots: where a field stands, so that it can be read again: in one object for good, or in whatever stands on the way to it now.

`session.params = {"account": …}` makes a new dictionary at each request; who keeps to the one that a walk met reads what one
request left there, and never what the others do.
"""

from __future__ import annotations

from typing import Any, Final

from isolation_monitor.telemetry.detectors.object_walk import Node, read_again
from isolation_monitor.telemetry.detectors.raw_objects import Child

STEPS_LIMIT: Final = 3
"""Objects above the field's holder that may be replaced as well."""


class Spot:
    """One field of an object. Holds that object strongly, or with `follows` the nearest one above it that is hoped to stay."""

    __slots__ = ("_base", "_child", "_holder", "_way")

    def __init__(self, node: Node, child: Child, *, follows: bool = False) -> None:
        # Nodes of its own, so that nothing else of the walk stays alive.
        self._holder = _bare(node, node.value)
        self._child = Child(child.step, child.key, None)
        self._way: list[tuple[Child, Node]] = []
        """Each step from the base, and what it led to when it was last gone."""
        inner = self._holder
        while follows and node.parent is not None and len(self._way) < STEPS_LIMIT:
            above, value = node.parent, node.value
            step = None if node.is_varying else next((held for held in above.holds if held.value is value), None)
            if step is None:
                break
            self._way.insert(0, (Child(step.step, step.key, None), inner))
            node, inner = above, _bare(above, above.value)
        self._base = inner

    @property
    def follows(self) -> bool:
        return bool(self._way)

    def read(self) -> Any:
        """Return what stands there now; None where nothing does, or something of another class is on the way."""
        if self._way and not self._follow():
            return None
        return read_again(self._holder, self._child)

    def is_for(self, node: Node, child: Child) -> bool:
        """Return whether a walk that met `child` in `node` met this spot."""
        if self._way and not self._follow():
            return False
        return self._holder.value is node.value and self._child.step == child.step and self._child.key == child.key

    def _follow(self) -> bool:
        """Go the way again; return False where it does not lead to an object like the one that was met."""
        at = self._base
        for number, (step, met) in enumerate(self._way):
            value = read_again(at, step)
            if value is not met.value:
                if type(value) is not type(met.value):
                    return False
                met = _bare(met, value)
                self._way[number] = step, met
            at = met
        self._holder = at
        return True


def _bare(like: Node, value: object) -> Node:
    """Return a node of a value of the same class as another node's, and nothing around it."""
    return Node(value, like.layout, None, "", None, 0)
