"""Overwrites: a request wrote a value of its own to a shared field, another wrote over it, and the first answered with the other's,
or called a server with it: the key of an SDK that is set for the whole process.

The same for a buffer or list that one request empties and fills while another is at work with it (`slots.py`).
That is a race, whatever the values mean, and it is seen exactly: while shared fields are under watch (`shared_state.py`
finds them), the steps of a request between two awaits are watched too, and on one event loop nothing else runs within one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.code_sites import described
from isolation_monitor.telemetry.detectors.object_walk import Node
from isolation_monitor.telemetry.detectors.raw_objects import Child
from isolation_monitor.telemetry.detectors.slots import Scratch, Slot, is_scratch
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.residue import Place
    from isolation_monitor.telemetry.violations import Reporter

SLOTS_LIMIT: Final = 12


class Overwrites:
    """Watches the slots while requests take their steps. Called on the event loop; `watch` by whoever walks, too."""

    def __init__(self, reporter: Reporter, modules_for: Callable[[str], list[ModuleType]] = lambda label: []) -> None:
        self._reporter = reporter
        self._modules_for = modules_for
        self.slots: list[Slot] = []

    def watch(self, place: Place, node: Node, child: Child) -> None:
        """Watch a field from now on; the one watched longest gives way when there are too many."""
        kind = Scratch if is_scratch(child.value) else Slot
        for at, slot in enumerate(self.slots):
            if slot.place is place:
                if type(slot) is not kind or not slot.spot.is_for(node, child):
                    self.slots[at] = kind(place, node, child, follows=True)
                return
        self.slots = [*self.slots[-SLOTS_LIMIT + 1 :], kind(place, node, child)]

    def clear(self) -> None:
        self.slots = []

    def before_step(self, _request: RequestContext) -> None:
        """A request is about to go on: whatever changed until now, others did."""
        for slot in self.slots:
            slot.look(None)

    def after_step(self, request: RequestContext) -> None:
        """A request came to an await, or to its end: whatever changed since `before_step`, it did."""
        for slot in self.slots:
            slot.look(request)

    def judge(self, request: RequestContext, text: str, where: str = "the answer") -> bool:
        """Judge a text on its way out; return True when it carries what another wrote over the request's own.

        Args:
            where: `the answer`, or `a call to` a server, whose text is its URL, headers and body; for the evidence.
        """
        if request.principal is None:
            return False
        for slot in self.slots:
            crossing = slot.crossing(request, text)
            if crossing is not None:
                self._report(slot, request, crossing[0], crossing[1], where)
                return True
        return False

    def _report(self, slot: Slot, request: RequestContext, other: RequestContext | None, foreign: frozenset[str], where: str) -> None:
        self._reporter.report(
            Violation(
                kind=names.SHARED_STATE,
                grade="crossed",
                summary=f"{request.route} wrote its value to {slot.place.label}, another principal's request wrote over it, "
                f"and {where} carried the other's",
                resource=Resource("location", slot.place.label, {"values": len(foreign), **described(slot.place, self._modules_for)}),
                victim=side_of(other),
                offender=side_of(request),
                arm=request.arm,
            ),
            request,
        )
