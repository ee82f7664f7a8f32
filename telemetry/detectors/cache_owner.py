"""Cache owner: a value that was sealed for one principal is opened by another.

Sees: everything that the application seals before it puts it into a cache, queue or file and opens when it takes it out:
`monitor.seal(value)` and `monitor.unseal(sealed)`. A key that forgets the user is then found at the first wrong read.
Cannot see: what is not sealed. Cost: under 1 us each way. Precision: 1.
Grades: `reachable`; `foreign_content` says when the value left. In `block` mode a foreign value is not opened: a miss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

_PREFIX: Final = "sealed/1:"


class Sealed:
    """A value with its owner, for caches in memory. Pickles as its value and the owner's hash."""

    __slots__ = ("owner", "stack", "value")

    def __init__(self, value: object, owner: str, stack: RawStack) -> None:
        self.value = value
        self.owner = owner
        """Keyed hash of the principal; `""` for what nobody owns."""
        self.stack = stack

    def __reduce__(self) -> tuple[Any, ...]:
        return Sealed, (self.value, self.owner, ())


class CacheOwner:
    """Seals and opens."""

    def __init__(self, kit: Kit) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.CACHE_OWNER]

    def seal(self, value: object) -> object:
        """Return the value with the current principal's name on it: text as text, everything else as a `Sealed`."""
        request = CURRENT.get()
        principal = request.principal if request is not None else None
        owner = principal.hash if principal is not None else ""
        if type(value) is str:
            return f"{_PREFIX}{owner}:{value}"
        return Sealed(value, owner, stacks.capture(3))

    def unseal(self, sealed: object, default: object = None) -> object:
        """Return what was sealed. Of another principal's: reported, and `default` in block mode.

        What was never sealed comes back as it is, so that a cache filled before the declaration still works.
        """
        if type(sealed) is Sealed:
            value, owner, stack = sealed.value, sealed.owner, sealed.stack
        elif type(sealed) is str and sealed.startswith(_PREFIX):
            owner, _, value = sealed[len(_PREFIX) :].partition(":")
            stack = ()
        else:
            return sealed
        try:
            return value if self._may_open(owner, stack, CURRENT.get()) else default
        except Exception as error:
            self._reporter.check_failed(names.CACHE_OWNER, "detector", error)
            return value

    def _may_open(self, owner: str, stack: RawStack, request: RequestContext | None) -> bool:
        if not self._switch.is_on or request is None or request.principal is None or not owner:
            self._reporter.skipped(names.CACHE_OWNER)
            return True
        if request.principal.hash == owner:
            self._reporter.checked(names.CACHE_OWNER)
            return True
        self._reporter.report(
            Violation(
                kind=names.CACHE_OWNER,
                grade="reachable",
                summary=f"{request.route} took another principal's value out of a cache",
                resource=Resource("sealed_value", "a sealed value", {}),
                victim=replace(side_of(None, stack), principal=owner),
                offender=side_of(request, stacks.capture(4)),
                arm=request.arm,
            ),
            request,
        )
        return not self._switch.blocks

    def plant(self, lab: Lab) -> None:
        """Let the offender open what was sealed for the victim."""
        sealed = lab.inside(lab.request(), self.seal, {"planted": 1})
        lab.inside(lab.request(of_offender=True), self.unseal, sealed)
