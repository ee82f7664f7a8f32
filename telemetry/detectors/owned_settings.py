"""Which session settings belong to a principal: learnt from who sets what.

A setting that everybody sets alike (time zone, time-out) harms nobody when it is left behind. One whose value follows
from the principal (the tenant that row-level security asks for, the role, the search path) makes the next user see with
another's eyes. What is learnt: the values that each principal set.
"""

from __future__ import annotations

from typing import Final

NAMES_LIMIT: Final = 200
PRINCIPALS_LIMIT: Final = 300
REPEATED: Final = 4
"""Principals that set the database's own setting again to the same of two values, before it counts as theirs."""
_SHORTEST_ID: Final = 3
"""Shorter principal ids are only looked for as the whole value."""
_OF_COST: Final = ("_timeout", "_mem", "_cost", "_limit", "_workers", "_target")
"""Endings of settings that say how much work is allowed, not whose data is seen."""
_NOBODYS: Final = frozenset(
    (
        "client_encoding",
        "application_name",
        "datestyle",
        "intervalstyle",
        "jit",
        "extra_float_digits",
        "bytea_output",
        "client_min_messages",
        "synchronous_commit",
        "standard_conforming_strings",
    )
)


class _Values:
    """Who set one setting to what. `of` holds a principal's first value; `several` those that set more than one."""

    __slots__ = ("follows", "of", "repeated", "several")

    def __init__(self) -> None:
        self.follows: bool | None = None
        """Whether the value follows from the principal; None: to be worked out anew."""
        self.of: dict[str, str] = {}
        self.repeated: set[str] = set()
        self.several: set[str] = set()


class OwnedSettings:
    """Learns which settings are set to each principal's own value."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Values] = {}

    def learn(self, name: str, value: str, principal_id: str) -> bool:
        """Note that a request of a principal set `name` to `value`; return whether that made it known as the principal's own."""
        values = self._by_name.get(name)
        if values is None:
            if len(self._by_name) >= NAMES_LIMIT:
                return False
            values = self._by_name[name] = _Values()
        first = values.of.get(principal_id)
        if first is None and len(values.of) < PRINCIPALS_LIMIT:
            values.of[principal_id] = value
        elif first == value and principal_id not in values.repeated:
            values.repeated.add(principal_id)
        elif first is not None and first != value and principal_id not in values.several:
            values.several.add(principal_id)
        else:
            return False
        before, values.follows = values.follows, None
        return not before and self._follows(name, values)

    def belongs(self, name: str, value: str, owner_id: str, taker_id: str) -> bool:
        """Return whether `value`, set for `owner_id`, is that principal's own and not the taker's too."""
        if name.endswith(_OF_COST) or name.startswith("enable_") or name in _NOBODYS:
            return False
        if value == owner_id or (len(owner_id) >= _SHORTEST_ID and owner_id in value):
            return True
        values = self._by_name.get(name)
        if values is None or values.of.get(taker_id) == value:
            return False
        return self._follows(name, values)

    @staticmethod
    def _follows(name: str, values: _Values) -> bool:
        if values.follows is None:
            values.follows = _follows_principal(name, values)
        return values.follows


def _follows_principal(name: str, values: _Values) -> bool:
    single = {who: value for who, value in values.of.items() if who not in values.several}
    if len(values.several) * 2 > len(single):
        # Principals set it to this and that: it follows from what they do, not from who they are.
        return False
    distinct = len(set(single.values()))
    if "." in name:
        # Settings with a dot are the application's own; the database's own, such as the role, need more proof.
        return distinct >= 2
    return distinct >= 3 or (distinct == 2 and not values.several and len(values.repeated) >= REPEATED)
