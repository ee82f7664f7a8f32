"""Overwrites: a request wrote a value of its own to a shared field, another wrote over it, and the first answered with the other's,
or called a server with it: the key of an SDK that is set for the whole process.

That is a race, whatever the values mean, and it is seen exactly: while shared fields are under watch (`shared_state.py`
finds them), the steps of a request between two awaits are watched too, and on one event loop nothing else runs within one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.code_sites import described
from isolation_monitor.telemetry.detectors.object_walk import Node, read_again
from isolation_monitor.telemetry.detectors.raw_objects import Child, is_leaf, plain
from isolation_monitor.telemetry.provenance import texts_in
from isolation_monitor.telemetry.tokens import tokens_of
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.residue import Place
    from isolation_monitor.telemetry.violations import Reporter

SLOTS_LIMIT: Final = 12
WRITES_KEPT: Final = 16
MARKS_KEPT: Final = 20


class _Write:
    __slots__ = ("marks", "request")

    def __init__(self, request: RequestContext | None, marks: frozenset[str]) -> None:
        self.request = request
        """None where something else than a watched request's step wrote."""
        self.marks = marks
        """Tokens in what was written, and ids of principals."""


class Slot:
    """One field that all requests reach, with who wrote it last. Holds its holder until the watch is dropped."""

    __slots__ = ("_child", "_holder", "place", "seen", "writes")

    def __init__(self, place: Place, node: Node, child: Child) -> None:
        self.place = place
        self._holder = Node(node.value, node.layout, None, "", None, 0)
        self._child = Child(child.step, child.key, None)
        self.seen: object = child.value
        self.writes: deque[_Write] = deque(maxlen=WRITES_KEPT)

    def is_for(self, node: Node, child: Child) -> bool:
        return self._holder.value is node.value and self._child.step == child.step and self._child.key == child.key

    def peek(self) -> Any:
        return read_again(self._holder, self._child)


class Overwrites:
    """Watches the slots while requests take their steps. Called on the event loop only."""

    def __init__(self, reporter: Reporter, modules_for: Callable[[str], list[ModuleType]] = lambda label: []) -> None:
        self._reporter = reporter
        self._modules_for = modules_for
        self.slots: list[Slot] = []

    def watch(self, place: Place, node: Node, child: Child) -> None:
        """Watch a field from now on; the one watched longest gives way when there are too many."""
        for at, slot in enumerate(self.slots):
            if slot.place is place:
                if not slot.is_for(node, child):
                    self.slots[at] = Slot(place, node, child)
                return
        self.slots = [*self.slots[-SLOTS_LIMIT + 1 :], Slot(place, node, child)]

    def clear(self) -> None:
        self.slots = []

    def before_step(self, _request: RequestContext) -> None:
        """A request is about to go on: whatever changed until now, others did."""
        for slot in self.slots:
            value = slot.peek()
            if value is not slot.seen:
                slot.seen = value
                slot.writes.append(_Write(None, _marks(value)))

    def after_step(self, request: RequestContext) -> None:
        """A request came to an await, or to its end: whatever changed since `before_step`, it did."""
        for slot in self.slots:
            value = slot.peek()
            if value is not slot.seen:
                slot.seen = value
                slot.writes.append(_Write(request, _marks(value)))

    def judge(self, request: RequestContext, text: str, where: str = "the answer") -> bool:
        """Judge a text on its way out; return True when it carries what another wrote over the request's own.

        Args:
            where: `the answer`, or `a call to` a server, whose text is its URL, headers and body; for the evidence.
        """
        principal = request.principal
        if principal is None:
            return False
        for slot in self.slots:
            own: _Write | None = None
            over: _Write | None = None
            for write in slot.writes:
                if write.request is request:
                    own, over = write, None
                elif own is not None and write.request is not None and write.request.is_of_another(request):
                    over = write
                    foreign = write.marks - own.marks
                    if foreign and _carries(text, foreign) and not _carries(text, own.marks):
                        self._report(slot, request, over.request, foreign, where)
                        return True
        return False

    def _report(self, slot: Slot, request: RequestContext, other: RequestContext | None, foreign: frozenset[str], where: str) -> None:
        self._reporter.report(
            Violation(
                kind=names.SHARED_STATE,
                grade="crossed",
                summary=f"{request.route} wrote its value to {slot.place.label}, another principal's request wrote over it, "
                f"and {where} carried the other's",
                resource=Resource(
                    "location", slot.place.label, {"values": len(foreign), **described(slot.place, self._modules_for(slot.place.label))}
                ),
                victim=side_of(other),
                offender=side_of(request),
                arm=request.arm,
            ),
            request,
        )


def _marks(value: Any) -> frozenset[str]:
    """Return by what a value is recognised: its tokens."""
    if value is None:
        return frozenset()
    if is_leaf(value):
        return frozenset(tokens_of(plain(value)[:2000])[:MARKS_KEPT])
    found: list[str] = []
    for text in texts_in(value, 2):
        found += tokens_of(text[:2000])
        if len(found) >= MARKS_KEPT:
            break
    return frozenset(found[:MARKS_KEPT])


def _carries(text: str, marks: frozenset[str]) -> bool:
    return any(mark in text for mark in marks)
