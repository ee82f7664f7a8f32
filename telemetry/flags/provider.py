"""The OpenFeature provider: flags decided in this process, by the rules that the collector has. Needs `openfeature-sdk`.

>>> from openfeature import api                                              # doctest: +SKIP
>>> api.set_provider(IsolationFlagProvider(monitor.flags))                   # doctest: +SKIP
>>> context = EvaluationContext(targeting_key=user_id)                       # doctest: +SKIP
>>> api.get_client().get_boolean_value("checkout-v2", False, context)        # doctest: +SKIP

A resolution reads one mapping and hashes one text; it waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from openfeature.event import ProviderEventDetails
from openfeature.exception import FlagNotFoundError, ProviderNotReadyError, TargetingKeyMissingError
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider import AbstractProvider, Metadata

from isolation_monitor.telemetry.flags.bucketing import TargetingKeyMissing, variant_of
from isolation_monitor.telemetry.flags.hook import ArmHook

if TYPE_CHECKING:
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType
    from openfeature.hook import Hook

    from isolation_monitor.telemetry.flags.flags import Flags

NAME: Final = "isolation-monitor"
READY_WITHIN_S: Final = 2.0
"""How long the SDK's start waits for the first rules, where none were kept. Never on an event loop's thread."""
_NO_ATTRIBUTES: Final[Mapping[str, object]] = {}


class IsolationFlagProvider(AbstractProvider):
    """Serves the flags of a monitor."""

    def __init__(self, flags: Flags) -> None:
        super().__init__()
        self._follower = flags.follower
        self._hooks: list[Hook] = [ArmHook(flags)]
        self._metadata = Metadata(name=NAME)

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to follow the collector. Until rules are known the SDK answers the code's defaults."""
        follower = self._follower
        if self._changed not in follower.on_change:
            follower.on_change.append(self._changed)
        follower.start()
        if asyncio._get_running_loop() is None:
            follower.wait_ready(READY_WITHIN_S)

    def shutdown(self) -> None:
        """The SDK lets the provider go. The monitor's flags are followed until the monitor is closed: another provider may use them."""
        if self._changed in self._follower.on_change:
            self._follower.on_change.remove(self._changed)

    def get_metadata(self) -> Metadata:
        return self._metadata

    def get_provider_hooks(self) -> list[Hook]:
        return self._hooks

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolve(flag_key, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self._resolve(flag_key, evaluation_context)

    def _resolve(self, key: str, context: EvaluationContext | None) -> FlagResolutionDetails[Any]:  # Any: the SDK checks the type
        rule = self._follower.rules.get(key)
        if rule is None:
            if not self._follower.is_ready:
                raise ProviderNotReadyError("the collector has not said yet what the flags are")
            raise FlagNotFoundError(f"no rollout is called {key!r}")
        try:
            if context is None:
                variant, reason = variant_of(rule, "", _NO_ATTRIBUTES)
            else:
                variant, reason = variant_of(rule, context.targeting_key or "", context.attributes)
        except TargetingKeyMissing as error:
            raise TargetingKeyMissingError(str(error)) from None
        # A text is as good as the SDK's own constants, which are texts too.
        return FlagResolutionDetails(rule.value_of(variant), None, None, reason, variant, {"revision": rule.revision})

    def _changed(self) -> None:
        self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=list(self._follower.rules)))
