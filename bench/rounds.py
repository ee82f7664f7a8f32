"""Interleaved measurement: every variant once per round, in changing order, by process CPU time.

The clock is the CPU time of the whole process, worker threads included: neighbours on a shared machine cannot add to it
as they add to wall time. Differences are taken within a round, so a slow stretch of the machine hits both sides; the
median over the rounds is the value. The quiet value compares the best slots.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to measure: `slot(n)` does n operations, and whatever work of its own they leave to a thread."""

    name: str
    slot: Callable[[int], Awaitable[None]]
    part: int = 1
    """Runs this part of a slot's operations: a fourth says as much of something ten times as slow, and leaves time for the rest."""
    enter: Callable[[], None] = lambda: None
    """Called before each slot, outside of the measured time: puts on what acts on the whole process."""
    leave: Callable[[], None] = lambda: None
    """Called after each slot: takes it off again, so that the other variants run without."""


@dataclass(frozen=True, slots=True)
class Value:
    """A median over rounds, the range of 90 % of its resamples, and the same from the quietest slots."""

    median: float
    spread: tuple[float, float]
    quiet: float


class Timings:
    """CPU microseconds per operation, by variant and round."""

    def __init__(self, by_variant: dict[str, list[float]]) -> None:
        self.by_variant = by_variant
        self.rounds = len(next(iter(by_variant.values())))

    @classmethod
    def joined(cls, parts: Sequence[Timings]) -> Timings:
        """Return the rounds of several measurements of the same variants as one."""
        return cls({name: [t for part in parts for t in part.by_variant[name]] for name in parts[0].by_variant})

    def plain(self, name: str) -> Value:
        """A variant's own cost."""
        times = self.by_variant[name]
        return self._value(lambda rounds: statistics.median(times[r] for r in rounds), min(times))

    def added(self, name: str, base: str) -> Value:
        """What a variant costs more than another."""
        differences = self._differences(name, base)
        quiet = min(self.by_variant[name]) - min(self.by_variant[base])
        return self._value(lambda rounds: statistics.median(differences[r] for r in rounds), quiet)

    def ratio(self, name: str, floor: str, base: str) -> Value:
        """What a variant adds to `base`, in units of what `floor` adds."""
        ours, theirs = self._differences(name, base), self._differences(floor, base)
        best = min(self.by_variant[base])
        quiet = (min(self.by_variant[name]) - best) / max(1e-9, min(self.by_variant[floor]) - best)

        def of(rounds: Sequence[int]) -> float:
            # Each median first: in a single round the difference of two slots can be near zero, and dividing by it says nothing.
            return statistics.median(ours[r] for r in rounds) / max(1e-9, statistics.median(theirs[r] for r in rounds))

        return self._value(of, quiet)

    def _differences(self, name: str, base: str) -> list[float]:
        return [a - b for a, b in zip(self.by_variant[name], self.by_variant[base], strict=True)]

    def _value(self, of: Callable[[Sequence[int]], float], quiet: float) -> Value:
        dice = random.Random(7)
        every = range(self.rounds)
        resampled = sorted(of(dice.choices(every, k=self.rounds)) for _ in range(RESAMPLES))
        return Value(of(every), (resampled[RESAMPLES // 20], resampled[-RESAMPLES // 20]), quiet)


async def measure(variants: Sequence[Variant], *, rounds: int, operations: int, warm: int = 0) -> Timings:
    """Run all variants `rounds` times, `operations` in a slot; the order is shuffled each second round and reversed in between.

    Args:
        warm: operations of each variant, those without `enter` too, between its `enter` and the measured time. Where a class is
            patched, the interpreter forgets what it had specialised for it. A service puts its hooks on once, not every 10 ms.
    """
    order = list(variants)
    dice = random.Random(1)
    by_variant: dict[str, list[float]] = {v.name: [] for v in variants}
    for variant in variants:
        # Twice the slot: caches, lazily built stacks and specialised bytecode are there before the first counted round.
        variant.enter()
        await variant.slot(2 * operations // variant.part)
        variant.leave()
    gc.collect()
    gc.freeze()
    try:
        for number in range(rounds):
            if number % 2:
                order.reverse()
            else:
                dice.shuffle(order)
            for variant in order:
                # The garbage of the variant before is not this one's; within the slot the collector runs as it does in service.
                gc.collect()
                count = max(1, operations // variant.part)
                variant.enter()
                if warm:
                    await variant.slot(warm)
                began = time.process_time_ns()
                await variant.slot(count)
                by_variant[variant.name].append((time.process_time_ns() - began) / count / 1_000)
                variant.leave()
    finally:
        gc.unfreeze()
    return Timings(by_variant)
