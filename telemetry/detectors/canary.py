"""Canaries: values planted for one tenant in the stores of a service; seen anywhere else, they prove a leak.

Sees: every planted value in answers, streams, header values and frames of anybody but its tenant, and in outgoing calls.
Cannot see: paths that the planted rows do not travel. Cost: one pass of a multi-pattern matcher: 8 us for 5 kB and a
thousand canaries with the native matcher (extra `fast`), about 50 us with the standard library's; nothing without canaries.
Precision: 1: nobody has the value by right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.violations import Resource, Violation, escalate_causes, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

LIMIT: Final = 10_000
MIN_LENGTH: Final = 12

Matcher = Callable[[str], list[str]]


def _native() -> Any:  # Any: a module that may not be there
    try:
        import ahocorasick_rs
    except ImportError:
        return None
    return ahocorasick_rs


NATIVE: Final = _native()
"""Imported at once, not when it is needed: on a thread of ours, a fork at that moment would leave the import's lock held in the child."""


class Canaries:
    """Knows the planted values and looks for them."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._reporter = kit.reporter
        self._switch = kit.switches[names.CANARY]
        self._owners: dict[str, Principal] = {}
        self._find: Matcher | None = None
        """None while there are none, and after a change until the next look."""

    def add(self, value: str, owner: Principal) -> None:
        """Plant a value.

        Raises:
            SettingsError: it is shorter than 12 characters, or there are 10,000 already.
        """
        if len(value) < MIN_LENGTH:
            raise SettingsError(
                f"canary of {len(value)} characters: use at least {MIN_LENGTH} random ones, or others' data will contain it"
            )
        if len(self._owners) >= LIMIT:
            raise SettingsError(f"there are {LIMIT:,} canaries already: plant a few per store, not one per row")
        self._owners[value] = owner
        self._find = None

    def remove(self, value: str) -> None:
        self._owners.pop(value, None)
        self._find = None

    def leaving(self, request: RequestContext, text: str, where: str) -> bool:
        """Judge a text on its way to the request's principal; return True when it carries another tenant's canary."""
        if not self._owners or not self._switch.is_on:
            return False
        if self._find is None:
            self._find = matcher(self._owners)
        for value in self._find(text):
            owner = self._owners.get(value)
            if owner is None or (request.principal is not None and request.principal.id == owner.id):
                continue
            self._report(request, owner, where)
            return True
        self._reporter.checked(names.CANARY)
        return False

    def _report(self, request: RequestContext, owner: Principal, where: str) -> None:
        escalate_causes(self._reporter, request, owner, "a canary of the victim left in the answer")
        self._reporter.report(
            Violation(
                kind=names.CANARY,
                grade="crossed",
                summary=f"{where} of {request.route} carried a canary of another tenant",
                resource=Resource("canary", "planted value", {"where": where}),
                victim=side_of(None, principal=owner),
                offender=side_of(request),
                arm=request.arm,
            ),
            request,
        )

    def plant(self, lab: Lab) -> None:
        """Show the offender a canary of the victim."""
        value = f"canary-{lab.name}-planted"
        self.add(value, lab.victim)
        try:
            self.leaving(lab.request(of_offender=True), f'{{"value": "{value}"}}', "the answer")
        finally:
            self.remove(value)


def matcher(values: Iterable[str]) -> Matcher:
    """Return what finds all the given values that stand in a text; with `ahocorasick_rs` where it is installed."""
    patterns = list(values)
    if NATIVE is None:
        expression = re.compile("|".join(re.escape(value) for value in sorted(patterns, key=len, reverse=True)))
        return expression.findall
    automaton = NATIVE.AhoCorasick(patterns)
    return lambda text: automaton.find_matches_as_strings(text)
