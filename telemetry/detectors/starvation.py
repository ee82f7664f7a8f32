"""Starvation: requests of one principal wait for what a request of another principal holds.

Sees: `asyncio` locks and semaphores, from the moment that their holder is known: who took each, where, and who waits.
A wait longer than `starvation_threshold_ms` is reported when one holder of another principal held it for that long
of the wait, or when a holder's request is over: nobody is left to give it back. Of a semaphore all holders must be of
one other principal, or one of them over: a limit that many share fairly is a limit at work. Queues that serve as pools
(what is taken is put back) count as semaphores. Also a pool of the database that timed out while another's leak held it,
and failures that reached another principal's request (`containment.py`).
Cannot see: locks of threads; conditions, events and barriers, which nobody holds; a lock made and bound before the
application was instrumented (`Condition` keeps the methods of its lock); a convoy in which no single holder is slow.
Cost: about 1 us for each acquisition inside a request, 0.4 us outside; 3 us more where it has to wait.
Precision: near 1 for locks. Waits inside one principal, and holders outside any request, are never reported.
Grade: `hygiene`: nobody's data moved, but one user's request stopped another's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.recent import Recent
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from types import FrameType

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

WAITS_LIMIT: Final = 10_000
GAVE_UP_LIMIT: Final = 1_000
GAVE_UP_S: Final = 30.0
"""For so long a wait in vain can explain a failure."""

T = TypeVar("T")
clock = time.perf_counter


class Holder:
    """Who holds a lock, or one place of a semaphore; `request` is None outside any request."""

    __slots__ = ("request", "since", "stack", "until")

    def __init__(self, request: RequestContext | None, stack: RawStack, since: float) -> None:
        self.request = request
        self.stack = stack
        self.since = since
        self.until: float | None = None
        """None while it is held."""

    def gave_back(self) -> None:
        # Nobody is one for all.
        if self.request is not None:
            self.until = clock()

    def held_s(self, since: float, now: float) -> float:
        """Return for how long it was held after `since`."""
        return (now if self.until is None else self.until) - max(self.since, since)


NOBODY: Final = Holder(None, (), 0.0)
"""Holds for code outside any request."""


class Holding:
    """What is held: its kind and its holders, oldest first. Lives as long as the lock that it belongs to."""

    __slots__ = ("holders", "is_known", "kind", "name", "waits")

    def __init__(self, kind: str, name: str = "") -> None:
        self.kind = kind
        self.name = name or f"asyncio.{kind}"
        self.is_known = True
        """False while it is not certain that what is taken is owed back."""
        self.holders: list[Holder] = []
        self.waits: list[Wait] = []
        """Who waits for a place now."""

    def came(self, holder: Holder) -> None:
        """Note one more holder of several places.

        Who comes while nobody has given back has had his place before: libraries give it first and let him run later, and
        a wait may begin in between.
        """
        self.holders.append(holder)
        for wait in reversed(self.waits):
            if any(one.until is not None for one in wait.holders):
                # Those before it have waited longer still.
                break
            wait.holders += (holder,)

    def given_back(self, request: RequestContext | None) -> None:
        """Forget the holder that `request` is, or the oldest when somebody else gives back for it."""
        holders = self.holders
        if len(holders) == 1:
            holders.pop().gave_back()
            return
        for at in range(len(holders) - 1, -1, -1):
            if holders[at].request is request:
                break
        else:
            at = 0
        if holders:
            holders.pop(at).gave_back()


class Wait:
    """One request that waits."""

    __slots__ = ("holders", "holding", "is_judged", "request", "since", "stack")

    def __init__(self, holding: Holding, request: RequestContext, stack: RawStack) -> None:
        self.holding = holding
        self.holders = tuple(holding.holders)
        """Who held it when the wait began, as far as it is known by now."""
        self.request = request
        self.stack = stack
        self.since = clock()
        self.is_judged = False


class Starvation:
    """Judges waits: while they last, twice in each threshold's time, and when they end."""

    def __init__(self, kit: Kit) -> None:
        self._housekeeper = kit.housekeeper
        self._reporter = kit.reporter
        self.switch = kit.switches[names.STARVATION]
        """Asked at every acquisition, so a plain attribute."""
        self._threshold_s = max(kit.settings.starvation_threshold_ms / 1000, 0.01)
        self._waits: dict[Wait, None] = {}
        self._is_sweeping = False
        self._gave_up: Recent[int, Holder] = Recent(kit.housekeeper, GAVE_UP_LIMIT, GAVE_UP_S)

    # --- what the locks say -----------------------------------------------------------------------------------------

    def begun(self, holding: Holding, stack: RawStack) -> Wait | None:
        """Note that the current request has to wait; None outside any."""
        request = CURRENT.get()
        if request is None or len(self._waits) >= WAITS_LIMIT:
            return None
        wait = Wait(holding, request, stack)
        self._waits[wait] = None
        holding.waits.append(wait)
        if not self._is_sweeping:
            self._is_sweeping = True
            self._housekeeper.after(self._threshold_s, self._sweep)
        return wait

    def ended(self, wait: Wait, *, in_vain: bool = False) -> None:
        """Note that a wait is over; `in_vain` when it was given up."""
        self._waits.pop(wait, None)
        wait.holding.waits.remove(wait)
        if in_vain:
            self._note_in_vain(wait)
        if not wait.is_judged and not self._judge(wait, wait.holders):
            self._reporter.checked(names.STARVATION)

    async def waiting(self, holding: Holding, stack: RawStack, acquire: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Acquire what somebody holds by the library's own `acquire(*arguments)`, and tell how it went."""
        wait = None
        try:
            wait = self.begun(holding, stack)
        except Exception as error:
            self.failed(error)
        if wait is None:
            return await acquire(*arguments)
        in_vain = True
        try:
            result = await acquire(*arguments)
            in_vain = False
            return result
        finally:
            try:
                self.ended(wait, in_vain=in_vain)
            except Exception as error:
                self.failed(error)

    def failed(self, error: BaseException) -> None:
        self._reporter.check_failed(names.STARVATION, "asyncio", error)

    # --- what others ask --------------------------------------------------------------------------------------------

    def starved_by(self, request: RequestContext) -> RequestContext | None:
        """Return the request of another principal because of which `request` waited in vain, once."""
        holder = self._gave_up.pop(request.serial)
        return holder.request if holder is not None else None

    def pool_starved(self, pool: str, request: RequestContext, holder: RequestContext, stack: RawStack, held_s: float) -> None:
        """Report a request that got no connection of `pool` while a leak of another principal's request held one."""
        if self.switch.is_on:
            self._report(request, (), 0.0, holder, stack, held_s, Resource("db_connection", pool, {"held_s": round(held_s, 3)}))

    def drawn_in(self, victim: RequestContext, root: RequestContext, how: str) -> None:
        """Report a request that failed because of another principal's: by the same exception, a cancelled task, or a lock."""
        if not self.switch.is_on:
            return
        self._reporter.report(
            Violation(
                kind=names.STARVATION,
                grade="hygiene",
                summary=f"a request failed because of another principal's request ({how})",
                resource=Resource("failure", how, {"root_is_over": root.finished}),
                victim=side_of(victim),
                offender=side_of(root),
                arm=victim.arm,
            ),
            victim,
            root,
        )

    def plant(self, lab: Lab) -> None:
        holding = Holding("lock")
        holding.holders.append(Holder(lab.request(of_offender=True), (), clock() - self._threshold_s * 2))
        wait = lab.inside(lab.request(), self.begun, holding, ())
        if wait is not None:
            wait.since -= self._threshold_s * 2
            self.ended(wait)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now = clock()
        for wait in list(self._waits):
            if now - wait.since >= self._threshold_s and not wait.is_judged:
                try:
                    holders = tuple(wait.holding.holders)
                    # Fewer than there were: a place was given back this moment, and who still holds one is not to blame.
                    if len(holders) >= len(wait.holders):
                        self._judge(wait, holders)
                except Exception as error:
                    self.failed(error)
        # In this order: one that comes in between finds the flag down and starts the next sweep itself.
        self._is_sweeping = False
        if self._waits:
            self._is_sweeping = True
            self._housekeeper.after(self._threshold_s / 2, self._sweep)

    def _judge(self, wait: Wait, holders: tuple[Holder, ...]) -> bool:
        """Report a wait that was too long, when one principal is to blame for it; return whether it did."""
        now = clock()
        if now - wait.since < self._threshold_s or not self.switch.is_on:
            return False
        blamed = self._blamed(wait, holders, now)
        if blamed is None or blamed.request is None or wait.is_judged:
            return False
        wait.is_judged = True
        self._report(
            wait.request,
            wait.stack,
            now - wait.since,
            blamed.request,
            blamed.stack,
            blamed.held_s(0.0, now),
            Resource(
                wait.holding.kind,
                wait.holding.name,
                {
                    "waited_s": round(now - wait.since, 3),
                    "held_s": round(blamed.held_s(0.0, now), 3),
                    "threshold_s": self._threshold_s,
                    "holders": len(holders),
                    "holder_is_over": blamed.request.finished,
                },
            ),
        )
        return True

    def _blamed(self, wait: Wait, holders: tuple[Holder, ...], now: float) -> Holder | None:
        waiting = wait.request.principal
        if waiting is None or not holders:
            return None
        others = [one for one in holders if _is_of_another(one, wait.request)]
        for one in others:
            if one.request is not None and one.request.finished and one.until is None:
                return one
        if len(others) < len(holders) or len({one.request.principal.id for one in others if one.request and one.request.principal}) > 1:
            return None
        # A holder that came while we waited has been slow only since then.
        return next((one for one in others if one.held_s(wait.since, now) >= self._threshold_s * 0.9), None)

    def _note_in_vain(self, wait: Wait) -> None:
        for one in wait.holders:
            if _is_of_another(one, wait.request) and clock() - wait.since >= min(self._threshold_s, 0.05):
                self._gave_up.put(wait.request.serial, one)
                return

    def _report(
        self,
        waiting: RequestContext,
        waiting_stack: RawStack,
        waited_s: float,
        holder: RequestContext,
        holder_stack: RawStack,
        held_s: float,
        resource: Resource,
    ) -> None:
        over = "whose request is over" if holder.finished else "whose request still runs"
        now = time.time()
        self._reporter.report(
            Violation(
                kind=names.STARVATION,
                grade="hygiene",
                summary=f"a request waited {waited_s:.1f} s for {resource.name}, held for {held_s:.1f} s by another principal {over}",
                resource=resource,
                victim=side_of(waiting, waiting_stack, at=now - waited_s),
                offender=side_of(holder, holder_stack, at=now - held_s),
                arm=waiting.arm,
            ),
            waiting,
            holder,
        )


def near(frame: FrameType) -> RawStack:
    """Return the three nearest frames, written out: a whole stack would cost more than the lock itself."""
    above = frame.f_back
    if above is None:
        return ((frame.f_code, frame.f_lasti),)
    top = above.f_back
    if top is None:
        return ((frame.f_code, frame.f_lasti), (above.f_code, above.f_lasti))
    return ((frame.f_code, frame.f_lasti), (above.f_code, above.f_lasti), (top.f_code, top.f_lasti))


def _is_of_another(holder: Holder, waiting: RequestContext) -> bool:
    return holder.request is not None and holder.request.is_of_another(waiting)
