"""Residue: which values at places that every request reaches belong to single principals, and whether their place says so.

A place is judged, never the request that happened to be looked at. It is fine when the way to it names the owner (a key,
an attribute, a session id that the owner has), or when the row that holds the value names the owner beside it. A place
that is one of neither, and has held what two principals left there, is state that crosses users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from isolation_monitor.telemetry.detectors.knowledge import TEXT_LIMIT, Evidence, Knowledge
from isolation_monitor.telemetry.detectors.object_walk import Node, key_texts, step_of
from isolation_monitor.telemetry.detectors.raw_objects import Child, Layouts, children, is_closure, is_leaf, is_number, plain
from isolation_monitor.telemetry.detectors.rows import Rows, is_identity_name, told_apart, words_in
from isolation_monitor.telemetry.recent import forget_oldest
from isolation_monitor.telemetry.tokens import tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Principal
    from isolation_monitor.telemetry.violations import Violation

PLACES_LIMIT: Final = 2_000
HOLDINGS_LIMIT: Final = 32
"""Principals remembered of one place."""
LEAVES_LIMIT: Final = 16
KEYS_LIMIT: Final = 20_000
SHARED_LIMIT: Final = 5_000
"""Objects remembered during one walk that are under principals' keys."""

_TRACE_NAME: Final = re.compile(r"request_?id|correlation|trace|span|nonce", re.IGNORECASE)
_PASSING: Final = (
    "error", "exception", "log(?!in)", "trace", "warning", "stat(?![eio])", "statistic", "metric", "count(?!r)", "time(?!line)",
    "date", "update", "version", "path", "route", "debug",
)  # fmt: skip
_PASSING_NAME: Final = re.compile(
    rf"(?:^|[^A-Za-z])(?i:{'|'.join(_PASSING)})|(?<=[a-z])(?:{'|'.join(word.capitalize() for word in _PASSING)})"
)
"""Names of fields that tell what happened last, which is nobody's state. Words that only contain one, as `account` does, are others."""

KEYS_BY_USER: Final = 3
BASELINE_LIMIT: Final = 50_000


class Holding:
    """What one principal has at one place; `settled` once proven to have outlived its request. `fields` of the row say whose it is."""

    __slots__ = ("fields", "leaves", "principal", "settled", "token", "walk", "was_said")

    def __init__(self, principal: Principal, token: str, fields: dict[str, str]) -> None:
        self.principal = principal
        self.token = token
        self.fields = fields
        self.leaves: dict[int, int] = {}
        """Identity of each value seen: how many requests had ended in this process when it was first seen."""
        self.settled = False
        self.was_said = False
        """Known from nothing but what the principal said."""
        self.walk = 0
        """The walk that saw it last."""


class Place:
    """One place, its way with varying steps as `[*]`."""

    __slots__ = ("again", "code", "holder", "holdings", "keys", "label", "read_as", "reported_at", "since", "violation")

    def __init__(self, label: str, keys: tuple[str, ...], holder: str, since: float) -> None:
        self.label = label
        self.keys = keys
        self.holder = holder
        self.since = since
        self.holdings: dict[str, Holding] = {}
        self.violation: Violation | None = None
        self.reported_at = 0.0
        self.code: list[str] | None = None
        """The lines of code that use it, once somebody asked."""
        self.again = 0
        """Times it was found again since it was reported."""
        self.read_as: str | None = None
        """The name by which alone it can be read (`readers.py`); None where there are other ways."""


class Finding(NamedTuple):
    """A value of a principal at a place that does not say so."""

    place: Place
    evidence: Evidence
    node: Node
    child: Child
    is_slot: bool
    """Whether the place is one field that is written over, rather than one of many alike."""


class Residue:
    """Judges what a walk comes across, and remembers what each place has held."""

    def __init__(self, knowledge: Knowledge, layouts: Layouts) -> None:
        self._know = knowledge
        self._layouts = layouts
        self._rows = Rows(knowledge, layouts)
        self.places: dict[tuple[str, tuple[str, ...]], Place] = {}
        self._before: set[tuple[int, int]] = set()
        """What was there before the first request: identities of holder and value. Not held: the identities of what is gone
        may come again, which costs one finding."""
        self._keys_before: set[str] = set()
        self._keys_now: set[str] = set()
        """Texts that are keys of dictionaries, at the last walk and at this one: as items of a list they refer, and hold nothing."""
        self.on_keyed: list[Callable[[str, Principal], None]] = []
        """Called with each token found under a key that is a principal's id: evidence of whose it is."""
        self.on_shared: list[Callable[[str], None]] = []
        """Called with each such token that is found under another's key as well."""
        self.on_between: list[Callable[[str, set[str]], None]] = []
        """Called with each token of a principal in a row that names others beside him, and with their ids: it is theirs as well."""
        self._keyed: dict[int, list[tuple[str, str]]] = {}
        """Of each object on the way to such a token, by identity: the token and its owner's id. Of one walk."""
        self._also: dict[int, set[str]] = {}
        """By identity, objects that several ways lead to: the principals whose keys they are under. Of one walk."""

    def note_baseline(self, node: Node) -> None:
        """Take what an object holds before the first request as left by nobody: a table of users, a configuration."""
        if len(self._before) < BASELINE_LIMIT:
            self._before.update((id(node.value), id(child.value)) for child in node.holds if is_leaf(child.value))

    def begin(self, *, keeps_keys: bool = False) -> None:
        """A walk begins; `keeps_keys` where walks do not see everything, so that a key may be one that an earlier walk saw."""
        known = self._keys_before if keeps_keys and len(self._keys_before) < KEYS_LIMIT else set()
        self._keys_before, self._keys_now = self._keys_now | known, set()
        self._keyed.clear()
        self._also.clear()

    def names_in(self, node: Node) -> set[str]:
        """Return the ids of the principals that an object names in fields of its own."""
        found: set[str] = set()
        layout = node.layout
        if layout is None or layout.kind not in ("dict", "instance", "tuple"):
            return found
        ids = self._know.ids
        for child in node.holds:
            if is_leaf(child.value):
                text = plain(child.value)
                name = child.key if type(child.key) is str else ""
                if text in ids:
                    if Knowledge.is_strong(text, name):
                        found.add(text)
                elif len(text) <= 64 and not text.isalnum() and (" " not in text or is_identity_name(name)):
                    found.update(word for word in words_in(text) if word in ids and Knowledge.is_strong(word, name))
        return found

    def look(self, node: Node, now: float) -> list[Finding]:
        """Return the values of single principals that an object holds at places which do not say so."""
        node.names = self.names_in(node)
        findings: list[Finding] = []
        varies, is_table = node.varies, node.is_table
        if is_table and len(self._keys_now) < KEYS_LIMIT:
            self._keys_now.update(child.key for child in node.holds if type(child.key) is str and len(child.key) >= 8)
        # Who came last is told by statistics, too.
        is_statistic = node.parent is not None and _PASSING_NAME.search(node.step) is not None
        for child in node.holds:
            if not is_leaf(child.value) and self._layouts.of(child.value).kind != "leaf":
                continue
            text = plain(child.value)
            if not text:
                continue
            name = child.key if type(child.key) is str else ""
            is_slot = is_field(child, varies, is_table)
            if (id(node.value), id(child.value)) in self._before:
                if self.on_keyed and len(text) >= 8:
                    self._tell_keyed(node, child, text)
                continue
            in_text = is_slot and node.library == 0 and _PASSING_NAME.search(name) is None
            found = self._know.evidence(text, name, in_text)
            if found and not is_slot and ((self.on_between and self._is_told(node, found)) or self._rows.is_waiting(node)):
                continue
            for evidence in found:
                if evidence.proof != "token" and (not is_slot or is_statistic):
                    continue
                if _TRACE_NAME.search(name) if is_slot else self._refers(node, evidence, text):
                    continue
                chain = self._keys(node, child)
                if self.is_addressed(chain, evidence.owner):
                    continue
                if not is_slot and self._rows.name_owner(node, evidence, text):
                    continue
                if not is_slot and self._is_for_others(node, evidence):
                    continue
                place = self._place_at(node.label + step_of(child, is_table), chain, node, now)
                findings.append(Finding(place, evidence, node, child, is_slot))
            if self.on_keyed and len(text) >= 8:
                self._tell_keyed(node, child, text)
        return findings

    def _refers(self, node: Node, evidence: Evidence, text: str) -> bool:
        """Whether an item only refers to something kept elsewhere: members of sets, keys of tables in a queue, entries of an index."""
        kind = node.layout.kind if node.layout is not None else ""
        if text != evidence.token or kind not in ("set", "list", "deque", "tuple"):
            return False
        if kind == "set" or text in self._keys_now or text in self._keys_before:
            return True
        return kind == "tuple" and all(is_number(child.value) for child in node.holds if child.value is not text)

    def _keys(self, node: Node, child: Child) -> tuple[str, ...]:
        """Return the texts of the keys on the way to a value, outermost first."""
        keys = key_texts(child.key, self._layouts) if child.step in ("key", "result") else []
        at: Node | None = node
        while at is not None:
            if at.key is not None:
                keys = [*key_texts(at.key, self._layouts), *keys]
            at = at.parent
        return tuple(key[:200] for key in keys[:16])

    def _place_at(self, label: str, keys: tuple[str, ...], node: Node, now: float) -> Place:
        found = self.places.get((label, keys))
        if found is None:
            forget_oldest(self.places, PLACES_LIMIT - 1, 0.1)
            holder = f"{node.layout.module}.{node.layout.name}" if node.layout is not None else "module"
            found = self.places[label, keys] = Place(label, keys, holder, now)
        return found

    def _tell_keyed(self, node: Node, child: Child, text: str) -> None:
        owners = self._know.owners
        named = {key for key in self._keys(node, child) if key in self._know.ids and self._is_name(key, node, child)}
        if len(named) > 1 and owners is not None:
            # Kept for a pair, one of whom nobody may have met before.
            for token in tokens_of(text[:TEXT_LIMIT]):
                if (keeper := owners.private_to(token)) is not None and keeper.id in named:
                    self._share(token)
        # An id names somebody, and is nobody's secret: a sender, a friend, a member.
        if len(named) == 1 and owners is not None and text not in self._know.ids:
            owner = self._know.ids[named.pop()]
            for token in tokens_of(text[:TEXT_LIMIT]):
                known = owners.owner_of(token)
                # Under the keys of two: what they share, a room or a team. What answers made likely, its key proves.
                is_proof = known is owner and owners.is_usual(token)
                is_news = is_proof or known is None or (known.id != owner.id and owners.private_to(token) is not None)
                if token in self._know.ids or not (is_news or known is owner):
                    continue
                if self._is_shared(node, token, owner):
                    self._share(token)
                elif is_news:
                    for listener in self.on_keyed:
                        listener(token, owner)

    def _is_told(self, node: Node, found: list[Evidence]) -> bool:
        """Tell of what somebody said in a row that names others beside him, or is marked as public; return whether it is public."""
        is_for_all = False
        for evidence in found:
            if evidence.proof != "token" or not self.was_said(evidence.token):
                continue
            parties = self._rows.parties(node)
            if evidence.owner.id in parties:
                for listener in self.on_between:
                    listener(evidence.token, parties - {evidence.owner.id})
            elif self._rows.is_for_all(node):
                is_for_all = True
                self._share(evidence.token)
        return is_for_all

    def _is_name(self, key: str, node: Node, child: Child) -> bool:
        """Whether a key that is a principal's id is there for that: no small number that counts things."""
        return Knowledge.is_strong(key, "") or self._is_by_user(node, child)

    def met_again(self, node: Node, child: Child) -> None:
        """Take note that a second way leads to an object: under the key of another principal it is no longer the first one's own."""
        ids = {key for key in self._keys(node, child) if key in self._know.ids}
        if len(ids) != 1 or len(self._also) >= SHARED_LIMIT:
            return
        self._also.setdefault(id(child.value), set()).update(ids)
        for token, owner in self._keyed.get(id(child.value), ()):
            if owner not in ids:
                self._share(token)
        self._tell_all_keyed(node, child)

    def _tell_all_keyed(self, node: Node, child: Child) -> None:
        """Tell of what an object holds under a principal's key, where another way, that names nobody, was shorter: an alias in a cache."""
        layout = self._layouts.of(child.value)
        inner = Node(child.value, layout, node, "", child.key, node.depth + 1)
        inner.holds = list(children(child.value, layout))
        inner.is_varying = True
        for part in inner.holds:
            text = plain(part.value) if is_leaf(part.value) else ""
            # What somebody said has an owner; one list under the keys of all does not make it theirs.
            if len(text) >= 8 and not any(map(self.was_said, self._know.tokens(text))):
                self._tell_keyed(inner, part, text)

    def _share(self, token: str) -> None:
        for listener in self.on_shared:
            listener(token)

    def _is_shared(self, node: Node, token: str, owner: Principal) -> bool:
        """Whether an object on the way to a token is under another principal's key, too; remembers the way for those met later."""
        at: Node | None = node
        while at is not None:
            others = self._also.get(id(at.value))
            if others is not None and others - {owner.id}:
                return True
            if len(self._keyed) < SHARED_LIMIT:
                self._keyed.setdefault(id(at.value), []).append((token, owner.id))
            # Above the key there is what holds everybody's.
            at = None if at.key is not None and any(text in self._know.ids for text in key_texts(at.key, self._layouts)) else at.parent
        return False

    def _is_by_user(self, node: Node, child: Child) -> bool:
        """Whether one of the dictionaries on the way has principals' ids for keys: several, so that small numbers are no chance."""
        ids = self._know.ids
        at: Node | None = node
        while at is not None:
            if at.is_table:
                keys = sum(1 for held in at.holds if any(key in ids for key in key_texts(held.key, self._layouts)))
                if keys >= KEYS_BY_USER and 2 * keys >= len(at.holds):
                    return True
            at = at.parent
        return False

    def texts_in(self, node: Node) -> list[tuple[Child, str]]:
        """Return the short texts that an object holds in fields which are written over, with the field's way."""
        if node.varies or node.library > 1:
            return []
        texts = [
            child
            for child in node.holds
            if (type(child.value) is str or type(child.value) is bytes)
            and len(child.value) <= 200
            and type(child.key) is str
            and is_field(child, False, False)
        ]
        if not texts or node.is_table:
            return []
        return [(child, node.label + step_of(child, False)) for child in texts if _PASSING_NAME.search(str(child.key)) is None]

    def slots_in(self, node: Node) -> list[tuple[Child, str]]:
        """Return the fields which are written over that hold containers, objects or closures, with their way."""
        kind, label = node.layout and node.layout.kind, node.label
        if node.varies or node.library > 1 or kind == "class" or node.is_table:
            return []
        return [
            (child, label + step_of(child, False))
            for child in node.holds
            if type(child.key) is str
            and is_field(child, False, False)
            and (kind != "function" or child.step == "attribute")
            and (self._layouts.of(child.value).kind in ("dict", "list", "tuple", "instance") or is_closure(child.value))
            and _PASSING_NAME.search(child.key) is None
        ]

    def was_said(self, token: str) -> bool:
        return self._know.owners is not None and self._know.owners.was_said(token)

    def _is_for_others(self, node: Node, evidence: Evidence) -> bool:
        owners = self._know.owners
        if owners is None or not owners.was_said(evidence.token):
            return False
        return owners.was_said_to_all(evidence.token) or self._rows.name_receiver(node, evidence.owner)

    def place_of(self, node: Node, child: Child, label: str, now: float) -> Place:
        """Return the place of a field found by `texts_in`."""
        return self._place_at(label, self._keys(node, child), node, now)

    def is_addressed(self, keys: tuple[str, ...], owner: Principal) -> bool:
        """Whether the keys on the way to a value say whose it is: its owner's, or somebody's to whom it was sent."""
        return any(self._know.names(key, owner) or self._know.names_somebody(key) for key in keys)

    # --- what a place has held ----------------------------------------------------------------------------------------

    def hold(self, place: Place, evidence: Evidence, node: Node | None = None) -> Holding | None:
        """Remember that a principal has something at a place; None when the place holds too many to remember."""
        holding = place.holdings.get(evidence.owner.id)
        if holding is None:
            if len(place.holdings) >= HOLDINGS_LIMIT:
                return None
            fields = self._rows.fields_of(node) if node is not None else {}
            holding = place.holdings[evidence.owner.id] = Holding(evidence.owner, evidence.token, fields)
        return holding

    def mixed(self, place: Place, is_slot: bool) -> tuple[Holding, Holding] | None:
        """Return the first two principals whose settled values share a place although nothing there tells them apart."""
        settled = [one for one in place.holdings.values() if one.settled]
        for at, first in enumerate(settled):
            for second in settled[at + 1 :]:
                if first.principal.is_synthetic != second.principal.is_synthetic:
                    continue
                if not is_slot and told_apart(first.fields, second.fields):
                    continue
                if self._know.shares is not None and any(self._know.shares(first.principal, second.principal, key) for key in place.keys):
                    continue
                return first, second
        return None


def is_field(child: Child, varies: bool, is_table: bool) -> bool:
    """Whether a child is one field that is written over, given whether its holder varies and is a table."""
    # Defaults of functions are written in the code and never change.
    return not varies and child.step in ("name", "attribute", "cell", "key") and not (child.step == "key" and is_table)
