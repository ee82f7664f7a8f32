"""One evaluation of a flag, decided in the process: our resolution, our hook, and the OpenFeature SDK around them; and how long a
change of a rollout takes from the collector's store to the service's next evaluation.

The budget is for what is ours: a handler evaluates a handful of flags a request, so a resolution may cost what the monitor may cost
for a frame: 5 us. The SDK's own cost, which every provider has, stands beside it, measured with its in-memory provider.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from bench.applications import SERVICE, monitor
from bench.rounds import Variant, measure
from bench.rows import Row, p95

RESOLUTION_BUDGET_US = 5.0
HOOK_BUDGET_US = 5.0
CHANGE_BUDGET_MS = 1_000.0
PATIENCE_S = 60.0
USERS = 1_000
FLAG = "checkout-v2"


async def evaluation(quick: bool) -> list[Row]:
    """The rows of evaluating a flag."""
    try:
        from openfeature import api
        from openfeature.evaluation_context import EvaluationContext
        from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
    except ImportError as error:
        return [Row("flag, one resolution", None, "us", RESOLUTION_BUDGET_US, note=f"cannot run here: {error}")]
    from isolation_monitor.telemetry.context import CURRENT, RequestContext
    from isolation_monitor.telemetry.flags.provider import IsolationFlagProvider
    from isolation_monitor.telemetry.flags.rules import rules_of

    rounds, operations = (4, 200) if quick else (60, 1_000)
    watching = monitor()
    watching.serving()
    plain = {"key": FLAG, "enabled": True, "percent": 50.0, "internal": [f"internal-{n}" for n in range(50)]}
    watching.flags.follower._take(rules_of(1, [plain]))
    provider = IsolationFlagProvider(watching.flags)
    theirs = InMemoryProvider({FLAG: InMemoryFlag("on", {"on": True, "off": False})})
    users = [EvaluationContext(targeting_key=f"user-{n}", attributes={"plan": "free"}) for n in range(USERS)]
    api.set_provider_and_wait(provider, "ours")
    api.set_provider_and_wait(theirs, "theirs")
    ours, bare = api.get_client("ours"), api.get_client("theirs")
    request = RequestContext(watching.principals.named("user-1"), {"type": "http"}, None, None)

    def over(call: Callable[[int], object]) -> Callable[[int], Awaitable[None]]:
        async def run(operations: int) -> None:
            # In a request, as a handler is: the hook has somebody to label.
            CURRENT.set(request)
            for n in range(operations):
                call(n % USERS)

        return run

    try:
        variants = [
            Variant("nothing", over(lambda n: users[n])),
            Variant("resolution", over(lambda n: provider.resolve_boolean_details(FLAG, False, users[n]))),
            Variant("hook", over(lambda n: watching.flags.evaluated(FLAG, "on", "SPLIT"))),
            Variant("ours", over(lambda n: ours.get_boolean_value(FLAG, False, users[n]))),
            Variant("theirs", over(lambda n: bare.get_boolean_value(FLAG, False, users[n]))),
        ]
        timings = await measure(variants, rounds=rounds, operations=operations)
    finally:
        CURRENT.set(None)
        api.clear_providers()
        await watching.aclose()
    resolution, hook = timings.added("resolution", "nothing"), timings.added("hook", "nothing")
    sdk, whole = timings.added("theirs", "nothing"), timings.added("ours", "nothing")
    return [
        Row("flag, one resolution", resolution.median, "us", RESOLUTION_BUDGET_US, spread=resolution.spread, quiet=resolution.quiet),
        Row("flag, label the request", hook.median, "us", HOOK_BUDGET_US, spread=hook.spread, quiet=hook.quiet),
        Row("flag, through the OpenFeature SDK", whole.median, "us", spread=whole.spread, quiet=whole.quiet, note="ours and the SDK's"),
        Row("peer: the SDK with its in-memory provider", sdk.median, "us", spread=sdk.spread, quiet=sdk.quiet, note="the SDK's share"),
    ]


async def change(quick: bool) -> list[Row]:
    """The row of changing a rollout: a real collector, a service that follows it."""
    return await asyncio.to_thread(_change, 3 if quick else 40)


def _change(changes: int) -> list[Row]:
    # The collector and its server are of no use to the other suites.
    from tests.real_parts.flag_server import SEND, Rollouts, flag_server, rule

    rollouts = Rollouts(rule(FLAG, service=SERVICE))
    took_ms = []
    with flag_server(rollouts) as url:
        watching = monitor(collector_url=url, collector_token=SEND)
        follower = watching.flags.follower
        follower.start()
        try:
            if not follower.wait_ready(PATIENCE_S):
                return [Row("flag, change to evaluation", None, "ms", CHANGE_BUDGET_MS, note="the collector did not answer")]
            for n in range(changes):
                # Anywhere between two looks of the collector at its store.
                time.sleep(0.05 + 0.2 * (n * 0.618 % 1))
                began = time.perf_counter()
                rollouts.set(FLAG)
                while follower.rules[FLAG].revision != rollouts.revision and time.perf_counter() - began < PATIENCE_S:
                    time.sleep(0.001)
                took_ms.append(1_000 * (time.perf_counter() - began))
        finally:
            watching.close()
    took_ms.sort()
    spread = (took_ms[0], took_ms[-1])
    return [
        Row("flag, change to evaluation, p95", p95(took_ms), "ms", CHANGE_BUDGET_MS, spread=spread),
        Row("flag, change to evaluation, half", statistics.median(took_ms), "ms", spread=spread),
    ]
