"""Ownership: whose a token is, learned from evidence that a leak cannot forge.

Seven ways lead to an owner, from the weakest to the strongest:
- `ingress`: the token came in with a request of one principal. A second principal that brings it too makes it public.
- `made`: the code of one principal's request put it into a queue, or sent it, and nobody had seen it before; or a task put it
  into a queue in reply to that request, and another took it (`replies.py`).
- `passed`: the same of what an answer had given that principal before. What the same endpoint then answers to others is a
  part of its page, as the name of a script, and no violation.
- `credential`: the same for what a principal proves himself with.
- `answers`: an endpoint that addresses nothing gives each principal a value of its own, the same one again and again
  (`answers.py`); so the value belongs to who gets it.
- `state`: memory of the application holds it under a key that is a principal's id (`shared_state.py`).
Seeing a token go out proves nothing by itself: a leak seen first would poison what is learned. Such a token has no owner,
but it is remembered to whom it went, so that evidence which comes later can still prove an earlier crossing.
Bounded: the tokens added first are forgotten first, unless they were met again since: one that is still shown to everybody must
not come back as the discovery of whoever names it next. About 300 bytes a token (bench: memory per 100k indexed ids).
Phrases (`tokens.py`) are kept among the tokens; the words that they begin with are kept beside them, so that a text in which
none of these words stands is not cut into phrases at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Literal

from isolation_monitor.telemetry.detectors.publicity import is_public_path
from isolation_monitor.telemetry.detectors.surroundings import place_of
from isolation_monitor.telemetry.recent import forget_oldest
from isolation_monitor.telemetry.tokens import openings_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.ingress import Ingress
    from isolation_monitor.telemetry.principals import Principal

How = Literal["", "made", "passed", "ingress", "credential", "answers", "state", "declared"]
STRENGTH: Final[dict[How, int]] = {"": 0, "made": 1, "passed": 1, "ingress": 1, "credential": 1, "answers": 2, "state": 3, "declared": 4}
MADE: Final = ("made", "passed")
"""By what the code of the owner's request did with it."""

BYTES_EACH: Final = 350
"""Of one token with its entry and its share of an origin, as `bench/memory.py` measures it."""
SHARD_SIZE: Final = 1_500
SPARED_LIMIT: Final = 4
"""Tokens in use that are spared in a row: more would cost the one who adds too much."""
OPENINGS_LIMIT: Final = 30_000
NAMED_LIMIT: Final = 20_000
TAKERS_NEEDED: Final = 2
PLACES_LIMIT: Final = 2_000
SIGHTINGS_LIMIT: Final = 4
"""Other principals that a token without an owner is remembered to have gone to."""


class Origin:
    """The request that a token was first seen with: one for all its tokens."""

    __slots__ = ("at", "endpoint", "ingress", "principal", "request")

    def __init__(self, request: RequestContext | None, principal: Principal, ingress: Ingress | None, endpoint: object = None) -> None:
        self.request = request
        self.principal = principal
        self.ingress = ingress
        self.endpoint = endpoint
        """What answered with it, where that answer showed nothing but the principal's own; None where it could show others'."""
        self.at = time.time()


class Entry:
    """What is known of one token. `owner` is None until there is evidence; `is_public` once it belongs to several."""

    __slots__ = ("how", "is_in_use", "is_public", "origin", "owner", "sightings")

    def __init__(self, origin: Origin, owner: Principal | None, how: How) -> None:
        self.origin = origin
        self.owner = owner
        self.how: How = how
        self.is_public = False
        self.is_in_use = False
        """It was met since it was added, or since it was last spared."""
        self.sightings: list[Origin] | None = None
        """Requests of other principals whose answers carried it; only while there is no owner."""

    @property
    def was_answered(self) -> bool:
        """Whether the token is known from an answer to an HTTP request, and from nothing else or what was made of it since."""
        first = self.origin.request
        return self.how in ("", "passed") and first is not None and first.connection is None

    def origins_of_others(self, principal: Principal) -> list[Origin]:
        """Return where others than this principal brought it or were given it, as far as that is remembered.

        A handle may be listed to others before the answer to whoever it was made for has left.
        """
        return [one for one in (self.origin, *(self.sightings or ())) if one.principal.id != principal.id]

    def is_only_seen_by(self, principal: Principal) -> bool:
        """Whether all that is known of the token is that it went out to this principal."""
        return self.owner is None and not self.is_public and not self.sightings and self.origin.principal.id == principal.id


class Entries(MutableMapping[str, Entry]):
    """A dict of entries that is never slow: when one dict of 100,000 grows, the event loop stands for milliseconds.

    Cut into many small dicts by the hash of the token. Each forgets its oldest two when it is full and one is added; what is
    in use goes to the end instead, once, unless nearly everything is.
    """

    __slots__ = ("_mask", "_shards", "_size")

    def __init__(self, limit: int) -> None:
        shards = 1
        while shards * SHARD_SIZE < limit:
            shards *= 2
        self._mask = shards - 1
        self._size = -(-limit // shards)
        self._shards: list[dict[str, Entry]] = [{} for _ in range(shards)]

    def __getitem__(self, token: str) -> Entry:
        return self._shards[hash(token) & self._mask][token]

    def __contains__(self, token: object) -> bool:
        return token in self._shards[hash(token) & self._mask]

    def get(self, token: str, default: Any = None) -> Any:
        return self._shards[hash(token) & self._mask].get(token, default)

    def of(self, tokens: Iterable[str]) -> list[tuple[str, Entry | None]]:
        """Return each token with its entry: one call for all of them, since texts hold many."""
        shards, mask = self._shards, self._mask
        return [(token, shards[hash(token) & mask].get(token)) for token in tokens]

    def __setitem__(self, token: str, entry: Entry) -> None:
        shard = self._shards[hash(token) & self._mask]
        shard[token] = entry
        if len(shard) > self._size:
            # The thread that walks through memory may forget at the same time.
            for _ in range(2):
                oldest = next(iter(shard), token)
                forgotten = shard.pop(oldest, None)
                for _ in range(SPARED_LIMIT):
                    if forgotten is None or not forgotten.is_in_use:
                        break
                    forgotten.is_in_use = False
                    shard[oldest] = forgotten
                    oldest = next(iter(shard), token)
                    forgotten = shard.pop(oldest, None)

    def __delitem__(self, token: str) -> None:
        del self._shards[hash(token) & self._mask][token]

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from list(shard)

    def __len__(self) -> int:
        return sum(map(len, self._shards))


class Ownership:
    """The index of tokens. Written on the event loop and, for `state`, by the scanning thread: single dict operations only."""

    def __init__(self, limit: int = 100_000) -> None:
        self.entries = Entries(limit)
        self.openings: dict[str, None] = {}
        """The words that known phrases begin with, as they may be written."""
        self._named: dict[tuple[str, str | int], None] = {}
        """Id of a principal, and another's token that it has named, or the serial number of the request that token is from."""
        self._offered: dict[object, set[str]] = {}
        """By place (`place_of`): ids of principals that have named what others' requests there brought or were given."""

    def get(self, token: str) -> Entry | None:
        entry: Entry | None = self.entries.get(token)
        return entry

    def bytes_held(self) -> float:
        """Return about how much memory the index takes."""
        return float(len(self.entries) * BYTES_EACH)

    def has_named(self, principal: Principal, token: str) -> bool:
        """Return whether a principal has named another's token before: a room, an invitation, a link."""
        return (principal.id, token) in self._named

    def has_named_any_of(self, principal: Principal, request: RequestContext | None) -> bool:
        """Return whether a principal has named anything that another's request brought or was given.

        Who was told of a room, an invitation or a link may be shown what it stands for.
        """
        return request is not None and (principal.id, request.serial) in self._named

    def _note_named(self, principal: Principal, token: str, entry: Entry) -> None:
        named = self._named
        named[principal.id, token] = None
        for origin in entry.origins_of_others(principal):
            if origin.request is None:
                continue
            named[principal.id, origin.request.serial] = None
            if entry.owner is None:
                # A handle that the service gave out. What clients bring, as their build's name, others bring without taking anything up.
                self._note_offered(principal, origin)
        forget_oldest(named, NAMED_LIMIT, 0.05)

    def _note_offered(self, principal: Principal, origin: Origin) -> None:
        place = place_of(origin)
        if place is None:
            return
        takers = self._offered.setdefault(place, set())
        if len(takers) < TAKERS_NEEDED:
            takers.add(principal.id)
            forget_oldest(self._offered, PLACES_LIMIT, 0.05)

    def is_offered(self, origin: Origin) -> bool:
        """Return whether several principals have named what others brought, or were given, where this came in: it is there for that."""
        return len(self._offered.get(place_of(origin), ())) >= TAKERS_NEEDED

    def told(self, ids: Iterable[str], token: str) -> None:
        """Note that a token is kept for these principals too, as if each had named it. Called by the scanning thread."""
        named = self._named
        for id in ids:
            # The event loop forgets the oldest.
            if len(named) < NAMED_LIMIT:
                named[id, token] = None

    def forget(self, token: str) -> None:
        self.entries.pop(token, None)

    def came_in(self, origin: Origin, tokens: Iterable[str], how: How = "ingress") -> None:
        """Note that a request of a principal brought these tokens, as `ingress` or as its `credential`."""
        entries, principal = self.entries, origin.principal
        for token in tokens:
            entry = entries.get(token)
            if entry is None:
                entries[token] = Entry(origin, principal, how)
                if " " in token:
                    self._note_opening(token)
                continue
            entry.is_in_use = True
            if (entry.owner or entry.origin.principal).id != principal.id or entry.sightings:
                self._note_named(principal, token, entry)
            if entry.owner is None:
                # So far it only went out. Whoever names what it was given makes it its own; another who names it knows it otherwise.
                if entry.is_only_seen_by(principal):
                    entry.owner, entry.how = principal, how
                else:
                    entry.is_public = True
            elif entry.owner.id != principal.id and STRENGTH[entry.how] == 1:
                entry.is_public = True

    def went_out(self, origin: Origin, token: str) -> Entry:
        """Note that an answer to a principal carried a token that is not known yet; return its entry."""
        entry = self.entries[token] = Entry(origin, None, "")
        return entry

    def publish(self, token: str, origin: Origin) -> None:
        """Make a token everybody's, unless it is a credential or was declared private."""
        entry = self.entries.get(token)
        if entry is None:
            entry = self.entries[token] = Entry(origin, None, "")
        if entry.how not in ("credential", "declared"):
            entry.is_public = True

    def belongs(self, token: str, principal: Principal, how: How, origin: Origin | None = None) -> list[Origin]:
        """Give a token its owner by evidence of `how`; return the other principals' requests that it has gone to already.

        Evidence that contradicts evidence of the same strength makes the token public.
        """
        entry = self.entries.get(token)
        if entry is None:
            self.entries[token] = Entry(origin or Origin(None, principal, None), principal, how)
            return []
        if entry.is_public and how != "declared":
            # Two have named it, or it is kept for two: a third opinion does not make it one's own.
            return []
        if entry.owner is not None and entry.owner.id != principal.id:
            if STRENGTH[entry.how] > STRENGTH[how]:
                return []
            if entry.how == how or (entry.how == "ingress" and how == "answers"):
                # Said by one and usually given to another: shared, or known as a leak by what was said.
                entry.is_public = True
                return []
        elif STRENGTH[entry.how] >= STRENGTH[how] or (entry.owner is not None and entry.how == "ingress" and how == "answers"):
            # What somebody says of himself, as his nickname, comes back to him often, and is for others all the same.
            return []
        if entry.owner is not None and entry.owner.id != principal.id and STRENGTH[entry.how] == 1:
            # Who said it knows it, whoever it is kept for.
            self._note_named(entry.owner, token, entry)
        # Whom it went to before anybody knew whose it is: also the first one, when that is not the owner.
        gone = [*(entry.sightings or ())]
        if entry.owner is None and entry.origin.principal.id != principal.id:
            gone.append(entry.origin)
        entry.owner, entry.how, entry.is_public, entry.sightings = principal, how, False, None
        return [sighting for sighting in gone if sighting.principal.id != principal.id and sighting.endpoint is not None]

    def owner_of(self, token: str) -> Principal | None:
        """Return the one principal that a token belongs to; None when nobody's, everybody's or unknown."""
        entry = self.entries.get(token)
        return None if entry is None or entry.is_public else entry.owner

    def is_credential(self, token: str) -> bool:
        """Return whether a token is what its owner proves himself with, or no more than made for him on its way to somebody."""
        entry = self.entries.get(token)
        return entry is not None and (entry.how == "credential" or entry.how in MADE)

    def proves_identity(self, token: str) -> bool:
        """Return whether a token is what its owner proves himself with."""
        entry = self.entries.get(token)
        return entry is not None and entry.how == "credential"

    def private_to(self, token: str) -> Principal | None:
        """Return whose a token is by the application's own word: kept under his id, or declared."""
        entry = self.get(token)
        return entry.owner if entry is not None and not entry.is_public and entry.how in ("state", "declared") else None

    def is_usual(self, token: str) -> bool:
        """Return whether a token is known as its owner's by nothing but what an endpoint usually gives to him."""
        entry = self.entries.get(token)
        return entry is not None and entry.how == "answers"

    def was_said(self, token: str) -> bool:
        """Return whether a token is known from nothing but what its owner said."""
        entry = self.entries.get(token)
        return entry is not None and entry.how == "ingress"

    def was_said_to_all(self, token: str) -> bool:
        """Return whether what its owner said is for everybody, by the path where it was said."""
        entry = self.entries.get(token)
        source = entry.origin.ingress if entry is not None and entry.how == "ingress" else None
        return source is not None and is_public_path(source.path)

    def _note_opening(self, phrase: str) -> None:
        openings = self.openings
        for word in openings_of(phrase):
            openings[word] = None
        forget_oldest(openings, OPENINGS_LIMIT, 0.05)
