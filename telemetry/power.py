"""Power: each detector is proven by planted faults for as long as the service runs; one that misses makes the score grey.

A planted fault is one violation of a detector's kind, between two synthetic principals, through the detector's own entry
points (`lab.py`). It is seen when the detector reports it, marked synthetic, within `SEEN_WITHIN_S` seconds; else it is
missed. Nothing of the host takes part, and users' numbers do not move.

The power of a detector is what its last plants prove: the lower bound of its recall, with 95 % confidence (two-sided,
so 2.5 % below). Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26 (1934). It is the recall on planted faults of the detector's own entry points: whether the host's
acts reach these is what `isomon doctor` and `isolation_checks_total` tell.

Cost: one plant of a detector (tens to some hundred microseconds) every 15 seconds as shipped, on the housekeeper's thread;
detectors whose tables belong to the event loop say so by `plants_on_loop = True` and are proven there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from math import comb
from typing import TYPE_CHECKING, Final, Literal

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.lab import Lab, Plantable

if TYPE_CHECKING:
    import asyncio

    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principals
    from isolation_monitor.telemetry.switches import Switches
    from isolation_monitor.telemetry.violations import Violation

SEEN_WITHIN_S: Final = 5.0
"""Some detectors report by the housekeeper, after a grace time of their own."""
FIRST_AFTER_S: Final = 3.0
"""The first round begins so long after serving began."""
URGENT_AT_ONCE: Final = 2
"""Faults planted in one second while detectors are unproven: the first round is over within half a minute of the start."""
APART_S: Final = 0.05
"""Between those of one second, and from the look at what became of the earlier ones: the event loop has the interpreter in between."""
AGAIN_AFTER_S: Final = 10.0
"""A missed fault is planted again so soon: one long pause of the machine is no broken detector."""
LATE_S: Final = 60.0
"""A fault that waits for the event loop for longer is missed: a loop that never comes to it detects nothing."""
ROUNDS_UNTIL_GREY: Final = 3
REMEMBERED: Final = 20
TAIL: Final = 0.025
"""Both tails of the 95 % interval together are 5 %."""
UNTESTED: Final = -1.0

State = Literal["proven", "grey", "untested", "off"]


def recall_at_least(seen: int, planted: int, tail: float = TAIL) -> float:
    """Return the Clopper-Pearson lower bound of a recall, of which `seen` among `planted` faults are known.

    It is the recall with which `seen` or more would be seen with a probability of `tail`.

    >>> round(recall_at_least(20, 20), 4)
    0.8316
    """
    if not seen:
        return 0.0
    if seen == planted:
        return float(tail ** (1 / planted))
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        as_many = sum(comb(planted, n) * middle**n * (1 - middle) ** (planted - n) for n in range(seen, planted + 1))
        low, high = (middle, high) if as_many < tail else (low, middle)
    return low


class _Planted:
    """A fault that was planted and not seen yet."""

    __slots__ = ("asked_at", "lab", "planted_at")

    def __init__(self, lab: Lab, now: float) -> None:
        self.lab = lab
        self.asked_at = now
        self.planted_at: float | None = None
        """None until the plant has run to its end; the loop may come to it late."""


class _Proof:
    """What is known of one detector."""

    __slots__ = ("detector", "due", "pending", "plantable", "results", "since", "was_seen")

    def __init__(self, detector: str, plantable: Plantable) -> None:
        self.detector = detector
        self.plantable = plantable
        self.results: deque[bool] = deque(maxlen=REMEMBERED)
        self.pending: _Planted | None = None
        self.was_seen = False
        self.due = 0.0
        """When the next fault may be planted, after one that was missed."""
        self.since = 0.0
        """Of the last result; 0 before the first."""

    @property
    def is_proven(self) -> bool:
        return bool(self.results) and self.results[-1]


class Power:
    """Plants faults in turn, and keeps what they prove. Everything but the loop's plants runs on the housekeeper's thread."""

    def __init__(
        self,
        ledger: Ledger,
        principals: Principals,
        switches: Switches,
        plantables: Mapping[str, Plantable],
        interval_s: float,
        after: Callable[[float, Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`after(delay_s, job)` runs a job later on the housekeeper's thread."""
        self._ledger = ledger
        self._principals = principals
        self._switches = switches
        self._interval_s = interval_s
        self._after = after
        self._clock = clock
        registry = ledger.registry
        self._counts = {
            (detector, result): registry.counter(names.PLANTED_FAULTS, detector=detector, result=result)
            for detector in names.DETECTORS
            for result in names.PLANT_RESULTS
        }
        self._powers = {detector: registry.gauge(names.DETECTOR_POWER, detector=detector) for detector in names.DETECTORS}
        self._states = {
            (detector, state): registry.gauge(names.DETECTOR_STATE, detector=detector, state=state)
            for detector in names.DETECTORS
            for state in names.DETECTOR_STATES
        }
        self._plantables = plantables
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begins_at: float | None = None
        self._next_at = 0.0
        self._lock = threading.Lock()
        """Guards what becomes of a planted fault: it is reported on any thread."""
        self._proofs = {detector: _Proof(detector, plantable) for detector, plantable in plantables.items()}
        ledger.on_violation.append(self._reported)

    # --- what the monitor says ----------------------------------------------------------------------------------------

    def serving(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begin, or begin anew in a forked worker; `loop` is the one that serves, where there is one."""
        self._loop = loop
        self._lock = threading.Lock()
        self._begins_at = self._clock() + FIRST_AFTER_S
        self._next_at = 0.0
        self._proofs = {detector: _Proof(detector, plantable) for detector, plantable in self._plantables.items()}

    def tick(self, now: float) -> None:
        """Settle what was planted, plant the next fault when it is time, and show what is known; about once a second."""
        for proof in self._proofs.values():
            self._settle(proof, now)
        if self._interval_s and self._begins_at is not None and now >= self._begins_at:
            ready = [proof for proof in self._proofs.values() if proof.pending is None and self._switches[proof.detector].is_on]
            urgent = [proof for proof in ready if proof.due <= now and not proof.is_proven]
            if urgent:
                # The first round, a few each second; a missed fault comes again without waiting for its turn.
                for number, proof in enumerate(urgent[:URGENT_AT_ONCE], 1):
                    self._plant(proof, now, number * APART_S)
            elif ready and now >= self._next_at:
                self._plant(min(ready, key=lambda proof: proof.since), now, APART_S)
                self._next_at = now + self._interval_s
        self._show(now)

    def plant(self, detector: str, now: float | None = None) -> None:
        """Plant a fault for one detector now; for tests and `isomon doctor`.

        Raises:
            KeyError: there is no such detector.
        """
        self._plant(self._proofs[detector], self._clock() if now is None else now)

    def state(self, detector: str, now: float | None = None) -> State:
        """Return `off`, `untested`, `proven` or `grey`: its last planted fault was missed, or none was planted for three rounds."""
        if not self._switches[detector].is_on:
            return "off"
        proof = self._proofs.get(detector)
        if proof is None or not proof.results:
            return "untested"
        round_s = self._interval_s * len(self._proofs)
        is_old = round_s > 0 and (self._clock() if now is None else now) - proof.since > ROUNDS_UNTIL_GREY * round_s
        return "proven" if proof.is_proven and not is_old else "grey"

    def power(self, detector: str) -> float:
        """Return the lower bound of a detector's recall; -1 while it was not tested, or is off."""
        proof = self._proofs.get(detector)
        if proof is None or not proof.results or not self._switches[detector].is_on:
            return UNTESTED
        return recall_at_least(sum(proof.results), len(proof.results))

    # --- one planted fault -------------------------------------------------------------------------------------------

    def _plant(self, proof: _Proof, now: float, delay_s: float = 0.0) -> None:
        planted = _Planted(Lab(self._principals), now)
        with self._lock:
            proof.pending, proof.was_seen = planted, False
        loop = self._loop
        if getattr(type(proof.plantable), "plants_on_loop", False) and loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._act, proof, planted)
            except RuntimeError:
                # The loop was closed in between: the service is going down.
                self._drop(proof)
        elif delay_s:
            self._after(delay_s, partial(self._act, proof, planted))
        else:
            self._act(proof, planted)

    def _act(self, proof: _Proof, planted: _Planted) -> None:
        if proof.pending is not planted or not self._switches[proof.detector].is_on:
            return
        try:
            with self._ledger.planting():
                proof.plantable.plant(planted.lab)
        except Exception as error:
            self._ledger.internal_error("self_test", error)
        planted.planted_at = self._clock()

    def _reported(self, violation: Violation) -> None:
        proof = self._proofs.get(violation.kind)
        if proof is None or not violation.synthetic:
            return
        with self._lock:
            pending = proof.pending
            if pending is not None and _is_of(violation, pending.lab):
                proof.was_seen = True

    def _settle(self, proof: _Proof, now: float) -> None:
        pending = proof.pending
        if pending is None:
            return
        if not self._switches[proof.detector].is_on:
            self._drop(proof)
            return
        if proof.was_seen:
            self._count(proof, True, now)
        elif now - (pending.asked_at + LATE_S if pending.planted_at is None else pending.planted_at + SEEN_WITHIN_S) >= 0:
            self._count(proof, False, now)

    def _count(self, proof: _Proof, is_seen: bool, now: float) -> None:
        self._drop(proof)
        proof.results.append(is_seen)
        proof.since = now
        proof.due = now if is_seen else now + AGAIN_AFTER_S
        self._counts[proof.detector, "seen" if is_seen else "missed"].inc()

    def _drop(self, proof: _Proof) -> None:
        with self._lock:
            pending, proof.pending = proof.pending, None
        if pending is not None:
            self._principals.forget(pending.lab.victim)
            self._principals.forget(pending.lab.offender)

    def _show(self, now: float) -> None:
        # Each time anew, because a forked worker starts at zero.
        for detector, gauge in self._powers.items():
            gauge.set(self.power(detector))
            state = self.state(detector, now)
            for one in names.DETECTOR_STATES:
                self._states[detector, one].set(1.0 if one == state else 0.0)


def _is_of(violation: Violation, lab: Lab) -> bool:
    """Return whether a violation is between the lab's two principals; one without sides cannot tell, and is taken as such."""
    hashes = {side.principal for side in (violation.victim, violation.offender) if side is not None and side.principal is not None}
    return not hashes or not hashes.isdisjoint((lab.victim.hash, lab.offender.hash))
