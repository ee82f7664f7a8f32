"""Answers: which values an endpoint gives to one principal alone, so that each value shows whose it is.

Looked at are answers to requests that address nothing of their own accord (no room, no id): there the principal alone
decides. A field belongs to principals when at least three of them get a value of their own there, again and again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Principal

SLOTS_LIMIT: Final = 2_000
PRINCIPALS_LIMIT: Final = 64
"""Principals compared per field; with more, the first ones decide."""
MIN_PRINCIPALS: Final = 3
MIN_SERVINGS: Final = 3
"""Answers to one principal before its usual value counts."""
MIN_SHARE: Final = 0.7
"""Share of those answers that must carry the usual value."""

_KEY_BEFORE: Final = re.compile(r'"([^"\\]{1,40})"\s*:\s*"?[^"]{0,200}$')


class _Usual:
    __slots__ = ("counts", "principal", "servings")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.servings = 0
        self.counts: dict[str, int] = {}

    @property
    def value(self) -> str | None:
        """The value that this principal usually gets; None while there is none."""
        if self.servings < MIN_SERVINGS or not self.counts:
            return None
        value = max(self.counts, key=self.counts.__getitem__)
        return value if self.counts[value] >= MIN_SHARE * self.servings else None


class Answers:
    """Learns per endpoint and field; told of each token of each answer that addresses nothing."""

    def __init__(self) -> None:
        self._slots: dict[tuple[object, str], dict[str, _Usual]] = {}

    def saw(self, endpoint: object, field: str, principal: Principal, token: str) -> list[tuple[str, Principal]]:
        """Note one value; return the values that are proven to belong to a principal by now."""
        key = (endpoint, field)
        slot = self._slots.get(key)
        if slot is None:
            if len(self._slots) >= SLOTS_LIMIT:
                self._slots.pop(next(iter(self._slots)), None)
            slot = self._slots[key] = {}
        usual = slot.get(principal.id)
        if usual is None:
            if len(slot) >= PRINCIPALS_LIMIT:
                return []
            usual = slot[principal.id] = _Usual(principal)
        usual.servings += 1
        if len(usual.counts) < 8 or token in usual.counts:
            usual.counts[token] = usual.counts.get(token, 0) + 1
        # Judged when a principal reaches the number of servings and at every fourth one after.
        if usual.servings < MIN_SERVINGS or usual.servings % 4 != MIN_SERVINGS % 4:
            return []
        return self._proven(slot)

    @staticmethod
    def _proven(slot: dict[str, _Usual]) -> list[tuple[str, Principal]]:
        owners: dict[str, Principal | None] = {}
        for one in slot.values():
            value = one.value
            if value is not None:
                owners[value] = None if value in owners else one.principal
        own = [(value, principal) for value, principal in owners.items() if principal is not None]
        # A value that several usually get is no one's, and a field that has such values is shared by design.
        return own if len(own) >= MIN_PRINCIPALS and len(own) == len(owners) else []


def field_of(text: str, token: str) -> str | None:
    """Return the JSON key whose value holds the token, `""` in a text without keys, None where the token stands more than once."""
    at = text.find(token)
    if at < 0 or text.find(token, at + 1) >= 0:
        return None
    match = _KEY_BEFORE.search(text, max(0, at - 260), at)
    return match[1] if match else ""
