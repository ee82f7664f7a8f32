"""Rows: what a row in memory, one of many alike, says of whose it is, in fields of its own or in what lies right beside them.

A message with its `author`, a document with `metadata` that names the owner, a cached answer beside the credential that it was
made for: such a row is in nobody's way, wherever it is kept. A row that names two principals, as an order does the buyer and the
seller, or lists its members, is kept for them: what one has said there may be shown to the others.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.naming import fields_of
from isolation_monitor.telemetry.detectors.publicity import is_called_public
from isolation_monitor.telemetry.detectors.raw_objects import Child, Layout, Layouts, children, is_leaf, plain
from isolation_monitor.telemetry.detectors.reach import mro_of_class

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.knowledge import Evidence, Knowledge
    from isolation_monitor.telemetry.detectors.object_walk import Node
    from isolation_monitor.telemetry.principals import Principal

FIELDS_LIMIT: Final = 16
"""Fields looked at of a row, and of what it holds."""
WORDS_LIMIT: Final = 2_000
MEMBERS_LIMIT: Final = 64
NAME_KEY_LENGTH: Final = 32
PARTIES_LIMIT: Final = 4
"""Principals that a row may name and still be between them; a row that names more is a list of people."""

WORDS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*|[^\s\"'<>,;:()\[\]{}]+")
_PARTS: Final = re.compile(r"[^\W_]+")
_IDENTITY_NAME: Final = re.compile(
    r"user|owner|author|account|tenant|customer|member|client|principal|sender|recipient|creator|email|login|session|thread|conversation|"
    r"chat|uid|^sub$|^who$|^by$|^for$|person|patient|employee|subscriber|organi[sz]ation|^org|company|workspace|caller|identity|actor|assignee|"
    r"nick|handle|player|poster|writer|buyer|seller|guest|student",
    re.IGNORECASE,
)
"""Names of fields that say whose or which conversation a row is."""
_PUBLIC_NAME: Final = re.compile(r"(?:is_?)?(?:public|published|shared)(?:ly)?", re.IGNORECASE)
_AUDIENCE_NAME: Final = re.compile(f"{_IDENTITY_NAME.pattern}|visib|audience|privacy|access|sharing|acl|scope", re.IGNORECASE)
_PUBLIC_WORDS: Final = frozenset(("public", "published", "everyone", "everybody", "anyone", "all", "shared", "global"))
"""What a row's owner, audience or visibility is called where it is for all."""
_NOBODY: Final = frozenset(("", "none", "null", "undefined", "default", "anonymous", "anon", "guest", "unknown", "global", "shared", "all"))
"""Keys under which things land whose user was left out or not known: those of no person."""
_NAMING_NAME: Final = re.compile(r"_*(?:(?:user|nick|full|display|screen)_?)?(?:name|id|uid|handle|login|email)_*", re.IGNORECASE)
"""Names of fields that name whoever the object stands for."""


def words_in(text: str) -> set[str]:
    """Return the words of a text, and their parts."""
    return {*WORDS.findall(text), *_PARTS.findall(text)}


def is_identity_name(name: str) -> bool:
    """Return whether a field of this name says whose, or which conversation, a row is."""
    return _IDENTITY_NAME.search(name) is not None


def _shape_of(key: str) -> tuple[str, bool]:
    """Return how an id is built: its signs and parts, and whether it has digits."""
    return _PARTS.sub("a", key), any(map(str.isdigit, key))


class Rows:
    """Reads rows that a walk came across, by what is known of principals."""

    def __init__(self, knowledge: Knowledge, layouts: Layouts) -> None:
        self._know = knowledge
        self._layouts = layouts

    def name_owner(self, node: Node, evidence: Evidence, text: str) -> bool:
        """Whether the row that holds a value, or one around it, names the owner; or the text itself does, beside the token."""
        id = evidence.owner.id
        inner: object = None
        at: Node | None = node
        while at is not None and at.varies:
            if at.names and id in at.names:
                return True
            if any(self._is_of(child_text, name, evidence.owner) for name, child_text in self._beside(at, inner)):
                return True
            inner, at = at.value, at.parent
        return id in words_in(text.replace(evidence.token, " ")) if len(text) <= WORDS_LIMIT else False

    def parties(self, node: Node) -> set[str]:
        """Return the ids of the principals that rows on the way to an object name together: by fields, or in a list of members."""
        named: set[str] = set()
        at: Node | None = node
        while at is not None and at.varies:
            if at.names and len(at.names) <= PARTIES_LIMIT:
                named |= at.names
            for child in islice(at.holds, FIELDS_LIMIT):
                if (layout := self._layouts.of(child.value)).kind in ("set", "list", "tuple") and type(child.key) is str:
                    named |= self._members(child.value, layout)
            if len(named) > 1:
                return named
            named, at = set(), at.parent
        return set()

    def _members(self, value: object, layout: Layout) -> set[str]:
        ids = self._know.ids
        texts = (plain(part.value) for part in islice(children(value, layout), MEMBERS_LIMIT) if is_leaf(part.value))
        return {text for text in texts if text in ids and self._know.is_strong(text, "")}

    def name_receiver(self, node: Node, owner: Principal) -> bool:
        """Whether the row that holds what somebody said, or one around it, names somebody else: it is for him, as a key would say.

        So does a key beside those of people, if it reads like theirs: somebody who has not been here since the process began.
        """
        at: Node | None = node
        while at is not None and at.varies:
            if at.names and len(at.names) <= PARTIES_LIMIT:
                return owner.id not in at.names
            if at.parent is not None and type(at.key) is str and self._is_beside_people(at.key, at.parent):
                return True
            at = at.parent
        return False

    def _is_beside_people(self, key: str, table: Node) -> bool:
        if key.lower() in _NOBODY:
            return False
        shape, known = _shape_of(key), self._know.ids
        return any(
            type(held.key) is str and held.key in known and self._know.is_strong(held.key, "") and _shape_of(held.key) == shape
            for held in table.holds
        )

    @staticmethod
    def is_waiting(node: Node) -> bool:
        """Whether a row holds a future that somebody still waits for: work on its way, and whose it is the future says.

        A task does not count: it may run for as long as the row is there.
        """
        for child in islice(node.holds, FIELDS_LIMIT):
            bases = set(map(id, mro_of_class(type(child.value))))
            if id(asyncio.Task) in bases:
                continue
            if id(asyncio.Future) in bases:
                return not asyncio.Future.done(child.value)  # type: ignore[arg-type]  # by its class
            if id(concurrent.futures.Future) in bases:
                return any(field == "_state" and state in ("PENDING", "RUNNING") for field, state in fields_of(child.value))
        return False

    def is_for_all(self, node: Node) -> bool:
        """Whether the row that holds a value, or a record in it, is marked as public, or what it is kept in is called so."""
        at: Node | None = node
        inner: object = None
        while at is not None and at.is_varying:
            for child in islice(at.holds, FIELDS_LIMIT):
                if self._is_mark(child):
                    return True
                layout = self._layouts.of(child.value)
                is_record = layout.kind in ("dict", "instance") and child.value is not inner
                if is_record and any(self._is_mark(part) for part in islice(children(child.value, layout), FIELDS_LIMIT)):
                    return True
            inner, at = at.value, at.parent
        return self._is_kept_for_all(node)

    @staticmethod
    def _is_kept_for_all(node: Node) -> bool:
        """Whether the container that a row is one of, or its key, is called public: `reviews`, `lounge`."""
        at: Node | None = node
        while at is not None:
            name = at.step.rpartition(":")[2]
            if type(at.key) is str:
                # A key may be anything that a user has written.
                name = at.key if len(at.key) <= NAME_KEY_LENGTH and at.key.isidentifier() else ""
            if is_called_public(name):
                return True
            if not at.is_varying:
                break
            at = at.parent
        return False

    @staticmethod
    def _is_mark(child: Child) -> bool:
        if type(child.key) is not str:
            return False
        if type(child.value) is bool:
            return child.value and _PUBLIC_NAME.fullmatch(child.key) is not None
        return type(child.value) is str and child.value.lower() in _PUBLIC_WORDS and _AUDIENCE_NAME.search(child.key) is not None

    def fields_of(self, node: Node) -> dict[str, str]:
        """Return the fields of the row around a value that say whose it is, also those of an object that stands for an author."""
        fields: dict[str, str] = {}
        at: Node | None = node
        inner: object = None
        while at is not None and at.varies:
            for child in at.holds:
                if type(child.key) is not str or not _IDENTITY_NAME.search(child.key):
                    continue
                if is_leaf(child.value):
                    fields.setdefault(child.key, plain(child.value)[:80])
                elif child.value is not inner and (layout := self._layouts.of(child.value)).kind in ("dict", "instance"):
                    for part in islice(children(child.value, layout), FIELDS_LIMIT):
                        if type(part.key) is str and _NAMING_NAME.fullmatch(part.key) and is_leaf(part.value):
                            fields.setdefault(f"{child.key}.{part.key}", plain(part.value)[:80])
            inner, at = at.value, at.parent
        return fields

    def _beside(self, node: Node, inner: object) -> Iterator[tuple[str, str]]:
        """Yield the plain values of a row and of the records in it, each with its field's name; `inner` is where the value itself is."""
        for child in islice(node.holds, FIELDS_LIMIT):
            if is_leaf(child.value):
                # Whom these name by an id is known of the row itself; a credential is looked for here.
                yield "", plain(child.value)
            elif child.value is not inner and (layout := self._layouts.of(child.value)).kind in ("dict", "instance", "tuple", "list"):
                for part in islice(children(child.value, layout), FIELDS_LIMIT):
                    if is_leaf(part.value):
                        yield part.key if type(part.key) is str else "", plain(part.value)

    def _is_of(self, text: str, name: str, owner: Principal) -> bool:
        """Whether a plain value is the owner's id, or what he proves himself with."""
        if text == owner.id:
            return self._know.is_strong(text, name)
        owners = self._know.owners
        if owners is None or not 8 <= len(text) <= WORDS_LIMIT:
            return False
        return any(
            owners.proves_identity(token) and (known := owners.owner_of(token)) is not None and known.id == owner.id
            for token in self._know.tokens(text)
        )


def told_apart(first: dict[str, str], second: dict[str, str]) -> bool:
    """Return whether the fields of two rows, as `Rows.fields_of` gives them, say that they are not one and the same's."""
    return any(first[name] != second[name] for name in first.keys() & second.keys())
