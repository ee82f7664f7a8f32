"""Consent: the ways by which it is normal that one principal is shown what belongs to another.

The receiver named the value, its owner, or something that is not his own (a room, a document); both named the same; it stands in a
list whose items say whose they are, or beside the name by which its owner is known to all; a row in memory is kept between the two;
it is listed with a handle of its own, or given for it, by which others take up what such lists offer; it was said in a room where the
receiver has been, or sent to a name that is his; the place is called public. Asked only about what looks foreign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from isolation_monitor.telemetry.detectors.authors import ITEM_LIMIT
from isolation_monitor.telemetry.detectors.ingress import NOTHING
from isolation_monitor.telemetry.detectors.ownership import MADE
from isolation_monitor.telemetry.detectors.publicity import is_public_path
from isolation_monitor.telemetry.detectors.surroundings import headers_name, is_part_of_page, item_around, object_around, surroundings
from isolation_monitor.telemetry.detectors.suspicion import SAID
from isolation_monitor.telemetry.provenance import was_fetched
from isolation_monitor.telemetry.tokens import tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.addressing import Addressing
    from isolation_monitor.telemetry.detectors.authors import Authors
    from isolation_monitor.telemetry.detectors.ingress import Ingress
    from isolation_monitor.telemetry.detectors.ownership import Ownership
    from isolation_monitor.telemetry.detectors.relations import Relations
    from isolation_monitor.telemetry.detectors.suspicion import Suspicion


class Consent:
    """Judges suspicions by what was learned of everybody. Called on the event loop; `came_since` also by the thread that walks."""

    def __init__(self, ownership: Ownership, addressing: Addressing, relations: Relations, authors: Authors) -> None:
        self._ownership = ownership
        self._addressing = addressing
        self._relations = relations
        self._authors = authors
        self.reads_are_known: Callable[[RequestContext], bool] = lambda request: True
        """Whether it is known what a request read from databases: a suspicion cannot be judged without."""
        self.on_unknown: Callable[[], None] = lambda: None
        """Called where that is not so."""

    def explains(self, suspicion: Suspicion, text: str) -> bool:
        """Return whether one of the ways by which sharing is normal explains a foreign value; also when that cannot be told."""
        request, token, entry, owner = suspicion.request, suspicion.token, suspicion.entry, suspicion.owner
        said: Ingress = request.ingress or NOTHING
        connection = request.connection
        before: Ingress = (connection.said or NOTHING) if connection is not None else NOTHING
        if token in said.tokens or token in before.tokens:
            return True
        if owner.id in said.values or owner.id in before.values:
            # It asked for this person.
            return True
        if headers_name(request, owner.id) or (entry.how == "state" and self._ownership.has_named(suspicion.principal, owner.id)):
            return True
        if entry.how != "declared" and self._relations.acts_for(suspicion.principal, owner.id):
            # Support staff that acts as a customer, from this request on or from an earlier one.
            return True
        if entry.how == "declared":
            return False
        if entry.how != "credential" and self._ownership.has_named(suspicion.principal, token):
            return True
        if not self._addressing.is_only_own(request, suspicion.principal):
            # It asked for something that is not its own by name: a room, a document, a profile.
            return True
        in_list, names_owner = surroundings(text, token, owner.id)
        if in_list and names_owner:
            # A list whose items say openly whose they are: a directory, a feed.
            return True
        if entry.how not in SAID:
            return False
        if is_part_of_page(suspicion):
            return True
        if entry.how == "ingress" and is_public_path(said.path):
            # The service shows it as what is there for all, and says so. Where it was said there, too, it is everybody's anywhere.
            entry.is_public = entry.is_public or self._ownership.was_said_to_all(token)
            return True
        if (connection is not None and names_owner) or self._relations.is_told(suspicion, text):
            # Openly attributed speech, or said to whoever made what it is about.
            return True
        if self._is_signed(suspicion, text) or self._is_offered(suspicion, text):
            return True
        if was_fetched(request, token) or self._ownership.has_named_any_of(suspicion.principal, entry.origin.request):
            return True
        if not self.reads_are_known(request):
            self.on_unknown()
            return True
        source = entry.origin.ingress
        if source is not None:
            if entry.how in MADE and any(not self._addressing.is_own(address, owner) for address in source.addresses):
                # What the owner did concerns something that is not his own: others are told of it.
                return True
            # Both named the same room, thread or document, on this connection or in this request.
            if not source.addresses.isdisjoint(said.addresses) or not source.addresses.isdisjoint(before.addresses):
                return True
            if self._relations.met(suspicion) or (entry.how == "ingress" and self._relations.is_addressee(suspicion)):
                return True
        return False

    def came_since(self, suspicion: Suspicion) -> bool:
        """Return whether a suspicion that had to wait is explained by what was learned meanwhile."""
        if suspicion.is_explained:
            return True
        entry, principal = suspicion.entry, suspicion.principal
        if entry.how not in SAID:
            return False
        # Naming now what came with the value proves nothing: whoever was shown somebody else's message answers to it.
        return self._ownership.has_named(principal, suspicion.token) or (suspicion.has_handle and self._ownership.is_offered(entry.origin))

    def _is_signed(self, suspicion: Suspicion, text: str) -> bool:
        """Whether what a user said stands beside the name by which all know him."""
        around = object_around(text, suspicion.token)
        return around is not None and len(around) <= ITEM_LIMIT and self._authors.sign(around, suspicion.owner.id)

    def _is_offered(self, suspicion: Suspicion, text: str) -> bool:
        """Whether it is listed with a handle that came of the same request, as an offer is, or given to who names such a handle.

        It is consent where others take up such handles, now or once they have.
        """
        origin = suspicion.entry.origin
        if origin.request is None:
            return False
        said: Ingress = suspicion.request.ingress or NOTHING
        # Naming it counts for nothing by itself: whoever was wrongly shown a handle may use it.
        if not self._holds_handle(said.tokens, suspicion):
            item = item_around(text, suspicion.token)
            if item is None or len(item) > ITEM_LIMIT or not self._holds_handle(tokens_of(item), suspicion):
                return False
        suspicion.has_handle = True
        return self._ownership.is_offered(origin)

    def _holds_handle(self, tokens: Iterable[str], suspicion: Suspicion) -> bool:
        """Whether one of these came of the same request as the suspicion's value."""
        came_with, receiver = suspicion.entry.origin.request, suspicion.principal
        for token in tokens:
            handle = self._ownership.get(token) if token != suspicion.token else None
            if handle is None or handle.how == "credential":
                continue
            if any(one.request is came_with for one in handle.origins_of_others(receiver)):
                return True
        return False
