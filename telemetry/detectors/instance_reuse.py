"""Instance reuse: an object declared fresh per request (or per user) that a second request (or user) receives.

Sees: every object that a declared factory returns, by identity. Exact for declared factories.
Cannot see: an instance that is cached outside the factory and never asked for again; objects of undeclared classes;
state shared below the instance (a class attribute, a module global that two fresh instances both use).
Cost: one stack (about 2 us) and one table entry per creation. Precision: 1 for declared factories.
Grades: `reachable` between two principals, `hygiene` between two requests of one principal or of unknown ones;
`crossed` when the receiving request then answers with the first owner's identity (`detectors/foreign_identity.py`).
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.violations import Reporter, Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.lab import Lab

TABLE_LIMIT: Final = 100_000
STRONG_LIMIT: Final = 1_000
"""Instances without `__weakref__` that are held, so that their identity is not recycled."""
_NEVER_SHARED: Final = (str, bytes, int, float, bool, complex, tuple, frozenset, type(None), type)
"""Immutable built-in types: sharing one harms nobody."""


class _Seen:
    __slots__ = ("instance", "owner", "serial", "stack", "strong")

    def __init__(self, owner: RequestContext, serial: int, stack: stacks.RawStack) -> None:
        self.instance: weakref.ref[Any] | None = None
        self.strong: object = None
        self.owner = owner
        self.serial = serial
        self.stack = stack

    def is_of(self, instance: object) -> bool:
        return (self.strong if self.instance is None else self.instance()) is instance


class InstanceReuse:
    """Remembers who received each instance first."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._seen: dict[int, _Seen] = {}
        self._strong: deque[int] = deque()
        self._serial = 0

    def received(self, component: str, scope: str, instance: object, request: RequestContext | None) -> bool:
        """Note that `request` received `instance`; return True when it is shared against its declared scope."""
        if request is None or type(instance) in _NEVER_SHARED:
            self._reporter.skipped(names.INSTANCE_REUSE)
            return False
        seen = self._seen.get(id(instance))
        if seen is None or not seen.is_of(instance):
            self._remember(instance, request)
            self._reporter.checked(names.INSTANCE_REUSE)
            return False
        owner = seen.owner
        same_principal = owner.principal is not None and request.principal is not None and owner.principal.id == request.principal.id
        if owner is request or (scope == "user" and same_principal):
            self._reporter.checked(names.INSTANCE_REUSE)
            return False
        known = owner.principal is not None and request.principal is not None
        grade = "reachable" if known and not same_principal else "hygiene"
        self._reporter.report(
            Violation(
                kind=names.INSTANCE_REUSE,
                grade=grade,
                summary=f"{component}: one instance declared fresh per {scope} was given to two "
                + ("principals" if grade == "reachable" else "requests"),
                resource=Resource("instance", component, {"class": _class_name(instance), "serial": seen.serial, "scope": scope}),
                victim=side_of(owner, seen.stack),
                offender=side_of(request, stacks.capture(3)),
                arm=request.arm,
            ),
            request,
            owner,
        )
        return True

    def plant(self, lab: Lab) -> None:
        """Let the offender receive the instance that was made for the victim."""
        instance = _Planted()
        self.received("planted", "request", instance, lab.request())
        self.received("planted", "request", instance, lab.request(of_offender=True))

    def _remember(self, instance: object, request: RequestContext) -> None:
        if len(self._seen) >= TABLE_LIMIT:
            return
        self._serial += 1
        key = id(instance)
        seen = _Seen(request, self._serial, stacks.capture(4))
        table = self._seen
        try:
            # The entry goes when the instance dies: its identity may then be another object's.
            seen.instance = weakref.ref(instance, lambda _: table.pop(key, None))
        except TypeError:
            seen.strong = instance
            self._strong.append(key)
            if len(self._strong) > STRONG_LIMIT:
                table.pop(self._strong.popleft(), None)
        table[key] = seen


class _Planted:
    """Stands for an instance in a planted fault; forgotten when it dies."""

    __slots__ = ("__weakref__",)


def _class_name(instance: object) -> str:
    cls = type(instance)
    return f"{cls.__module__}.{cls.__qualname__}"
