"""One HTTP request: everything the monitor does but reading bodies, beside the floor and the peers."""

from __future__ import annotations

import cProfile
import gc
import pstats
import random
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from bench import peers
from bench.applications import STACKS, Client, Stack, build, monitor
from bench.floor import Floor
from bench.rounds import Timings, Value, Variant, measure
from bench.rows import Row

BUDGET_FLOORS = 1.5
BUDGET_CALLS = 45
BUDGET_BODY_US = 40.0
MANY_ROUTES = 100
LAYOUTS = 40
RAW, FLOOR, OURS = "raw", "floor", "isolation_monitor"


async def core(quick: bool) -> list[Row]:
    """CPU added per request, in units of the floor, and whether that is below every peer in the same run."""
    rows = []
    for stack in STACKS:
        rows += await _core(stack, *((2, 4, 30) if quick else (LAYOUTS, 16, 200)))
    return rows


async def _core(stack: Stack, layouts: int, rounds: int, operations: int) -> list[Row]:
    recorded: dict[str, dict[str, int]] = {}
    timings = Timings.joined([await _one_layout(stack, rounds, operations, recorded) for _ in range(layouts)])
    ours = timings.ratio(OURS, FLOOR, RAW)
    rows = [
        Row(f"http core, {stack}", ours.median, "x floor", BUDGET_FLOORS, spread=ours.spread, quiet=ours.quiet),
        _us(f"http core, {stack}: bare request", timings.plain(RAW)),
        _us(f"http core, {stack}: floor", timings.added(FLOOR, RAW)),
        _us(f"http core, {stack}: {OURS}", timings.added(OURS, RAW)),
    ]
    for name, counts in recorded.items():
        counted = " + ".join(f"{n:,} {what}" for what, n in counts.items())
        rows.append(_us(f"http core, {stack}: {name}", timings.added(name, RAW), f"recorded {counted}"))
    rows += [Row(f"http core, {stack}: {name}", None, "us", note=reason) for name, reason in peers.missing(stack)]
    if recorded:
        best = min(timings.added(name, RAW).median for name in recorded)
        is_below = timings.added(OURS, RAW).median < best
        rows.append(Row(f"http core, {stack}: below every peer", float(is_below), "1 or 0", 1.0, "higher"))
    return rows


async def _one_layout(stack: Stack, rounds: int, operations: int, recorded: dict[str, dict[str, int]]) -> Timings:
    """Measure applications built anew, and add what each peer recorded to `recorded`.

    Where its objects happen to lie in memory makes an application 2 % faster or slower for as long as it lives, which is
    as much as the monitor costs: only several of each tell the two apart.
    """
    installed = peers.peers(stack)
    # Close looks at some requests of each second are a row of their own: http all detectors, bodies off.
    watching = monitor(body_limit_bytes=0, looks_per_second=0)
    try:
        makers: dict[str, Callable[[], Any]] = {
            RAW: lambda: build(stack),
            FLOOR: lambda: with_floor(stack),
            OURS: lambda: watching.instrument(build(stack)),
        }
        own = [Variant(name, Client(makers[name]()).requests) for name in random.sample(list(makers), len(makers))]
        variants = [*own, *(Variant(peer.name, _flushed(peer), part=4) for peer in installed)]
        timings = await measure(variants, rounds=rounds, operations=operations)
        for peer in installed:
            total = recorded.setdefault(peer.name, {})
            for what, n in peer.recorded().items():
                total[what] = total.get(what, 0) + n
        return timings
    finally:
        await watching.aclose()
        for peer in installed:
            peer.close()


async def calls(quick: bool) -> list[Row]:
    """Function calls added per request: exact and the same under any load."""
    rows = []
    for stack in STACKS:
        few = await calls_added(stack, 1)
        many = await calls_added(stack, MANY_ROUTES)
        floor = await _calls(with_floor(stack)) - await _calls(build(stack))
        rows += [
            Row(f"http core calls, {stack}", few, "calls", BUDGET_CALLS, spread=(few, few)),
            Row(f"http core calls, {stack}: {MANY_ROUTES} routes", many, "calls", BUDGET_CALLS, spread=(many, many)),
            Row(f"http core calls, {stack}: {MANY_ROUTES} routes less 1 route", many - few, "calls", 0.0, spread=(many - few, many - few)),
            Row(f"http core calls, {stack}: floor", floor, "calls", spread=(floor, floor)),
        ]
    return rows


async def calls_added(stack: Stack, routes: int) -> float:
    """Return how many function calls, built-in ones included, the monitor adds to a request."""
    # Close looks at some requests of each second are a row of their own: http all detectors, bodies off.
    watching = monitor(body_limit_bytes=0, looks_per_second=0)
    try:
        return await _calls(watching.instrument(build(stack, routes))) - await _calls(build(stack, routes))
    finally:
        await watching.aclose()


async def body(quick: bool) -> list[Row]:
    """CPU that reading a JSON answer of 5 kB for identity fields adds to the monitor's own."""
    rows = []
    for stack in STACKS:
        unread = monitor(body_limit_bytes=0)
        # For identity fields alone: what the other detectors look for in a body has its own rows (all_detectors.py).
        reading = monitor(identity_fields=("user_id",), detectors=("foreign_content=off",))
        for watching in (unread, reading):
            watching.principal(lambda scope: "user-0")
        try:
            timings = await measure(
                [
                    Variant("unread", Client(unread.instrument(build(stack)), "/body").requests),
                    Variant("read", Client(reading.instrument(build(stack)), "/body").requests),
                ],
                rounds=4 if quick else 60,
                operations=20 if quick else 60,
            )
            if reading.violations():
                raise RuntimeError(f"the benchmark's own answers were judged violations: {reading.violations()[0].summary}")
        finally:
            await unread.aclose()
            await reading.aclose()
        more = timings.added("read", "unread")
        rows.append(Row(f"http body 5 kB, {stack}", more.median, "us", BUDGET_BODY_US, spread=more.spread, quiet=more.quiet))
    return rows


def with_floor(stack: Stack) -> Any:
    """Return an application with the hand-written middleware."""
    app = build(stack)
    app.add_middleware(Floor)
    return app


async def _calls(app: Any, requests: int = 50) -> float:
    client = Client(app)
    await client.requests(20)
    counts: list[int] = []
    gc.collect()
    # A collection in between would call finalizers of whoever went before.
    gc.disable()
    try:
        for _ in range(requests):
            profile = cProfile.Profile()
            profile.enable()
            await client.requests(1)
            profile.disable()
            counts.append(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]  # typeshed does not list it
    finally:
        gc.enable()
    # What the loop does once in a while falls into few of them: the more, the slower the machine.
    return float(median(counts))


def _flushed(peer: peers.Peer) -> Callable[[int], Awaitable[None]]:
    client = Client(peer.app)

    async def slot(n: int) -> None:
        await client.requests(n)
        # What it left to its own thread is its cost, and must not fall into the next variant's slot.
        peer.flush()

    return slot


def _us(name: str, value: Value, note: str = "") -> Row:
    return Row(name, value.median, "us", spread=value.spread, quiet=value.quiet, note=note)
