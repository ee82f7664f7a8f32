"""The OpenFeature hook that tells the monitor which variant a request was given. Needs `openfeature-sdk`.

Our provider brings it along. With another provider, an OFREP client for one, add it yourself:
`openfeature.api.add_hooks([ArmHook(monitor.flags)])`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openfeature.hook import Hook

if TYPE_CHECKING:
    from openfeature.flag_evaluation import FlagEvaluationDetails
    from openfeature.hook import HookContext, HookHints

    from isolation_monitor.telemetry.flags.flags import Flags


class ArmHook(Hook):
    """Labels the running request with the arm of each flag that it evaluates."""

    def __init__(self, flags: Flags, arms: Mapping[str, str] | None = None) -> None:
        """`arms` says which variants stand for `on` and `off` where they are called otherwise: `{"treatment": "on"}`."""
        self._evaluated = flags.evaluated
        self._arms = dict(arms or {})

    # The last stage, which runs after errors too: an evaluation that failed must not leave the request in the control.
    def finally_after(self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints) -> None:
        variant = details.variant
        self._evaluated(hook_context.flag_key, self._arms.get(variant, variant) if variant else None, details.reason)
