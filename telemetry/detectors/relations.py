"""Relations: what ties a principal to another's data, so that showing it is no leak.

Who opens a customer's account at an endpoint that the customer does not use (support, an administrator) acts for him from then
on. Who named the offer, the order or the document that a word was said about may be told of it, and so may whoever it is from.
What lies under a key that two principals know is theirs together. What one said in a room is for all who have named that room,
wherever they hear of it: a poll for news names none. A message that says to whom it goes, by a nickname or a number, is for one: who
is shown the first one so addressed is that one from then on. Called on the event loop; `shares` by the scanning thread, too.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.authors import ITEM_LIMIT
from isolation_monitor.telemetry.detectors.ingress import NOTHING
from isolation_monitor.telemetry.detectors.surroundings import item_around
from isolation_monitor.telemetry.recent import forget_oldest
from isolation_monitor.telemetry.tokens import trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.ingress import Ingress
    from isolation_monitor.telemetry.detectors.ownership import Ownership
    from isolation_monitor.telemetry.detectors.suspicion import Suspicion
    from isolation_monitor.telemetry.principals import Principal

ACTING_LIMIT: Final = 10_000
PLACES_EACH: Final = 4
VISITS_LIMIT: Final = 20_000
ALIASES_LIMIT: Final = 10_000
CROWD: Final = 8
CROWD_LIMIT: Final = 1_000
CROWD_SHARE: Final = 0.9
"""A room that so many have named, and this share of all who named any, tells nobody apart: clients send `channel: web` with everything."""
_NO_ROOMS: Final = frozenset(
    """web website mobile desktop app ios android browser api email mail sms push phone whatsapp telegram slack widget default none null
    undefined unknown true false on off test beta stable production staging dev""".split()  # noqa: SIM905
)
"""What a parameter called `channel`, `team` or `group` says that names no place where people meet."""


_NOBODY: Final[OrderedDict[str, None]] = OrderedDict()


class Relations:
    """Remembers who named whom, and where; asks the index of tokens for the rest."""

    def __init__(self, ownership: Ownership, known: Callable[[str], Principal | None], peers: Mapping[object, set[str]]) -> None:
        """`known` gives the principal of an id, if it is one; `peers` the ids of those whom each endpoint has served."""
        self._ownership = ownership
        self._known = known
        self._peers = peers
        self._named_at: dict[tuple[str, str], list[object]] = {}
        """By ids of who named and who was named: the endpoints."""
        self._visits: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        """By room: ids of the principals that have named it, the latest last, as are the rooms."""
        self._visits_kept = 0
        self._visitors: dict[str, None] = {}
        """Ids of those who have named any room."""
        self._alias_of: dict[str, str] = {}
        """Ids of principals by what senders of messages call them."""

    def answered(self, request: RequestContext, principal: Principal, endpoint: object) -> None:
        """Note whom a request has named at an endpoint that serves it well."""
        said: Ingress = request.ingress or NOTHING
        for value in said.values:
            other = self._known(value)
            if other is None or other.id == principal.id:
                continue
            places = self._named_at.setdefault((principal.id, other.id), [])
            if endpoint not in places and len(places) < PLACES_EACH:
                places.append(endpoint)
                forget_oldest(self._named_at, ACTING_LIMIT, 0.1)

    def acts_for(self, principal: Principal, other: str) -> bool:
        """Return whether a principal has named another at an endpoint that has not served that other: he may act for him."""
        return any(other not in self._peers.get(place, ()) for place in self._named_at.get((principal.id, other), ()))

    def visited(self, principal: Principal, rooms: Iterable[str]) -> None:
        """Note the rooms that a principal has named."""
        visits = self._visits
        for room in rooms:
            if room.lower() in _NO_ROOMS:
                continue
            there = visits.setdefault(room, OrderedDict())
            self._visits_kept += principal.id not in there
            there[principal.id] = None
            # Moved, never taken out and put back: the scanning thread may ask meanwhile.
            there.move_to_end(principal.id)
            visits.move_to_end(room)
            if len(there) > CROWD_LIMIT:
                there.popitem(last=False)
                self._visits_kept -= 1
            self._visitors[principal.id] = None
        forget_oldest(self._visitors, VISITS_LIMIT, 0.05)
        while self._visits_kept > VISITS_LIMIT:
            self._visits_kept -= len(visits.popitem(last=False)[1])

    def _has_been_in(self, principal: str, room: str) -> bool:
        """Return whether a principal has named a room; not where all who name any have: that is a constant, or needs no membership."""
        there = self._visits.get(room, _NOBODY)
        return principal in there and not (
            len(there) >= CROWD and (len(there) >= CROWD_LIMIT or len(there) >= CROWD_SHARE * len(self._visitors))
        )

    def met(self, suspicion: Suspicion) -> bool:
        """Return whether a principal said something in a room where the receiver has been, too."""
        origin, receiver = suspicion.entry.origin, suspicion.principal.id
        connection = origin.request.connection if origin.request is not None else None
        return any(
            self._has_been_in(receiver, room)
            for said in (origin.ingress, connection.said if connection is not None else None)
            if said is not None
            for room in said.rooms
        )

    def is_addressee(self, suspicion: Suspicion) -> bool:
        """Return whether what a principal said was sent to the receiver, by a name that only the service can tell."""
        said, receiver = suspicion.entry.origin.ingress, suspicion.principal.id
        for name in said.receivers if said is not None else ():
            # Whom an id names need not be learned.
            if self._known(name) is None and self._alias_of.setdefault(name, receiver) == receiver:
                forget_oldest(self._alias_of, ALIASES_LIMIT, 0.1)
                return True
        return False

    def shares(self, first: Principal, second: Principal, key: str) -> bool:
        """Return whether a key is a room where both have been, or an opaque one that both know: they were given it, or named it."""
        if self._has_been_in(first.id, key) and self._has_been_in(second.id, key):
            return True
        return self._knows(first, key) and self._knows(second, key)

    def is_told(self, suspicion: Suspicion, text: str) -> bool:
        """Return whether what a principal said is for whom he named, for the maker of what it is about, or shown with that."""
        source = suspicion.entry.origin.request
        said: Ingress | None = suspicion.entry.origin.ingress
        if said is None:
            return False
        receiver = suspicion.principal.id
        for value in said.values:
            if value == receiver or ((owner := self._ownership.owner_of(value)) is not None and owner.id == receiver):
                return True
            entry = self._ownership.get(value)
            if entry is not None and entry.origin.principal.id == receiver and value != suspicion.token:
                return True
        addresses = said.addresses
        if source is not None and source.connection is not None and source.connection.said is not None:
            addresses = addresses | source.connection.said.addresses
        about = [one for one in addresses if one != suspicion.token and self._knows(suspicion.principal, one)]
        around = (item_around(text, suspicion.token) or text) if about else ""
        return len(around) <= ITEM_LIMIT and any(
            one in around and re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", around) for one in about
        )

    def _knows(self, principal: Principal, key: str) -> bool:
        # Where it is kept it is written whole.
        for one in (key, trimmed(key)):
            if (entry := self._ownership.get(one)) is not None:
                return (entry.owner or entry.origin.principal).id == principal.id or self._ownership.has_named(principal, one)
        return False
