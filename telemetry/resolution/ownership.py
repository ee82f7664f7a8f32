"""Whose the resolved thread is beside who asks, and what becomes of a foreign one: denied, or served, which is a violation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from isolation_monitor.telemetry import stacks
from isolation_monitor.telemetry.detectors.id_resolution import Claim, IdResolution
from isolation_monitor.telemetry.errors import ForeignIdError, RunThreadMismatchError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.resolution.outcomes import Counts
    from isolation_monitor.telemetry.stacks import RawStack

Access = Callable[[str, str], object]
"""`access(user_id, thread_id)`: true when a user may see a thread that is not his own. Must wait for nothing."""
ErrorCounter = Callable[[str, BaseException], None]

LOOK_EVERY_S: Final = 0.5
LOOKS: Final = 600
"""After five minutes a request that still runs has been served long enough."""
PENDING_LIMIT: Final = 1_000


@dataclass(slots=True)
class Resolved:
    """The answer. `source` is one of `names.ID_RESULTS` (`error`: the default was taken), `outcome` one of `names.ID_OUTCOMES`.

    `outcome` is empty while it is open whether a foreign thread will be served.
    """

    run_id: str
    thread_id: str
    owner: str | None
    source: str
    outcome: str = ""
    is_refused: bool = False

    def refuse(self) -> None:
        """Say that the asker gets nothing of this thread: for answers over WebSockets and jobs, where no HTTP status tells."""
        self.is_refused = True


class Ownership:
    """Judges each resolution once."""

    def __init__(
        self, counts: Counts, detector: IdResolution, housekeeper: Housekeeper, access: Access | None, on_error: ErrorCounter
    ) -> None:
        self._outcomes = counts.outcomes
        self._detector = detector
        self._housekeeper = housekeeper
        self._access = access
        self._on_error = on_error
        self._pending = 0

    def judge(
        self,
        resolved: Resolved,
        thread_id: str | None,
        asker: str | None,
        foreign: Literal["deny", "report"],
        request: RequestContext | None,
    ) -> Resolved:
        """Count whose the thread is, and return what was resolved.

        Raises:
            RunThreadMismatchError: the caller took the run to belong to another thread.
            ForeignIdError: the thread is another user's, and such are denied.
        """
        if thread_id is not None and thread_id != resolved.thread_id:
            self._outcomes["run_thread_mismatch"].inc()
            raise RunThreadMismatchError(f"run {resolved.run_id!r} does not belong to thread {thread_id!r}")
        if asker is None and request is not None and request.principal is not None and not request.principal.is_credential:
            asker = request.principal.id
        if resolved.owner is None or asker is None:
            resolved.outcome = "unowned"
        elif resolved.owner == asker:
            resolved.outcome = "own"
        elif self._may_see(asker, resolved.thread_id):
            resolved.outcome = "shared"
        elif foreign == "deny":
            self._outcomes["foreign_denied"].inc()
            raise ForeignIdError(f"run {resolved.run_id!r} belongs to another user")
        else:
            self._watch(resolved, request)
            return resolved
        self._outcomes[resolved.outcome].inc()
        return resolved

    def _may_see(self, asker: str, thread_id: str) -> bool:
        if self._access is None:
            return False
        try:
            return self._access(asker, thread_id) is True
        except Exception as error:
            # Who cannot be proven to may see it, may not.
            self._on_error("resolution", error)
            return False

    def _watch(self, resolved: Resolved, request: RequestContext | None) -> None:
        stack = stacks.capture(3)
        self._pending += 1
        if self._pending > PENDING_LIMIT:
            self._settle(resolved, request, stack, 0)
        else:
            self._housekeeper.after(LOOK_EVERY_S, lambda: self._settle(resolved, request, stack, LOOKS))

    def _settle(self, resolved: Resolved, request: RequestContext | None, stack: RawStack, looks_left: int) -> None:
        if looks_left and request is not None and not request.finished and not resolved.is_refused:
            self._housekeeper.after(LOOK_EVERY_S, lambda: self._settle(resolved, request, stack, looks_left - 1))
            return
        self._pending -= 1
        is_denied = resolved.is_refused or (request is not None and request.finished and request.status >= 400)
        resolved.outcome = "foreign_denied" if is_denied else "foreign_served"
        self._outcomes[resolved.outcome].inc()
        if not is_denied:
            claim = Claim(resolved.source, resolved.thread_id, resolved.owner)
            self._detector.served(resolved.run_id, claim, request, stack)
