"""Foreign content: a value that belongs to one principal leaves in an answer, stream or frame to another.

Sees: tokens (`tokens.py`) and phrases of eight words that came in with one principal's request, tokens that an endpoint
gives to one principal alone, and tokens that the application's memory keeps under a principal's id (`ownership.py`): in
bodies, streams, header values and frames of others, and in the bodies of outgoing calls made for others. Frames that a task sends which
was handed its user (`own_work.py`): what it made is his, also when he has left.
Of requests that call tasks over an `asyncio.Queue` and take the replies from another: what was made for one and taken by another
(`replies.py`).
Cannot see: values below about 40 bits, paraphrases, images; content that the request itself read from the SQL database
(what a query may return is declared by `monitor.owns`); content that the request asked for by naming a room, a document
or a person that is not its own (authorisation is the application's; an id that clients choose alike, as `/ws/web`, and a number that
each user counts for himself look like a room); broadcasts of what a user wrote or his job made, and lists whose items
say whose they are, by an id or a nickname (`authors.py`); whatever an endpoint shows that the owner does not use himself (an
administrator's view); a derived or made-up value that a cache gives to all from its first answer on.
Said, not guessed: what users write for everybody, kept in memory and shown without its author, looks the same as one history for
all. It is public where the route or the variable is called so (`/reviews`, `news_feed`: `publicity.py`); any other such endpoint is
declared by `monitor.public`. What is said in a room that the receiver has named, and not all, is for him; what is sent to a
nickname or number is for whoever was shown the first message so addressed. Where only the owner writes so far, others may read.
Cost: 40 us for 5 kB of JSON with 20 ids and about 8 us for a frame of 500 bytes, on the event loop. 64 foreign values of a text at most.
Precision: by construction: an owner is learned from evidence that a leak cannot forge, and every way by which sharing is normal
is consent (`consent.py`, `relations.py`); so is having named the value, its owner by a header, or its invitation. What memory keeps under
an id, and what users said, is looked for there once more before it is reported, mostly within half a second: it may have changed hands,
stand in a row that names both or that is marked as public (`rows.py`), or have been taken up by others.
Grades: `crossed`; `reachable` in an outgoing call.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.addressing import Addressing
from isolation_monitor.telemetry.detectors.answers import Answers, field_of
from isolation_monitor.telemetry.detectors.authors import Authors
from isolation_monitor.telemetry.detectors.broadcasts import Broadcasts
from isolation_monitor.telemetry.detectors.consent import Consent
from isolation_monitor.telemetry.detectors.ingress import NOTHING, Ingress
from isolation_monitor.telemetry.detectors.learned_identity import LearnedIdentity
from isolation_monitor.telemetry.detectors.ownership import MADE, STRENGTH, Entry, How, Origin, Ownership
from isolation_monitor.telemetry.detectors.public_content import PublicContent
from isolation_monitor.telemetry.detectors.relations import Relations
from isolation_monitor.telemetry.detectors.surroundings import endpoint_of, spoken_to, surroundings
from isolation_monitor.telemetry.detectors.suspicion import SAID, Moving, Suspicion, Unconfirmed, echo_key
from isolation_monitor.telemetry.provenance import Fetched, texts_in
from isolation_monitor.telemetry.recent import forget_oldest
from isolation_monitor.telemetry.tokens import look_up_tokens, phrases_of, tokens_of, words_of
from isolation_monitor.telemetry.violations import escalate_causes

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal, Scope

ROUTES_LIMIT: Final = 2_000
PEERS_LIMIT: Final = 2_000
PENDING_LIMIT: Final = 1_000
CREDENTIALS_LIMIT: Final = 10_000
LEARNED_PER_ANSWER: Final = 16
JUDGED_PER_ANSWER: Final = 64
PATIENCE_S: Final = 5.0
PATIENCE_TIMES: Final = 5
"""How long what a user said waits for a walk through memory, and how many times as long at most while others have the processor."""
_PUSHED: Final = object()
"""In place of the endpoint, for what went to a stranger's socket."""
TURNED_AWAY: Final = frozenset((401, 403, 404, 405, 407, 429))
"""Answers to who may not use an endpoint, or has not found one."""


class ForeignContent:
    """Learns whose values are, and judges what leaves. Called on the event loop; `belongs` also by the scanning thread."""

    plants_on_loop = True

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._reporter = kit.reporter
        self._switch = kit.switches[names.FOREIGN_CONTENT]
        self.ownership = Ownership(kit.settings.remembered_limit)
        self._answers = Answers()
        self._authors = Authors()
        self.public = PublicContent(self.ownership)
        self._peers: dict[object, set[str]] = {}
        """Ids of the principals that an endpoint has answered."""
        self._pending: dict[tuple[object, str], tuple[Suspicion, object]] = {}
        """By endpoint and id of who has not been seen there yet; with the endpoint that the suspicion is of."""
        self._unconfirmed = Unconfirmed()
        self._moving = Moving()
        self._shown: dict[tuple[str, str], None] = {}
        """Ids of receivers with the values that they were shown and that are still to be judged."""
        self.look_again: Callable[[], bool] = lambda: False
        self.is_held_up: Callable[[], bool] = lambda: False
        self._broadcasts = Broadcasts(kit, self._suspect_frame, self._authors)
        self._addressing = Addressing(self.ownership)
        self.relations = Relations(self.ownership, kit.principals.known, self._peers)
        self._credentials: dict[bytes, None] = {}
        self.identity = LearnedIdentity(kit, self.relations.acts_for)
        self.consent = Consent(self.ownership, self._addressing, self.relations, self._authors)
        self.consent.on_unknown = lambda: self._reporter.skipped(names.FOREIGN_CONTENT)
        kit.stores.on_write.append(self.handed_over)

    # --- coming in ----------------------------------------------------------------------------------------------------

    def entered(self, request: RequestContext, scope: Scope) -> None:
        """Take what a request says before its body: path, query and credentials."""
        principal = request.principal
        if principal is None or not self._switch.is_on:
            return
        request.ingress = ingress = Ingress()
        new = ingress.add_path(scope)
        if request.connection is not None:
            request.connection.said = Ingress()
            request.connection.said.take(ingress)
        for name, value in scope["headers"]:
            if name in (b"authorization", b"cookie") and value not in self._credentials:
                self._credentials[value] = None
                if len(self._credentials) > CREDENTIALS_LIMIT:
                    self._credentials.pop(next(iter(self._credentials)))
                secrets = tokens_of(value.decode("latin-1"))
                ingress.add_tokens(secrets)
                self.ownership.came_in(Origin(request, principal, ingress), secrets, "credential")
        if new:
            self._came_in(request, principal, ingress, new)
        self.public.is_called(principal, request)

    def came_in(self, request: RequestContext, text: str, *, is_form: bool = False) -> None:
        """Take a body, or a frame of a connection."""
        principal = request.principal
        if principal is None or not self._switch.is_on:
            return
        ingress: Ingress | None = request.ingress
        if ingress is None:
            ingress = request.ingress = Ingress()
        words = words_of(text)
        new = ingress.add_form(text) if is_form else ingress.add_text(text, words)
        if len(text) >= 40:
            phrases = phrases_of(text, words)
            ingress.add_tokens(phrases)
            new += phrases
        connection = request.connection
        if connection is not None:
            if connection.said is None:
                connection.said = Ingress()
            connection.said.take(ingress)
        self._addressing.wrote(ingress.addresses, principal)
        if ingress.rooms:
            self.relations.visited(principal, ingress.rooms)
        if self.public.endpoints and self.public.receives(request):
            self.public.said(new, request, principal)
        else:
            self._came_in(request, principal, ingress, new)

    def _came_in(self, request: RequestContext, principal: Principal, ingress: Ingress, tokens: list[str]) -> None:
        known = self._kit.principals.known
        # The id of another user is how he is spoken of, not what its first speaker alone would know.
        said = [token for token in tokens if (named := known(token)) is None or named is principal]
        if self._shown:
            # Whoever was just shown another's message answers to it: that is no proof that it was for him.
            said = [token for token in said if (principal.id, token) not in self._shown]
        if said:
            self.ownership.came_in(Origin(request, principal, ingress), said)

    def belongs(self, token: str, principal: Principal, how: How, request: RequestContext | None = None) -> None:
        """Learn an owner: `state`, what the application's memory keeps under a principal's id, or `declared` by the application."""
        if not self._switch.is_on:
            return
        origin = Origin(request, principal, None) if request is not None else None
        for gone in self.ownership.belongs(token, principal, how, origin):
            entry = self.ownership.get(token)
            if gone.request is None or entry is None:
                continue
            suspicion = Suspicion(gone.request, gone.principal, token, entry, "an answer", at=gone.at)
            self._suspect(suspicion, gone.endpoint)
        for suspicion, endpoint in self._unconfirmed.came_back(token):
            # What waited for its owner to be given it once more needs that no longer.
            if not suspicion.is_explained:
                self._suspect(suspicion, endpoint)

    def made(self, value: object, by: RequestContext) -> None:
        """Take what nobody has seen before and a request's code hands to another's: an item of a queue, a frame.

        It belongs to the request that made it, unless it is meant for the other: that is judged when it leaves.
        """
        if by.principal is None or not self._switch.is_on:
            return
        origin: Origin | None = None
        for text in texts_in(value, 1):
            for token in tokens_of(text[: self._kit.settings.body_limit_bytes]):
                if (known := self.ownership.get(token)) is None or known.is_only_seen_by(by.principal):
                    origin = origin or Origin(by, by.principal, by.ingress)
                    self.ownership.came_in(origin, (token,), "passed" if known is not None and known.was_answered else "made")

    def declare(self, value: object, owner: Principal, request: RequestContext | None) -> None:
        """Take a value, declared private by the application, as a principal's own: every token in it."""
        if not self._switch.is_on:
            return
        for text in texts_in(value):
            for token in tokens_of(text):
                self.belongs(token, owner, "declared", request)

    # --- going out ----------------------------------------------------------------------------------------------------

    def answered(self, request: RequestContext, scope: Scope) -> None:
        """Note that an endpoint serves a principal: it is about to answer him well."""
        if request.principal is not None:
            endpoint = endpoint_of(request, scope)
            self.relations.answered(request, request.principal, endpoint)
            self._note_peer(endpoint, request.principal)

    def refused(self, request: RequestContext, scope: Scope) -> None:
        """Note that an endpoint fails a principal: its errors are his as much as anybody's."""
        if request.principal is not None and request.status not in TURNED_AWAY:
            self._note_peer((endpoint_of(request, scope), "errors"), request.principal)

    def leaving(self, request: RequestContext, text: str, where: str, *, scope: Scope | None = None, learns: bool = True) -> bool:
        """Judge a text on its way to the request's principal; return True when it carries a foreign value beyond doubt.

        Args:
            where: `the answer`, `the stream`, `the frame` or `a header`, for the evidence.
            scope: the ASGI scope, while the request has it.
            learns: False for header values and failed answers, from which nothing is learned.
        """
        principal = request.principal
        if principal is None or not self._switch.is_on:
            return False
        if scope is not None and request.ingress is not None:
            of_connection = request.connection.said if request.connection is not None else None
            for said in filter(None, (request.ingress, of_connection)):
                said.add_routed(scope)
                if said.rooms:
                    self.relations.visited(principal, said.rooms)
        entries, own = self.ownership.entries, principal.id
        endpoint = endpoint_of(request, scope)
        # What an answer that addresses nothing shows, the principal alone decides.
        only_own = learns and self._addressing.is_only_own(request, principal)
        if endpoint in self.public.endpoints:
            self.public.left(text, request, principal)
            only_own = False
        suspicions: list[Suspicion] = []
        fresh: list[str] = []
        origin: Origin | None = None
        unconfirmed = self._unconfirmed
        for token, entry in look_up_tokens(text, entries.of):
            if entry is None:
                if learns:
                    if origin is None:
                        # A list, or an answer about something asked for by name, may show others' values by right.
                        # So may a frame: others' words and names come with it.
                        is_own = only_own and request.connection is None and "[{" not in text and '["' not in text
                        origin = Origin(request, principal, request.ingress, endpoint if is_own else None)
                    self.ownership.went_out(origin, token)
                    fresh.append(token)
                continue
            entry.is_in_use = True
            if entry.is_public:
                continue
            if entry.owner is None:
                fresh.append(token)
                if only_own and entry.origin.principal.id != own:
                    self._sighted(entry, request, principal, text, token, endpoint)
            elif entry.owner.id != own:
                suspicions.append(Suspicion(request, principal, token, entry, where))
            else:
                fresh.append(token)
                if unconfirmed.waiting:
                    for waiting, place in unconfirmed.came_back(token):
                        self._report_between_peers(waiting, place)
                if request.connection is not None or where == "the stream":
                    self._broadcasts.heard(echo_key(token, entry, text))
        openings = self.ownership.openings
        if openings and len(text) >= 40 and not openings.keys().isdisjoint(words := words_of(text)):
            for phrase, entry in entries.of(phrases_of(text, words, openings)):
                if entry is None or entry.is_public or entry.owner is None:
                    continue
                if entry.owner.id != own:
                    suspicions.append(Suspicion(request, principal, phrase, entry, where))
                elif request.connection is not None or where == "the stream":
                    self._broadcasts.heard(phrase)
        if only_own and self.identity.leaving(request, endpoint, text):
            return True
        if request.connection is not None:
            if not only_own:
                self.identity.pushed(request, endpoint, text)
            self._note_peer(endpoint, principal)
        if only_own and fresh and len(fresh) <= LEARNED_PER_ANSWER:
            self._learn(request, principal, endpoint, text, fresh)
        if not suspicions:
            self._reporter.checked(names.FOREIGN_CONTENT)
            return False
        for token in fresh[:LEARNED_PER_ANSWER]:
            if self.ownership.was_said(token):
                self._authors.learn(endpoint, text, token, own)
        return self._judge(suspicions, request, principal, endpoint, text)

    def handed_over(self, request: RequestContext, write: Fetched) -> None:
        """Judge the body of an outgoing call made for a request."""
        principal = request.principal
        if write.store != "http" or principal is None or not self._switch.is_on:
            return
        body = write.values
        if type(body) is bytes and len(body) <= self._kit.settings.body_limit_bytes:
            text = body.decode("utf-8", "replace")
        elif type(body) is str and len(body) <= self._kit.settings.body_limit_bytes:
            text = body
        else:
            return
        words = words_of(text)
        for token in (*tokens_of(text, words), *phrases_of(text, words, self.ownership.openings)):
            entry = self.ownership.get(token)
            if entry is None or entry.is_public or entry.owner is None or entry.owner.id == principal.id:
                continue
            suspicion = Suspicion(request, principal, token, entry, f"an outgoing call to {write.where}", grade="reachable")
            if not self.consent.explains(suspicion, text):
                self._report(suspicion)
                return

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, suspicions: list[Suspicion], request: RequestContext, principal: Principal, endpoint: object, text: str) -> bool:
        found, owners = False, set[str]()
        if len(suspicions) > JUDGED_PER_ANSWER:
            # Judging each of thousands would hold up the event loop: those that are known best come first.
            suspicions = sorted(suspicions, key=lambda one: -STRENGTH[one.entry.how])[:JUDGED_PER_ANSWER]
        for suspicion in suspicions:
            if suspicion.entry.how in SAID:
                self._authors.learn(endpoint, text, suspicion.token, suspicion.owner.id)
        for suspicion in suspicions:
            owner = suspicion.owner
            if owner.id in owners or self.consent.explains(suspicion, text):
                continue
            if suspicion.entry.how in SAID and self._authors.name(endpoint, text, suspicion.token, owner.id):
                # A list whose items name their owners otherwise than by their ids. Known from now on as what all may read.
                suspicion.entry.is_public = True
                continue
            owners.add(owner.id)
            if suspicion.entry.how != "declared" and (request.connection is not None or suspicion.where == "the stream"):
                self._broadcasts.wait(suspicion, text)
            else:
                found = self._suspect(suspicion, endpoint) or found
        if not owners:
            self._reporter.checked(names.FOREIGN_CONTENT)
        return found

    def _suspect(self, suspicion: Suspicion, endpoint: object) -> bool:
        """Report a suspicion, now or once what it rests upon is confirmed; return True when that is now."""
        if suspicion.entry.how == "answers":
            self._unconfirmed.hold(suspicion, endpoint)
            return False
        if self._waits_for_walk(suspicion, endpoint):
            return suspicion.is_reported
        return self._report_between_peers(suspicion, endpoint)

    def _suspect_frame(self, suspicion: Suspicion) -> None:
        """Report what went to a stranger's socket and was no broadcast; what a job made later, only where its user is served too."""
        made_by = suspicion.entry.origin.request if suspicion.entry.how in MADE else None
        place = endpoint_of(suspicion.request, None) if made_by is not None and made_by.finished else _PUSHED
        if not self._waits_for_walk(suspicion, place):
            self._report(suspicion) if place is _PUSHED else self._report_between_peers(suspicion, place)

    def _waits_for_walk(self, suspicion: Suspicion, endpoint: object) -> bool:
        """Put off what memory may explain, until a walk has looked for it once more; return whether that was done.

        What it keeps under an id may have been handed over; what a user said may be kept between him and others.
        """
        is_said = suspicion.entry.how in SAID
        if not (is_said or suspicion.entry.how == "state") or self._switch.blocks or suspicion.principal.is_synthetic:
            return False
        if not self._moving.hold(suspicion, endpoint):
            self._reporter.skipped(names.FOREIGN_CONTENT)
            return True
        self._shown[suspicion.principal.id, suspicion.token] = None
        forget_oldest(self._shown, PENDING_LIMIT, 0.1)
        if not self.look_again():
            self.walked(time.monotonic())
        elif is_said:
            # Only rows in memory would excuse it, and where memory takes longer to walk through, few keep them there.
            self._wait(suspicion, endpoint)
        return True

    def _wait(self, suspicion: Suspicion, endpoint: object, times: int = 1) -> None:
        """Judge without a walk when none comes in time; one that others hold up is awaited for longer."""

        def lose_patience() -> None:
            if times < PATIENCE_TIMES and not suspicion.is_settled and self.is_held_up():
                self._wait(suspicion, endpoint, times + 1)
            else:
                self._settle(suspicion, endpoint)

        self._kit.housekeeper.after(PATIENCE_S, lose_patience)

    def walked(self, begun: float) -> None:
        """Judge what waited for a walk through memory that began at a moment (`time.monotonic()`)."""
        for suspicion, endpoint in self._moving.walked(begun):
            self._settle(suspicion, endpoint)
        if self._moving.is_waiting:
            self.look_again()

    def _settle(self, suspicion: Suspicion, endpoint: object) -> None:
        """Judge what had to wait, once."""
        if suspicion.is_settled:
            return
        suspicion.is_settled = True
        self._shown.pop((suspicion.principal.id, suspicion.token), None)
        if self.consent.came_since(suspicion):
            self._reporter.checked(names.FOREIGN_CONTENT)
        elif endpoint is _PUSHED:
            self._report(suspicion)
        else:
            self._report_between_peers(suspicion, endpoint)

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits for a walk through memory."""
        return self._moving.is_waiting

    def _report_between_peers(self, suspicion: Suspicion, endpoint: object) -> bool:
        """Report a suspicion when the endpoint serves the owner too, now or once it does; return True when that is now.

        One that the owner does not use himself may be there to show others' data: an administrator's.
        """
        is_declared_push = suspicion.entry.how == "declared" and suspicion.request.connection is not None
        # An error says to everybody the same, whether the endpoint serves him or not.
        places = (endpoint, (endpoint, "errors")) if suspicion.request.status >= 400 else (endpoint,)
        waits_at = [(place, suspicion.owner.id) for place in places]
        if is_declared_push or any(id in self._peers.get(place, ()) for place, id in waits_at):
            said_at, receiver = spoken_to(suspicion), suspicion.principal.id
            if said_at is None or any(receiver in self._peers.get(place, ()) for place in (said_at, (said_at, "errors"))):
                self._report(suspicion)
                return True
            # Only the owner writes there so far: a shop's page, a team's settings, which others are there to read.
            waits_at = [(said_at, receiver)]
        if len(self._pending) < PENDING_LIMIT:
            self._pending.update(dict.fromkeys(waits_at, (suspicion, endpoint)))
            # Served by the event loop while another thread looked: noted by neither.
            if any(id in self._peers.get(place, ()) and self._pending.pop((place, id), None) for place, id in waits_at):
                return self._report_between_peers(suspicion, endpoint)
        return False

    def _note_peer(self, endpoint: object, principal: Principal) -> None:
        peers = self._peers.get(endpoint)
        if peers is None:
            if len(self._peers) >= ROUTES_LIMIT:
                self._peers.pop(next(iter(self._peers)))
            peers = self._peers[endpoint] = set()
        if principal.id in peers or len(peers) >= PEERS_LIMIT:
            return
        peers.add(principal.id)
        waiting = self._pending.pop((endpoint, principal.id), None) if self._pending else None
        if waiting is not None and not waiting[0].is_reported and not waiting[0].is_explained:
            self._report_between_peers(*waiting)

    # --- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, request: RequestContext, principal: Principal, endpoint: object, text: str, tokens: list[str]) -> None:
        """Learn which values an endpoint gives to this principal alone; only where the principal alone decides."""
        said: Ingress = request.ingress or NOTHING
        for token in tokens:
            if token in said.tokens:
                continue
            field = field_of(text, token)
            if field is None or surroundings(text, token, "")[0]:
                continue
            for value, owner in self._answers.saw(endpoint, field, principal, token):
                self.belongs(value, owner, "answers")

    def _sighted(self, entry: Entry, request: RequestContext, principal: Principal, text: str, token: str, endpoint: object) -> None:
        """Remember that a value without an owner went to another principal, where that could be a leak."""
        said: Ingress = request.ingress or NOTHING
        if request.connection is not None or token in said.tokens:
            return
        if surroundings(text, token, "")[0]:
            return
        sightings = entry.sightings
        if sightings is None:
            entry.sightings = sightings = []
        if len(sightings) < 4 and all(one.principal.id != principal.id for one in sightings):
            sightings.append(Origin(request, principal, request.ingress, endpoint))

    # --- reporting ----------------------------------------------------------------------------------------------------

    def _report(self, suspicion: Suspicion) -> None:
        suspicion.is_reported = True
        cause = escalate_causes(self._reporter, suspicion.request, suspicion.owner, "a value of the victim left in the answer")
        self._reporter.report(suspicion.as_violation(cause), suspicion.request)

    def plant(self, lab: Lab) -> None:
        """Let the offender answer with what the victim brought, at an endpoint that both use."""
        token = f"planted-{lab.name}-x7"
        scope: Any = {"type": "http", "path": "/isolation-monitor/planted", "headers": [], "query_string": b"", "endpoint": lab}
        of_victim, of_offender = lab.request(), lab.request(of_offender=True)
        self.entered(of_victim, scope)
        self.came_in(of_victim, f'{{"note": "{token}"}}')
        self.answered(of_victim, scope)
        self.entered(of_offender, scope)
        self.leaving(of_offender, f'{{"note": "{token}"}}', "the answer", scope=scope)
        self.ownership.forget(token)
        self._peers.pop(endpoint_of(of_victim, scope), None)
