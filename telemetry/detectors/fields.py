"""Fields that are written over while users come and go: read at the end of each request, to learn whose value stands there.

Two ways to a proof. What stands in a field when the only request of its owner ends was left behind by it. And a field
whose values nobody can name still shows whose they are, when each of three principals has its own value there, seen at
least twice: the value is determined by who asked. Where an object stands in the field, such as a `current_user` out of a table of
users that was there before, it is the id that the object names.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.object_walk import Node
from isolation_monitor.telemetry.detectors.raw_objects import Child, Layouts, children, is_closure, is_leaf, plain
from isolation_monitor.telemetry.detectors.spots import Spot

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.detectors.knowledge import Evidence
    from isolation_monitor.telemetry.detectors.residue import Place, Residue
    from isolation_monitor.telemetry.principals import Principal

FIELDS_LIMIT: Final = 8
"""Fields read in turn at the ends of requests."""
READS_PER_END: Final = 4
PRINCIPALS_LIMIT: Final = 16
VALUES_LIMIT: Final = 8
PRINCIPALS_NEEDED: Final = 3
TIMES_NEEDED: Final = 2
DOMINANCE: Final = 0.7
"""Share of a principal's writes that must carry its own value."""
TEXT_LENGTHS: Final = (4, 200)


class Field:
    """One field under watch. Holds its holder strongly, until the watch is dropped."""

    __slots__ = ("_named_by", "found", "latest", "name", "place", "spot", "written")

    def __init__(self, place: Place, node: Node, child: Child, named_by: Callable[[object], str | None] = lambda value: None) -> None:
        self.place = place
        self.name = child.key if type(child.key) is str else ""
        self._named_by = named_by
        self.spot = Spot(node, child)
        self.latest: object = child.value
        self.found: list[Evidence] = []
        """Whose the latest text is, as far as they have not been told yet that it outlived their request."""
        self.written: dict[str, tuple[Principal, Counter[str]]] = {}

    def follow(self, node: Node, child: Child) -> None:
        """Go on where a walk has met the field now: its holder is one that is replaced, and what is known of the writes stays."""
        self.spot = Spot(node, child, follows=True)
        self.latest, self.found = child.value, []

    def read(self) -> str | None:
        """Return the text that was written since the last look, or None where nothing was."""
        value = self.spot.read()
        if value is self.latest:
            return None
        # Also when nothing readable stands there now: what was there has been taken away.
        self.latest, self.found = value, []
        return plain(value) if is_leaf(value) else self._named_by(value)

    def holds(self, found: list[Evidence], was_said: Callable[[str], bool]) -> None:
        """Note whose the latest text is. What was said, in an object made anew with each request, is that request, kept: no evidence."""
        follows = self.spot.follows
        self.found = [one for one in found if not (follows and one.proof == "token" and was_said(one.token))]

    def wrote(self, principal: Principal, text: str) -> None:
        """Note that a value was new when a request of a principal ended."""
        if type(self.latest) is int or not TEXT_LENGTHS[0] <= len(text) <= TEXT_LENGTHS[1]:
            return
        known = self.written.get(principal.id)
        if known is None:
            if len(self.written) >= PRINCIPALS_LIMIT:
                return
            known = self.written[principal.id] = (principal, Counter())
        values = known[1]
        if text in values or len(values) < VALUES_LIMIT:
            values[text] += 1
        else:
            # A value of its own each time, as times and counters have, is nobody's: it weighs against all of them.
            values[""] += 1

    def determined_by(self) -> list[Principal]:
        """Return the principals that have a value of their own here, when they are enough to prove it."""
        own: dict[str, list[Principal]] = {}
        for principal, values in self.written.values():
            text, times = values.most_common(1)[0]
            if times >= TIMES_NEEDED and text:
                if times < DOMINANCE * values.total():
                    return []
                own.setdefault(text, []).append(principal)
        if len(own) < PRINCIPALS_NEEDED or any(len(principals) > 1 for principals in own.values()):
            return []
        return [principals[0] for principals in own.values()]


class Named:
    """Tells whom an object names in a field of its own, or a closure in a variable or a field of what that holds; None for several."""

    def __init__(self, residue: Residue, layouts: Layouts) -> None:
        self._residue = residue
        self._layouts = layouts

    def __call__(self, value: object) -> str | None:
        held = list(children(value, self._layouts.of(value))) if is_closure(value) else [Child("attribute", None, value)]
        named = self._names_in({child.key: child.value for child in held if child.step == "cell" and is_leaf(child.value)})
        for child in held:
            if self._layouts.of(child.value).kind in ("dict", "instance"):
                named |= self._names_in(child.value)
        return named.pop() if len(named) == 1 else None

    def _names_in(self, value: object) -> set[str]:
        layout = self._layouts.of(value)
        node = Node(value, layout, None, "", None, 0)
        node.holds = list(children(value, layout))
        # A link of a chain is one of many alike, as in a cache with a first and a last one.
        is_link = layout.kind == "instance" and any(type(child.value) is type(value) for child in node.holds)
        return set() if is_link else self._residue.names_in(node)
