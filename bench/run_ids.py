"""One run id resolved by the registry in memory: what every event of a run costs a service that asks for its thread.

Beside it the same look-up in a bare dictionary, and the making of an id. The budget: a resolution stands where a query would (some
hundred microseconds on a local database) and is asked for once an event, so it may cost what the monitor may cost for a frame: 5 us.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.applications import monitor
from bench.rounds import Variant, measure
from bench.rows import Row

HIT_BUDGET_US = 5.0
IDS = 1_000


async def resolution(quick: bool) -> list[Row]:
    """The rows of resolving and making ids."""
    rounds, operations = (4, 200) if quick else (60, 2_000)
    watching = monitor()
    watching.serving()
    ids = watching.resolution()
    known = [await ids.create(f"thread-{n}", owner=f"user-{n}") for n in range(IDS)]
    bare = {run_id: f"thread-{n}" for n, run_id in enumerate(known)}

    async def look_up(run_id: str) -> str:
        return bare[run_id]

    def over(call: Callable[[int], Awaitable[object]]) -> Callable[[int], Awaitable[None]]:
        async def run(operations: int) -> None:
            for n in range(operations):
                await call(n % IDS)

        return run

    try:
        variants = [
            Variant("dictionary", over(lambda n: look_up(known[n]))),
            Variant("hit", over(lambda n: ids.resolve(known[n], asker=f"user-{n}"))),
            Variant("create", over(lambda n: ids.create("thread-1", owner="user-1"))),
        ]
        timings = await measure(variants, rounds=rounds, operations=operations)
    finally:
        await watching.aclose()
    hit, made = timings.added("hit", "dictionary"), timings.added("create", "dictionary")
    return [
        Row("run id, one hit of the registry", hit.median, "us", HIT_BUDGET_US, spread=hit.spread, quiet=hit.quiet),
        Row("run id, made and registered", made.median, "us", spread=made.spread, quiet=made.quiet),
    ]
