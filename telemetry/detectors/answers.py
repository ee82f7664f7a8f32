"""Answers: which values an endpoint gives to one principal alone, so that each value shows whose it is.

Looked at are answers to requests that address nothing of their own accord (no room, no id): there the principal alone
decides. A field belongs to principals when at least three of them get a value of their own there, again and again.

Under a cache that forgets the user and expires, the own value is no longer the usual one: everybody gets his own only when
he fills it. There a field belongs to principals when most of them have one value that comes back to them after others, at
least three of them one that nobody else ever gets; whoever gets one of the rest twice as often as anybody else owns it.
Content that changes for everybody goes to all alike, and one that is picked anew does not come back to one alone.
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
VALUES_LIMIT: Final = 12
"""Different values remembered of one principal and field."""
OWN_RETURNS: Final = 2
"""How often a value must have come to a principal, each time after another one, for it to be the one that he gets most."""
OFTEN_SERVINGS: Final = 16
"""Servings of one principal after which values that come back are looked at once in so many."""
OWN_FACTOR: Final = 2
"""How much more often than to anybody else."""
OWN_SHARE: Final = 0.6
"""Share of the principals that must have such a value."""

KEY_LENGTH: Final = 40
NEAR: Final = 260
"""Characters before a value in which its key is looked for."""
_KEY_BEFORE: Final = re.compile(rf'"([^"\\]{{1,{KEY_LENGTH}}})"\s*:\s*"?[^"]{{0,200}}$')


class _Usual:
    __slots__ = ("counts", "latest", "principal", "returns", "servings")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.servings = 0
        self.counts: dict[str, int] = {}
        self.returns: dict[str, int] = {}
        """How often each value came after another one: what stays for a while counts once."""
        self.latest = ""

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
        came_back = 0
        if len(usual.counts) < VALUES_LIMIT or token in usual.counts:
            usual.counts[token] = usual.counts.get(token, 0) + 1
            if token != usual.latest:
                usual.latest = token
                usual.returns[token] = came_back = usual.returns.get(token, 0) + 1
        # Judged when a principal reaches the number of servings and at every fourth one after.
        if usual.servings >= MIN_SERVINGS and usual.servings % 4 == MIN_SERVINGS % 4:
            proven = self._proven(slot)
            if proven:
                return proven
        # The second look costs more: at what came back just now, often at first.
        if came_back < OWN_RETURNS or (usual.servings > OFTEN_SERVINGS and usual.servings % OFTEN_SERVINGS):
            return []
        return self._prevailing(slot)

    @staticmethod
    def _prevailing(slot: dict[str, _Usual]) -> list[tuple[str, Principal]]:
        """Return the values that go to one principal much more often than to anybody else, where most have such a value."""
        if len(slot) < MIN_PRINCIPALS:
            return []
        # Of each value: who had it come back most often, how often, and how often anybody else at most.
        best: dict[str, tuple[int, _Usual, int]] = {}
        for one in slot.values():
            for value, count in one.returns.items():
                known = best.get(value)
                if known is None:
                    best[value] = (count, one, 0)
                else:
                    best[value] = (count, one, known[0]) if count > known[0] else (*known[:2], max(known[2], count))
        own: dict[str, list[str]] = {}
        proven: list[tuple[str, Principal]] = []
        exclusive = 0
        for value, (count, one, others) in best.items():
            came_back = count >= OWN_RETURNS and count >= OWN_FACTOR * others
            if came_back:
                proven.append((value, one.principal))
                exclusive += not others
            if came_back or not others:
                own.setdefault(one.principal.id, []).append(value)
        # Two of one principal: that is what he works with, or meets by chance, rather than what he is given as his.
        is_personal = exclusive >= MIN_PRINCIPALS and all(len(values) == 1 for values in own.values())
        return proven if is_personal and len(proven) >= OWN_SHARE * len(slot) else []

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
    before = text[max(0, at - NEAR) : at]
    # A text right behind its key, as most are: the expression, which looks for any value, takes several times as long.
    close = len(before) - 4 if before.endswith('": "') else len(before) - 3 if before.endswith('":"') else 0
    begin = before.rfind('"', 0, close) if close > 0 else -1
    if begin >= 0 and 1 < close - begin <= KEY_LENGTH + 1 and "\\" not in (key := before[begin + 1 : close]):
        return key
    match = _KEY_BEFORE.search(before)
    return match[1] if match else ""
