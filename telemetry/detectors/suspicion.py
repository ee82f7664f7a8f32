"""Suspicions: a foreign value on its way to a principal, and what its owner is known by."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.ownership import MADE, Entry, How
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.principals import Principal

SAID: Final = ("ingress", *MADE)
"""What a principal says or does: it may be meant for others."""
MOVING_LIMIT: Final = 500
UNCONFIRMED_LIMIT: Final = 1_000
UNCONFIRMED_EACH: Final = 4
HOW_KNOWN: Final[dict[How, str]] = {
    "made": "the owner's request made it",
    "passed": "the owner was given it, and his request passed it on",
    "ingress": "it came in with the owner's request",
    "credential": "its owner proves himself with it",
    "answers": "an endpoint gives it to its owner alone",
    "declared": "the application declares it private",
    "state": "memory keeps it under its owner's id",
    "": "its owner is unknown",
}


def echo_key(token: str, entry: Entry, text: str) -> str:
    """Return by what the copies of a frame are recognised: by what was said; what somebody is often given, only by the whole frame."""
    return token if entry.how in SAID else f"{token} {hash(text)}"


class Unconfirmed:
    """Suspicions by what an endpoint usually gives to a principal: they wait until he is given it once more.

    Content that is picked anew from time to time is somebody's usual one until it becomes another's, and does not come back.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, list[tuple[Suspicion, object]]] = {}
        """By the value."""

    def hold(self, suspicion: Suspicion, endpoint: object) -> None:
        """Keep a suspicion and the endpoint that it was seen at; at most a few of each value."""
        waiting = self.waiting.setdefault(suspicion.token, [])
        if len(waiting) < UNCONFIRMED_EACH:
            waiting.append((suspicion, endpoint))
        if len(self.waiting) > UNCONFIRMED_LIMIT:
            self.waiting.pop(next(iter(self.waiting)), None)

    def came_back(self, token: str) -> list[tuple[Suspicion, object]]:
        """Note that a value went to its owner; return what waited for that."""
        return self.waiting.pop(token, [])


class Moving:
    """Suspicions by where memory keeps a value: it may have been handed over since the latest walk.

    They wait for a walk that begins later. If that finds the value under the receiver's id, or under both, all is well.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Suspicion, object]] = deque()
        """In the order of time; filled on one thread and emptied on another, one atomic step each."""

    def hold(self, suspicion: Suspicion, endpoint: object) -> bool:
        """Keep a suspicion and the endpoint that it was seen at; return False when there are too many."""
        if len(self._waiting) >= MOVING_LIMIT:
            # What was judged meanwhile needs its place no longer.
            with suppress(IndexError):
                while self._waiting[0][1].is_settled:
                    self._waiting.popleft()
            if len(self._waiting) >= MOVING_LIMIT:
                return False
        self._waiting.append((time.monotonic(), suspicion, endpoint))
        return True

    def walked(self, begun: float) -> list[tuple[Suspicion, object]]:
        """Return what a walk that began at that moment has not explained."""
        ripe = []
        while self._waiting and self._waiting[0][0] <= begun:
            _, suspicion, endpoint = self._waiting.popleft()
            if not suspicion.is_explained:
                ripe.append((suspicion, endpoint))
        return ripe

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)


class Suspicion:
    """A foreign value on its way to a principal."""

    __slots__ = (
        "at", "entry", "grade", "has_handle", "is_reported", "is_settled", "owner", "principal", "receivers", "request", "signed",
        "sockets", "token", "where",
    )  # fmt: skip

    def __init__(
        self, request: RequestContext, principal: Principal, token: str, entry: Entry, where: str, *,
        grade: str = "crossed", at: float | None = None,
    ) -> None:  # fmt: skip
        self.request = request
        self.principal = principal
        self.token = token
        self.entry = entry
        owner = entry.owner
        self.owner: Principal = owner if owner is not None else entry.origin.principal
        self.where = where
        self.grade = grade
        self.at = time.time() if at is None else at
        """When it left; a proof may come later."""
        self.receivers: set[str] = set()
        self.sockets: set[int] = set()
        """Connections, and answers that are streams, by the serial number of each."""
        self.is_reported = False
        self.is_settled = False
        """Judged after a wait."""
        self.has_handle = False
        """Whether it is listed with a handle of its own (`consent.py`)."""
        self.signed: list[str] = []
        """The names that a frame is signed with (`authors.py`)."""

    @property
    def is_explained(self) -> bool:
        """Whether the value has turned out to be everybody's, or the receiver's."""
        owner = self.entry.owner
        return self.entry.is_public or owner is None or owner.id != self.owner.id

    def goes_to(self, other: Suspicion) -> None:
        """Note the receiver of another frame with the same content, or of this one."""
        self.receivers.add(other.principal.id)
        self.sockets.add((other.request.connection or other.request).serial)

    def as_violation(self, cause: Violation | None) -> Violation:
        """Return what is reported: whose the value is, how that is known, and to whom it went; `cause` let it come there."""
        request, entry, owner, token = self.request, self.entry, self.owner, self.token
        source = entry.origin if entry.origin.principal.id == owner.id else None
        digest = hashlib.sha256(token.encode()).hexdigest()[:16]
        return Violation(
            kind=names.FOREIGN_CONTENT,
            grade=self.grade,
            summary=f"{self.where} of {request.route} carried a value that belongs to another principal ({HOW_KNOWN[entry.how]})",
            resource=Resource("value", HOW_KNOWN[entry.how], {"digest": digest, "length": len(token)}),
            victim=side_of(source.request if source else None, principal=owner, at=source.at if source else None),
            offender=side_of(request, at=self.at),
            arm=request.arm,
            detail={"where": self.where} | ({"cause": cause.id} if cause else {}),
        )
