"""One evaluation of a flag, decided in the process: our resolution, our hook, and the OpenFeature SDK around them.

The budget is for what is ours: a handler evaluates a handful of flags a request, so a resolution may cost what the monitor may cost
for a frame: 5 us. The SDK's own cost, which every provider has, stands beside it, measured with its in-memory provider.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.applications import monitor
from bench.rounds import Variant, measure
from bench.rows import Row

RESOLUTION_BUDGET_US = 5.0
HOOK_BUDGET_US = 5.0
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
