"""Authors: fields by which the items of a list say whose they are, though not by the ids that principals have.

A wall of posts names its writers as it likes: by a nickname, a number, a picture. A field of an item attributes it when its
name says so (`author`, `nick`) or when it keeps to the owners: the same for all of one owner's items, another for another's.
It attributes nothing once two owners share a value (`"role": "user"`) or one owner has several (`"id"`, `"created"`).
Looked at only under suspicion: about 4 us an item.
"""

from __future__ import annotations

import re
from typing import Final

from isolation_monitor.telemetry.detectors.surroundings import item_around, object_around
from isolation_monitor.telemetry.recent import forget_oldest

FIELDS_LIMIT: Final = 2_000
VALUES_LIMIT: Final = 200
"""Values remembered of one field; with more, the first ones decide."""
PAIRS_LIMIT: Final = 16
ITEM_LIMIT: Final = 4_000
"""Characters of an item that one author wrote: a longer one is a list of many, and reading it for each value in it takes seconds."""
NAMES_KNOWN_LIMIT: Final = 5_000
NAME_LENGTH: Final = 3
"""Characters of a name at least: initials are several people's."""

_PAIR: Final = re.compile(r'"([A-Za-z_][\w-]{0,30})"\s*:\s*(?:"([^"\\]{1,64})"|(-?\d{1,19})(?![\d.eE]))')
_NESTED: Final = re.compile(r'"([A-Za-z_][\w-]{0,30})"\s*:\s*\{([^{}]{1,300})\}')
_AUTHOR_NAME: Final = re.compile(
    r"_*(?:(?:author|user|by|from|nick|handle|sender|poster|writer|creator|owner|member|person|(?:posted|written|created)(?=_?by)|"
    r"(?:display|screen)(?=_?name))(?:[_-]?(?:by|name|handle|id|key|nick))?)_*",
    re.IGNORECASE,
)
NAMES_LIMIT: Final = 2
"""Values that one owner may have in a field called so: people change their nicknames, but not with every item."""


class _Field:
    __slots__ = ("is_repeated", "is_shared", "items", "names", "owner_of", "wavers")

    def __init__(self) -> None:
        self.owner_of: dict[str, str] = {}
        self.names: dict[str, int] = {}
        """How many values each owner has."""
        self.items: dict[str, str] = {}
        """One token of each value."""
        self.is_repeated = False
        """Whether two items of one owner had the same value: then it is the owner's rather than the item's."""
        self.is_shared = False
        """Whether two owners had the same value: the field attributes nothing, for good."""
        self.wavers = 0
        """How many values the owner with the most has."""

    def learn(self, value: str, owner: str, token: str) -> None:
        """Note that an item of an owner has this value."""
        known = self.owner_of.get(value)
        if known is None:
            if len(self.owner_of) >= VALUES_LIMIT:
                return
            self.owner_of[value], self.items[value] = owner, token
            self.names[owner] = self.names.get(owner, 0) + 1
            self.wavers = max(self.wavers, self.names[owner])
        self.is_shared = self.is_shared or known not in (None, owner)
        self.is_repeated = self.is_repeated or self.items[value] != token

    def names_owner(self, name: str, value: str, owner: str) -> bool:
        if self.is_shared or self.owner_of.get(value) != owner:
            return False
        if _AUTHOR_NAME.fullmatch(name):
            return self.wavers <= NAMES_LIMIT
        return self.wavers == 1 and self.is_repeated and len(self.names) > 1


class Authors:
    """Learns per endpoint and name of a field."""

    def __init__(self) -> None:
        self._fields: dict[tuple[object, str], _Field] = {}
        self._known_as: dict[str, str] = {}
        """The names that all have seen, each with the id of who is called so; `""` for several."""

    def learn(self, endpoint: object, text: str, token: str, owner: str) -> None:
        """Note an item of a list whose owner is known by the token in it."""
        item = item_around(text, token)
        if item is None or len(item) > ITEM_LIMIT:
            return
        for name, value in _pairs(item, token):
            if _AUTHOR_NAME.fullmatch(name):
                self.is_known_as(value, owner)
            key = (endpoint, name)
            field = self._fields.get(key)
            if field is None:
                if len(self._fields) >= FIELDS_LIMIT:
                    self._fields.pop(next(iter(self._fields)))
                field = self._fields[key] = _Field()
            field.learn(value, owner, token)

    def name(self, endpoint: object, text: str, token: str, owner: str) -> bool:
        """Return whether the item of a list that holds a token names its owner, by what was learned."""
        item = item_around(text, token)
        if item is None or len(item) > ITEM_LIMIT:
            return False
        for name, value in _pairs(item, token):
            field = self._fields.get((endpoint, name))
            if field is not None and field.names_owner(name, value, owner):
                return True
        return False

    def is_known_as(self, name: str, owner: str) -> None:
        """Note that a name was shown to others as a principal's: in a list of several authors, or in what went to all."""
        if len(name) >= NAME_LENGTH and not name.isdigit() and self._known_as.setdefault(name, owner) != owner:
            self._known_as[name] = ""
        forget_oldest(self._known_as, NAMES_KNOWN_LIMIT, 0.05)

    def sign(self, around: str, owner: str) -> bool:
        """Return whether an object shows the name by which all know a principal."""
        known = self._known_as
        return bool(known) and any(
            known.get(text) == owner for name, text, _ in _PAIR.findall(around)[:PAIRS_LIMIT] if text and _AUTHOR_NAME.fullmatch(name)
        )


def names_in(text: str, token: str) -> list[str]:
    """Return the names of authors that the object in which a token stands is signed with."""
    around = object_around(text, token)
    if around is None or len(around) > ITEM_LIMIT:
        return []
    return [value for name, value in _pairs(around, token) if _AUTHOR_NAME.fullmatch(name)]


def _pairs(item: str, token: str) -> list[tuple[str, str]]:
    """Return the short values of an item by name; a small object within it is one value.

    The value that is asked about says nothing of whose it is, unless it is the author's name: a nickname is what it says.
    """
    nested = [(name, fields) for name, fields in _NESTED.findall(item)[:PAIRS_LIMIT] if token not in fields]
    plain = [(name, text or number) for name, text, number in _PAIR.findall(item)[:PAIRS_LIMIT]]
    return nested + [(name, text) for name, text in plain if token not in text or (token == text and _AUTHOR_NAME.fullmatch(name))]
