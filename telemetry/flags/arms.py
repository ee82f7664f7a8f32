"""The arms of a request: of each rollout that it evaluated, which variant it was given.

A request has one arm over all rollouts, the label `arm`: `on` where any answered `on`, else `off` where one answered `off`, else
`none`. An answer that is no choice of the rule (an error, the code's default, a stale state) is `none`: it must not pass for the
control. Within a request `on` stays: it was served by the new code, whatever a later evaluation says.
What a WebSocket's handshake evaluated holds for the messages of that connection, until they evaluate it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext

NONE: Final = "none"
UNDECIDED: Final = frozenset({"ERROR", "DEFAULT", "STALE"})
"""Reasons of OpenFeature with which a variant is nobody's choice."""
ROLLOUTS_OF_A_REQUEST: Final = 20
"""Rollouts that one request can be told by; those it evaluates beyond have no label."""

_RANK: Final = {NONE: 0, "off": 1, "on": 2}
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Arms:
    """What one request was given. Written by the code that serves it, wherever that runs."""

    __slots__ = ("evaluated", "inherited")

    def __init__(self, inherited: Mapping[str, str] = _NOTHING) -> None:
        self.evaluated: dict[str, str] = {}
        self.inherited = inherited
        """What the handshake of its connection was given."""

    @property
    def by_rollout(self) -> dict[str, str]:
        """The arm of each rollout."""
        return {**self.inherited, **self.evaluated}

    def note(self, rollout: str, arm: str) -> bool:
        """Take one evaluation in; False when the request has too many rollouts already."""
        known = self.evaluated.get(rollout)
        if known is None:
            if len(self.evaluated) >= ROLLOUTS_OF_A_REQUEST:
                return False
            self.evaluated[rollout] = arm
        elif _RANK[arm] > _RANK[known]:
            self.evaluated[rollout] = arm
        return True


def arm_of(variant: str | None, reason: str | None) -> str:
    """Return the arm that an evaluation's variant stands for."""
    return variant if variant in names.VARIANTS and reason not in UNDECIDED else NONE


def strongest(arms: Mapping[str, str]) -> str:
    """Return the one arm over all rollouts."""
    return max(arms.values(), key=_RANK.__getitem__, default=NONE)


def evaluated(request: RequestContext, rollout: str, arm: str) -> bool:
    """Note on a request what it was given; False when it has too many rollouts already."""
    arms = request.arms
    if arms is None:
        arms = request.arms = Arms()
    if not arms.note(rollout, arm):
        return False
    request.arm = strongest(arms.by_rollout) if arms.inherited or len(arms.evaluated) > 1 else arms.evaluated[rollout]
    return True


def inherit(message: RequestContext, handshake: RequestContext) -> None:
    """Give a message of a connection what its handshake was given."""
    given = handshake.arms
    if given is not None and given.evaluated:
        message.arms = Arms(given.evaluated)
        message.arm = handshake.arm


def merged(requests: tuple[RequestContext | None, ...]) -> dict[str, str]:
    """Return the arms of several requests as one: by rollout, `on` where any had it."""
    found: dict[str, str] = {}
    for request in requests:
        if request is not None and request.arms is not None:
            for rollout, arm in request.arms.by_rollout.items():
                if _RANK[arm] >= _RANK[found.get(rollout, NONE)]:
                    found[rollout] = arm
    return found
