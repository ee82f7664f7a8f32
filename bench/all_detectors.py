"""A request and a frame with every detector at work, as in a service that has run for a while.

The event loop is instrumented as at a server's start (tasks, threads, locks, heartbeat), an index of 50,000 tokens of
other users is there, and each user's answers carry ids of his own. What acts on the whole process is put on before each
slot of the monitored variant and taken off after it, so that the variant without a monitor runs without it.
"""

from __future__ import annotations

import gc
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.applications import STACKS, USERS, Client, Stack, build, echo, monitor
from bench.http_core import BUDGET_FLOORS, with_floor
from bench.rounds import Timings, Variant, measure
from bench.rows import Row
from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.principals import Scope

BUDGET_JSON_US = 150.0
BUDGET_FRAME_US = 25.0
INDEXED_TOKENS = 50_000
TOKENS_PER_REQUEST = 20
IDS = 20
PAGES = 40
"""Different answers of each user: a page of his things each."""
FRAME_BYTES = 500
WARM = 20
"""Requests, or frames, between putting on what acts on the process and measuring."""
RAW, FLOOR, OURS = "raw", "floor", "isolation_monitor"
UNHOOKED = "isolation_monitor without its hooks on tasks, threads and locks"


async def http_core(quick: bool) -> list[Row]:
    """As `http core`, with the whole process instrumented and a full index; bodies are not read."""
    rows = []
    for stack in STACKS:
        layouts, rounds, operations = (2, 4, 30) if quick else (20, 16, 200)
        timings = Timings.joined([await _one_layout(stack, rounds, operations) for _ in range(layouts)])
        ours, added, unhooked = timings.ratio(OURS, FLOOR, RAW), timings.added(OURS, RAW), timings.added(UNHOOKED, RAW)
        rows += [
            Row(f"http all detectors, bodies off, {stack}", ours.median, "x floor", BUDGET_FLOORS, spread=ours.spread, quiet=ours.quiet),
            Row(f"http all detectors, bodies off, {stack}: added", added.median, "us", spread=added.spread, quiet=added.quiet),
            Row(
                f"http all detectors, bodies off, {stack}: added without hooks on tasks",
                unhooked.median,
                "us",
                spread=unhooked.spread,
                quiet=unhooked.quiet,
            ),
        ]
    return rows


async def _one_layout(stack: Stack, rounds: int, operations: int) -> Timings:
    watching = Watching(body_limit_bytes=0)
    try:
        ours = watching.monitor.instrument(build(stack))
        applications = {RAW: build(stack), FLOOR: with_floor(stack), OURS: ours, UNHOOKED: ours}
        watching.begin()
        variants = [_variant(name, Client(app).requests, watching) for name, app in applications.items()]
        return await measure(random.sample(variants, len(variants)), rounds=rounds, operations=operations, warm=WARM)
    finally:
        await watching.end()


async def http_json(quick: bool) -> list[Row]:
    """CPU that all detectors add to an answer of 5 kB of JSON with 20 ids in it; the slowest requests in a row of their own."""
    timings, slow = await _pages_read(quick, is_prose=False)
    prose, _ = await _pages_read(quick, is_prose=True)
    added, in_prose = timings.added(OURS, RAW), prose.added(OURS, RAW)
    name = "http all detectors, 5 kB JSON with 20 ids"
    return [
        Row(name, added.median, "us", BUDGET_JSON_US, spread=added.spread, quiet=added.quiet, note="aim 60"),
        Row(f"{name}: p99", slow[OURS] - slow[RAW], "us", note="difference of the 99th percentiles of single requests"),
        Row(f"{name}: mostly prose", in_prose.median, "us", spread=in_prose.spread, quiet=in_prose.quiet, note="about 800 words"),
    ]


async def _pages_read(quick: bool, *, is_prose: bool) -> tuple[Timings, dict[str, float]]:
    """Return the timings of pages with and without a monitor, and the 99th percentile of each in microseconds."""
    watching = Watching()
    try:
        dice = random.Random(3)
        applications = {RAW: pages(dice, is_prose=is_prose), OURS: watching.monitor.instrument(pages(dice, is_prose=is_prose))}
        watching.begin()
        variants = [_variant(name, Client(app, "/page").requests, watching) for name, app in applications.items()]
        timings = await measure(variants, rounds=4 if quick else 60, operations=20 if quick else 100, warm=WARM)
        slow = await _slowest(variants, 200 if quick else 4_000)
        watching.expect_clean(names.FOREIGN_CONTENT)
        return timings, slow
    finally:
        await watching.end()


async def websocket_frame(quick: bool) -> list[Row]:
    """CPU that all detectors add to a frame of 500 B that is sent: its run, its identity field, its content."""
    watching = Watching(identity_fields=("user_id",))
    run = watching.monitor.run("run-7", owner=_user(0))
    try:
        applications = {RAW: echo(), OURS: watching.monitor.instrument(echo())}
        watching.begin()
        variants = [_variant(name, _pushes(app), watching) for name, app in applications.items()]
        timings = await measure(variants, rounds=4 if quick else 80, operations=100 if quick else 500, warm=WARM)
        watching.expect_clean(names.WRONG_SOCKET, names.FOREIGN_IDENTITY, names.FOREIGN_CONTENT)
    finally:
        run.__exit__(None, None, None)
        await watching.end()
    added = timings.added(OURS, RAW)
    name = f"websocket frame all detectors, {FRAME_BYTES} B"
    return [Row(name, added.median, "us", BUDGET_FRAME_US, spread=added.spread, quiet=added.quiet)]


class Watching:
    """A monitor with everything that acts on the whole process, which can be taken off and put on again."""

    def __init__(self, **settings: Any) -> None:
        self.monitor: IsolationMonitor = monitor(**settings)
        self.monitor.principal(user_of)

    def begin(self) -> None:
        """Fill the index and start serving; without what acts on the process."""
        fill_index(self.monitor)
        self.monitor.serving()
        self.off()

    def on(self) -> None:
        self.monitor.integrations.is_open = True
        self.monitor.integrations.serving()

    def off(self) -> None:
        self.monitor.integrations.undo()

    async def end(self) -> None:
        await self.monitor.aclose()

    def expect_clean(self, *detectors: str) -> None:
        """Raise when a detector did nothing, or found something: such a measurement would mean nothing.

        Raises:
            RuntimeError: either is the case.
        """
        for detector in detectors:
            if not self.monitor.ledger.passes[detector].value():
                raise RuntimeError(f"nothing was judged by {detector}: the benchmark measures nothing")
        if found := [violation for violation in self.monitor.violations() if violation.grade != "hygiene"]:
            raise RuntimeError(f"the benchmark's own answers were judged violations: {found[0].summary}")


def user_of(scope: Scope) -> str | None:
    """Return the user that `Client` names in its token."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value[16:], "latin-1")
    return None


def fill_index(watching: IsolationMonitor, tokens: int = INDEXED_TOKENS) -> None:
    """Let requests of a thousand other users bring so many ids, 20 each."""
    content, principals = watching.detection.foreign_content, watching.principals
    for number in range(tokens // TOKENS_PER_REQUEST):
        scope = {"type": "http", "method": "POST", "path": "/things", "headers": [], "query_string": b""}
        request = RequestContext(principals.named(f"other-{number % 1_000}"), scope, None, None)
        content.came_in(request, json.dumps({"ids": [uuid.uuid4().hex for _ in range(TOKENS_PER_REQUEST)]}))
        request.seal()


def pages(dice: random.Random, *, is_prose: bool = False) -> Starlette:
    """Return an application that answers each user with 5 kB of JSON about twenty things of his own."""
    bodies = {_user(user).encode(): [_page(dice, is_prose=is_prose) for _ in range(PAGES)] for user in range(USERS)}
    served = 0

    async def page(request: Request) -> Response:
        nonlocal served
        served += 1
        own = bodies[request.headers["authorization"].encode()[16:]]
        return Response(own[served // USERS % PAGES], media_type="application/json")

    return Starlette(routes=[Route("/page", page)])


def _page(dice: random.Random, *, is_prose: bool = False) -> bytes:
    """Return 5 kB about twenty things: as a shop lists them, or with little else than words."""
    words = "so the lamp is on the table, they say, and nobody has yet come to fetch it from there; " * 2
    things: list[dict[str, Any]] = []
    for number in range(IDS):
        thing: dict[str, Any] = {"id": uuid.UUID(int=dice.getrandbits(128)).hex, "name": f"lamp {number}"}
        if is_prose:
            thing["text"] = words
        else:
            thing |= {
                "status": "in_stock",
                "created_at": f"2026-11-{number + 1:02}T08:30:00Z",
                "price": {"amount": 1_999 + number, "currency": "EUR"},
                "quantity": number,
                "description": words[:56],
            }
        things.append(thing)
    return json.dumps({"things": things}).encode()


def _user(number: int) -> str:
    return f"user-{number}"


def _variant(name: str, slot: Callable[[int], Awaitable[None]], watching: Watching) -> Variant:
    return Variant(name, slot, enter=watching.on, leave=watching.off) if name == OURS else Variant(name, slot)


async def _slowest(variants: list[Variant], requests: int) -> dict[str, float]:
    """Return the 99th percentile of the CPU time of single requests, in microseconds, by variant."""
    times: dict[str, list[int]] = {variant.name: [] for variant in variants}
    part = 100
    for _ in range(max(1, requests // part)):
        for variant in variants:
            gc.collect()
            variant.enter()
            for _ in range(part):
                began = time.thread_time_ns()
                await variant.slot(1)
                times[variant.name].append(time.thread_time_ns() - began)
            variant.leave()
    return {name: sorted(taken)[len(taken) * 99 // 100] / 1_000 for name, taken in times.items()}


def _pushes(app: Any) -> Callable[[int], Awaitable[None]]:
    client = Client(app)
    head = {"type": "agent_thinking", "run_id": "run-7", "user_id": _user(0), "call_id": "call_3f2a9c41d0b7", "seq": 3, "text": ""}
    words = "so the lamp is on the table, they say, and nobody has yet come to fetch it from there; " * 9
    text = json.dumps({**head, "text": words[: FRAME_BYTES - len(json.dumps(head))]})

    async def slot(n: int) -> None:
        if await client.websocket("/push", [f"{n} {text}"]) != n:
            raise RuntimeError("not every frame was sent")

    return slot
