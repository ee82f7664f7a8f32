"""Who gets what: the one rule by which a flag's variant follows from its rule and the user, the same in every process and replica.

A user has a fixed place on a line of `PLACES` places for each flag: the first 64 bits of SHA-256 over flag key and targeting key.
A stage of p percent is the first p percent of that line, so that whoever had a variant at 10 % has it at 50 % too, and the
users of one flag are no subset of another's. The holdback is the far end of the line: who is held back at 100 % had `off` at
every stage before. Percentages count in steps of 0.0001.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

PLACES: Final = 1_000_000
"""Places on the line: one is 0.0001 %."""
_PER_PERCENT: Final = PLACES // 100

ON: Final = "on"
OFF: Final = "off"

# Reasons, in OpenFeature's words.
STATIC: Final = "STATIC"
"""Everybody has this variant."""
TARGETING_MATCH: Final = "TARGETING_MATCH"
"""The user is one of the internal users."""
SPLIT: Final = "SPLIT"
"""The user's place on the line decided."""
DISABLED: Final = "DISABLED"
"""The rollout is not under way, or was rolled back: everybody gets `off`."""
STALE: Final = "STALE"
"""The collector was away for longer than the application allows; only where it says so."""


class TargetingKeyMissing(Exception):
    """The variant depends on the user, and the evaluation did not say who it is."""


@dataclass(frozen=True, slots=True)
class Internal:
    """Who has the variant before everybody else: users by targeting key, or all whose attribute has one of some values."""

    keys: frozenset[str] = frozenset()
    attribute: str = ""
    values: frozenset[str] = frozenset()

    def has(self, targeting_key: str, attributes: Mapping[str, object]) -> bool:
        """Return whether a user is one of them."""
        if targeting_key in self.keys:
            return bool(targeting_key)
        if not self.attribute:
            return False
        value = attributes.get(self.attribute)
        return isinstance(value, str) and value in self.values


NOBODY: Final = Internal()


@dataclass(frozen=True, slots=True)
class FlagRule:
    """What decides about one flag. `percent` and `holdback_percent` are 0 to 100."""

    key: str
    enabled: bool
    percent: float
    on: Any = True  # Any: a JSON value, the flag's in each variant
    off: Any = False
    internal: Internal = NOBODY
    holdback_percent: float = 0.0
    revision: int = 0
    is_stale: bool = False
    """Fallen to `off` because the collector was away for too long."""
    reach: int = field(init=False, default=0)
    """Places of the line that have `on`."""

    def __post_init__(self) -> None:
        most = PLACES - round(self.holdback_percent * _PER_PERCENT)
        object.__setattr__(self, "reach", max(0, min(round(self.percent * _PER_PERCENT), most)))

    def value_of(self, variant: str) -> Any:
        """Return the flag's value in a variant."""
        return self.on if variant == ON else self.off


def place_of(key: str, targeting_key: str) -> int:
    """Return a user's place on the line of the flag `key`: 0 to `PLACES` - 1, for ever the same.

    >>> place_of("checkout-v2", "user-1")
    726995
    """
    digest = sha256(f"{key}\0{targeting_key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") * PLACES >> 64


def variant_of(rule: FlagRule, targeting_key: str, attributes: Mapping[str, object]) -> tuple[str, str]:
    """Return the variant that a user gets, `on` or `off`, and the reason in OpenFeature's words.

    Args:
        targeting_key: who it is; empty where nobody said.
        attributes: what else is known of the user, for the rule of the internal users.

    Raises:
        TargetingKeyMissing: it depends on who it is.
    """
    if not rule.enabled:
        return OFF, STALE if rule.is_stale else DISABLED
    if rule.internal is not NOBODY and rule.internal.has(targeting_key, attributes):
        return ON, TARGETING_MATCH
    reach = rule.reach
    if reach == 0:
        return OFF, STATIC
    if reach == PLACES:
        return ON, STATIC
    if not targeting_key:
        raise TargetingKeyMissing(f"the flag {rule.key!r} is on for a part of the users: name the user in `targetingKey`")
    return (ON if place_of(rule.key, targeting_key) < reach else OFF), SPLIT
