"""Shared state: places that every request reaches and that hold what belongs to single principals, under no key of theirs.

Sees: variables of the application's modules, attributes of its classes and singletons, closures, defaults of functions, results
of `functools.cache`, the application's `state`, what it puts on objects of frameworks and sets on clients (`additions.py`),
dependencies, middleware, the environment, libraries' variables that the application assigns to: an agent with one history for
all, a `current_user` (his id, his row of a table, a function made for him), a key of an SDK, a cache whose key leaves the user
out, a mutable default. A place is named by its way, `shop.agents:agent.history[*]`, and reported once it has held what two
principals left there (`residue.py`), or once each of three principals was seen to have its own value there (`fields.py`).
Cannot see: what was made for the first user and then serves everybody unchanged: only one principal is there (`whereabouts`
knows the place, the crossing is the business of the detectors of answers); values that are no strings, whole numbers, bytes
or UUIDs; what is taken away again before the request ends; state inside of frameworks and drivers, in compiled containers
and in other processes; values that nobody is known to own and that come back in no field; entries beyond the newest 96 of a
container and 7 steps from a root.
Legitimate and silent: what lies under a key that names its owner (its id, or a session, thread or job that it has), rows that name
him or whom they are for, letters under a key beside those of people (`rows.py`), what is marked as public or was said or is kept where
a name says so (`publicity.py`), work that a future waits for, statistics of who came last, public values, whatever is gone with its
request, fields that no code reads (`readers.py`).
Cost: a walk of at most 5,000 objects on the housekeeper's thread, in slices of 0.8 ms, at 1 % of a processor; of up to 60,000
and 4 % in all in a service of hundreds of modules, 5 % while a suspicion waits (`walk_pace.py`); the first requests of a process
are followed by a walk of at most 1.5 ms each, 45 ms in all. Per request under 1 us, about 1 us for each field under watch.
Precision: the place is certain, that it is nobody's intention is judged by the rules above. Grades: `reachable`; `crossed`
when the value was seen in an answer to another principal (`location_of`, asked by the detector of contents).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.changes import Changes
from isolation_monitor.telemetry.detectors.code_sites import described
from isolation_monitor.telemetry.detectors.fields import FIELDS_LIMIT, READS_PER_END, Field, Named
from isolation_monitor.telemetry.detectors.knowledge import Evidence, Knowledge, Owners
from isolation_monitor.telemetry.detectors.object_walk import WHOLE_LIMIT, Node, Root, Walk, read_again
from isolation_monitor.telemetry.detectors.overwrites import Overwrites
from isolation_monitor.telemetry.detectors.planted_owners import PlantedOwners
from isolation_monitor.telemetry.detectors.raw_objects import Child
from isolation_monitor.telemetry.detectors.readers import Confirmation
from isolation_monitor.telemetry.detectors.residue import LEAVES_LIMIT, Finding, Holding, Place, Residue
from isolation_monitor.telemetry.detectors.roots import SERVED_LOOKS, Roots
from isolation_monitor.telemetry.detectors.territory import Territory
from isolation_monitor.telemetry.detectors.walk_pace import SLICE_S, WalkPace
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

FIRST_LOOKS: Final = 20
FIRST_LOOK_S: Final = 0.0015
"""Walks right after the first requests of principals and endpoints, on the event loop: what they leave behind is the clearest."""
EARLY_LOOKS: Final = 10
"""Walks right after other requests, once there are two principals."""
IDLE_S: Final = 5.0
REPEAT_S: Final = 300.0
IDS_LIMIT: Final = 10_000
LOCATED_LIMIT: Final = 10_000
REFRESH_EVERY: Final = 20
"""Walks between two looks for modules that were imported late."""
_CLOCK_EVERY: Final = 8
"""Objects between two looks at the clock."""


class SharedState:
    """Walks what all requests reach, while requests of several principals come and go."""

    def __init__(self, kit: Kit) -> None:
        self._reporter = kit.reporter
        self._exposure = kit.exposure
        self._housekeeper = kit.housekeeper
        self._switch = kit.switches[names.SHARED_STATE]
        territory = Territory()
        self._walk = Walk(territory)
        self._roots = Roots(territory, self._walk.layouts, self._walk.additions)
        self.knowledge = Knowledge()
        self.residue = Residue(self.knowledge, self._walk.layouts)
        self._walk.met_again = self.residue.met_again
        self._named_by = Named(self.residue, self._walk.layouts)
        self._busy = threading.Lock()
        """Held for one slice: walks and requests' ends never judge at the same time; who comes second does without."""
        self._fields: list[Field] = []
        self.overwrites = Overwrites(kit.reporter, self._roots.modules_for)
        self._readers = Confirmation(territory, kit.housekeeper.after)
        self._turn = 0
        self._changes = Changes(self.residue)
        self._ended = 0
        self._ended_at: dict[str, int] = {}
        """By principal: how many requests had ended in this process when its last one did."""
        self._served: set[int] = set()
        self._first_looks = FIRST_LOOKS
        self._early_looks = EARLY_LOOKS
        self._looked_at = 0
        """How many requests had ended when the last walk began."""
        self._was_calm = False
        """Nothing was running when the last walk began."""
        self._nodes: Iterator[Node] | None = None
        self.pace = WalkPace(kit.housekeeper.after, self._slice)
        self.on_walked: list[Callable[[float], None]] = []
        """Called after each walk that went to its end, with its begin (`time.monotonic()`)."""
        self._has_baseline = False
        """A whole walk was done before the first request: what was not there then is new."""
        self._found_some = self._changed_some = False
        self._walks = 0
        self._last_walk = 0.0
        self._located: dict[str, Violation] = {}
        self._whereabouts: dict[str, str] = {}
        self._searches: list[Iterator[None]] = []
        """Applications that are still searched for their functions and objects."""
        kit.housekeeper.every_second(self._tick)
        if hasattr(os, "register_at_fork"):
            reset = weakref.WeakMethod(self._forked)
            os.register_at_fork(after_in_child=lambda: call() if (call := reset()) is not None else None)

    # --- entry points -------------------------------------------------------------------------------------------------

    @property
    def owners(self) -> Owners | None:
        """Whose a token is; without it, ids of principals and values that come back are all there is to go by."""
        return self.knowledge.owners

    @owners.setter
    def owners(self, owners: Owners) -> None:
        self.knowledge.owners = owners

    def watch(self, app: object) -> None:
        """Begin with an application object: its state, its middleware and its handlers are roots."""
        if self._switch.is_on:
            state = self._walk.layouts.of(app).dictionary(app)
            if state is not None and "state" in state:
                bag = self._walk.layouts.of(state["state"]).dictionary(state["state"]) or {}
                self._roots.add("app.state", bag.get("_state", state["state"]))
            for _ in self._roots.search(app, SERVED_LOOKS):
                pass
            # Again at the first walk and to the end: by then its routes and its middleware stand.
            self._searches += [self._roots.borrow(), self._roots.fall_back(), self._roots.search(app)]

    def at_end(self, request: RequestContext) -> None:
        """A request is over, its principal no longer live through it and `request.served` set: called for every one."""
        principal = request.principal
        if principal is None or not self._switch.is_on:
            return
        try:
            self._ended = ended = self._ended + 1
            known = self._ended_at.get(principal.id)
            self._ended_at[principal.id] = ended
            served = request.served
            if known is None or (served is not None and id(served.endpoint) not in self._served):
                self._first(request, principal, is_new=known is None)
            elif self._early_looks > 0 and len(self._ended_at) > 1:
                self._early_looks -= 1
                self._first_looks += 1
                self._first(request, principal, is_new=False)
            elif self._fields:
                self._read_fields(request, principal)
            if not self.pace.is_due and len(self._ended_at) > 1:
                self.pace.schedule()
        except Exception as error:
            self._reporter.check_failed(names.SHARED_STATE, "detector", error)

    def baseline(self, budget_s: float) -> None:
        """Walk before the first request, at most so long: what is there now was left by nobody, and what changes is worth a watch."""
        if not self._switch.is_on or not self._busy.acquire(blocking=False):
            return
        try:
            until = time.perf_counter() + budget_s
            self._search_on(until)
            for node in self._walk.nodes(self._roots, WHOLE_LIMIT):
                self.residue.note_baseline(node)
                self._note_changes(node, 0.0)
                if time.perf_counter() > until:
                    return
            self._has_baseline = not self._walk.was_cut
        except Exception as error:
            self._reporter.check_failed(names.SHARED_STATE, "detector", error)
        finally:
            self._busy.release()

    def look_now(self, until: float = float("inf")) -> None:
        """Walk everything at once, or until then (`time.perf_counter()`), on the calling thread: for the end of a process and for tests."""
        with self._busy:
            self._search_on(until)
            self._begin(is_last=True)
            self._go_on(until)
            self._readers.answer_now()
        for listener in self.on_walked:
            listener(self._last_walk)

    def look_again(self) -> bool:
        """Walk soon; return whether there will be a walk."""
        if self._switch.is_on:
            self.pace.hurry()
        return self._switch.is_on

    def location_of(self, token: str) -> Violation | None:
        """Return the violation of the reported place that holds a token, so that a crossing can raise its grade."""
        return self._located.get(token)

    def whereabouts(self, token: str) -> str | None:
        """Return the place that holds a token or an id and does not say whose it is: where a crossing may come from.

        Also a place that only one principal has left something at so far, like an object that was made for the first user.
        """
        return self._whereabouts.get(token)

    def plant(self, lab: Lab) -> None:
        """Let each of the lab's principals leave a value of its own in a list that both reach."""
        tokens = {f"planted-{lab.name}-a1": lab.victim, f"planted-{lab.name}-b2": lab.offender}
        knowledge = Knowledge()
        knowledge.owners = PlantedOwners(tokens)
        residue = Residue(knowledge, self._walk.layouts)
        shared: dict[str, list[str]] = {"history": []}
        root = Root("isolation_monitor:planted", shared)
        for token, request in zip(tokens, (lab.request(), lab.request(of_offender=True)), strict=True):
            shared["history"].append(token)
            for node in self._walk.nodes([root]):
                for finding in residue.look(node, time.monotonic()):
                    self._hold(residue, finding, request, proves=True)

    # --- at the end of a request --------------------------------------------------------------------------------------

    def _first(self, request: RequestContext, principal: Principal, *, is_new: bool) -> None:
        """The first request of a principal, or of an endpoint: learn whom and what to look for, and look right away."""
        if is_new:
            if len(self._ended_at) > IDS_LIMIT:
                self._ended_at = {principal.id: self._ended}
                self.knowledge.ids = {}
            if not principal.is_credential and not principal.is_synthetic:
                self.knowledge.ids[principal.id] = principal
        if not self._busy.acquire(blocking=False):
            return
        try:
            served = request.served
            if served is not None and id(served.endpoint) not in self._served:
                if len(self._served) > IDS_LIMIT:
                    self._served.clear()
                self._served.add(id(served.endpoint))
                self._roots.serve(served.endpoint, served.route)
            self._read_fields_locked(request, principal)
            if self._first_looks > 0 and self._nodes is None:
                self._first_looks -= 1
                until = time.perf_counter() + FIRST_LOOK_S
                self._begin(is_glimpse=True)
                self._go_on(until, request)
                self._nodes = None
        finally:
            self._busy.release()

    def _search_on(self, until: float) -> bool:
        """Search on until a moment of `perf_counter`; return whether the searches are at their end."""
        while self._searches:
            for _ in self._searches[-1]:
                if time.perf_counter() > until:
                    return False
            self._searches.pop()
        return True

    def _read_fields(self, request: RequestContext, principal: Principal) -> None:
        if self._busy.acquire(blocking=False):
            try:
                self._read_fields_locked(request, principal)
            finally:
                self._busy.release()

    def _read_fields_locked(self, request: RequestContext, principal: Principal) -> None:
        fields = self._fields
        for _ in range(min(READS_PER_END, len(fields))):
            self._turn = turn = (self._turn + 1) % len(fields)
            field = fields[turn]
            text = field.read()
            if text is not None:
                field.holds(self.knowledge.evidence(text, field.name, True), self.residue.was_said)
            left = [evidence for evidence in field.found if evidence.owner is principal]
            if (text is None and not left) or not _is_quiet(principal, request) or self.residue.is_addressed(field.place.keys, principal):
                continue
            for evidence in left:
                # Seen just now, or at the end of another's request while its owner's still ran.
                field.found.remove(evidence)
                holding = self.residue.hold(field.place, evidence)
                if holding is not None:
                    holding.settled = True
                    self._judge(self.residue, field.place, True, request)
            if text is None:
                continue
            field.wrote(principal, text)
            own = field.determined_by()
            if own:
                self._report(field.place, own, (own[0], own[1]), request, "each its own value again and again")

    # --- the walk -----------------------------------------------------------------------------------------------------

    def _forked(self) -> None:
        """In a new worker: the lock may have been held, and the appointment is the parent's."""
        self._busy = threading.Lock()
        self._nodes, self.pace.is_due = None, False

    def _tick(self, now: float) -> None:
        """Once a second: forget an appointment that was lost, and the fields of a service that nobody calls."""
        if self.pace.is_lost(now):
            self._nodes, self.pace.is_due = None, False
        if self._fields and (not self._switch.is_on or (now - self._last_walk > IDLE_S and self._looked_at == self._ended)):
            # Their holders are held: not while nobody comes, nor while the monitor is off.
            with self._busy:
                self._fields.clear()
                self.overwrites.clear()

    def _slice(self) -> None:
        """One slice of a walk, on the housekeeper's thread."""
        try:
            if not self._switch.is_on:
                self._nodes, self.pace.is_due = None, False
                return
            with self._busy:
                if self._nodes is None:
                    if not self._switch.sampled():
                        self._reporter.skipped(names.SHARED_STATE)
                        self.pace.is_due = False
                        return
                    self._begin()
                until = time.perf_counter() + SLICE_S
                done = self._search_on(until) and self._go_on(until)
            if not done:
                self.pace.go_on_later()
                return
            self.pace.is_due = False
            for listener in self.on_walked:
                listener(self._last_walk)
            if self._ended != self._looked_at and not self.pace.is_due:
                self.pace.schedule()
        except Exception as error:
            self._nodes, self.pace.is_due = None, False
            self._reporter.check_failed(names.SHARED_STATE, "detector", error)

    def _begin(self, *, is_glimpse: bool = False, is_last: bool = False) -> None:
        self._walks += 1
        if self._walks % REFRESH_EVERY == 0:
            self._roots.refresh()
            self._searches += [self._roots.borrow(), self._roots.fall_back()]
        self._looked_at = self._ended
        self._was_calm = not self._exposure.principals
        self._last_walk = time.monotonic()
        self._found_some = self._changed_some = False
        self.residue.begin(keeps_keys=self.pace.is_large)
        limit = self.pace.begin(self._last_walk, is_glimpse=is_glimpse, is_last=is_last)
        self._nodes = self._walk.nodes(self._roots.nearest() if is_glimpse else self._roots, limit)

    def _go_on(self, until: float, request: RequestContext | None = None) -> bool:
        """Walk on until a moment of `perf_counter`; return whether the walk is at its end.

        With `request`, on the thread of the event loop right after that request: nothing moves while this runs.
        """
        nodes = self._nodes
        if nodes is None:
            return True
        begun = time.thread_time()
        now = time.monotonic()
        done = True
        for count, node in enumerate(nodes):
            for finding in self.residue.look(node, now):
                self._found_some = True
                self._hold(self.residue, finding, request, proves=request is not None or self._is_calm)
            self._note_changes(node, now, request)
            if count % _CLOCK_EVERY == _CLOCK_EVERY - 1 and time.perf_counter() > until:
                done = False
                break
        self.pace.spent(time.thread_time() - begun)
        if done:
            self._nodes = None
            if not self._found_some:
                self._reporter.checked(names.SHARED_STATE)
            self.pace.ended(was_cut=self._walk.was_cut, is_eventful=self._changed_some or self._found_some)
        return done

    @property
    def _is_calm(self) -> bool:
        """Whether no request ran since the walk began: then whatever it found was left behind."""
        return self._was_calm and not self._exposure.principals and self._ended == self._looked_at

    def _hold(self, residue: Residue, finding: Finding, request: RequestContext | None, *, proves: bool) -> None:
        """Remember what a principal has at a place, and judge the place once that has outlived the principal's request.

        `proves` tells that no request can run while this does, so that what is there now was left there.
        """
        place, evidence, leaf = finding.place, finding.evidence, finding.child.value
        holding = residue.hold(place, evidence, finding.node)
        if holding is None:
            return
        holding.walk, holding.was_said = self._walks, evidence.proof == "token" and residue.was_said(evidence.token)
        if len(self._whereabouts) < LOCATED_LIMIT or evidence.token in self._whereabouts:
            self._whereabouts[evidence.token] = place.label
        if place.violation is not None and len(self._located) < LOCATED_LIMIT:
            self._located.setdefault(evidence.token, place.violation)
        if finding.is_slot:
            self._watch_field(place, finding.node, finding.child)
            if holding.was_said:
                # One field that keeps what the latest user said may be a statistic that nobody reads. It is reported when it
                # does harm: `overwrites.py`, contents that cross.
                return
        if not holding.settled:
            quiet = _is_quiet(holding.principal, request)
            holding.settled = quiet if proves else self._has_settled(holding, finding, leaf, quiet)
        if holding.settled:
            self._judge(residue, place, finding.is_slot, request)

    def _has_settled(self, holding: Holding, finding: Finding, leaf: object, is_quiet: bool) -> bool:
        """Whether a value outlived the request of its owner, seen from another thread while requests come and go."""
        if finding.is_slot:
            # Read once more after the owner was seen to have nothing running: else it may have been taken away since.
            return is_quiet and read_again(finding.node, finding.child) is leaf
        first = holding.leaves.get(id(leaf))
        if first is None or self._looked_at <= first:
            if len(holding.leaves) >= LEAVES_LIMIT:
                holding.leaves.clear()
            holding.leaves[id(leaf)] = self._looked_at
            return False
        return is_quiet or self._ended_at.get(holding.principal.id, 0) > first

    def _note_changes(self, node: Node, now: float, request: RequestContext | None = None) -> None:
        """Find the fields that hold something else than at the last walk: those are read at requests' ends and steps."""
        for place, child in self._changes.objects(node, now, has_baseline=self._has_baseline):
            self.overwrites.watch(place, node, child)
            owner = self.knowledge.ids.get(self._named_by(child.value) or "")
            if owner is not None and self._walks and not self.residue.is_addressed(place.keys, owner):
                finding = Finding(place, Evidence(owner, owner.id, "id"), node, child, is_slot=True)
                self._hold(self.residue, finding, request, proves=request is not None or self._is_calm)
        for place, child in self._changes.texts(node, now, has_baseline=self._has_baseline):
            self._changed_some = True
            self._watch_field(place, node, child)

    def _watch_field(self, place: Place, node: Node, child: Child) -> None:
        place.read_as = self._readers.name_of(node, child)
        self.overwrites.watch(place, node, child)
        fields = self._fields
        for field in fields:
            if field.place is place:
                if not field.spot.is_for(node, child):
                    field.follow(node, child)
                return
        if len(fields) >= FIELDS_LIMIT:
            fields.pop(0)
        fields.append(Field(place, node, child, self._named_by))

    # --- verdict ------------------------------------------------------------------------------------------------------

    def _judge(self, residue: Residue, place: Place, is_slot: bool, request: RequestContext | None) -> None:
        pair = residue.mixed(place, is_slot)
        # What two users said, one after the other, in a place that keeps the latest only: a statistic, as above.
        if pair is not None and not (pair[0].was_said and pair[1].was_said and pair[0].walk != pair[1].walk):
            held = [holding.principal for holding in place.holdings.values() if holding.settled]
            self._report(place, held, (pair[0].principal, pair[1].principal), request, "left there by their requests")

    def _report(
        self, place: Place, held: list[Principal], pair: tuple[Principal, Principal], request: RequestContext | None, how: str
    ) -> None:
        """Report a place once, and again after a while when it goes on; a field only if any code reads it."""
        now = time.monotonic()
        if place.reported_at and now - place.reported_at < REPEAT_S:
            place.again += 1
            return
        place.reported_at, tell = now, partial(self._tell, place, held, pair, request, how)
        if place.read_as is None:
            tell()
        else:
            self._readers.ask(place.read_as, tell)

    def _tell(
        self, place: Place, held: list[Principal], pair: tuple[Principal, Principal], request: RequestContext | None, how: str
    ) -> None:
        """Report a place. No request counts as violated: a place was found, no crossing."""
        victim, offender = pair
        seen_in = request if request is not None and request.principal is offender else None
        violation = place.violation = Violation(
            kind=names.SHARED_STATE,
            grade="reachable",
            summary=f"{place.label}, which all requests reach, has held what belongs to {len(held)} principals ({how}), "
            "under nothing that names them",
            resource=Resource("location", place.label, {"principals": len(held), **described(place, self._roots.modules_for)}),
            victim=side_of(None, principal=victim),
            offender=side_of(seen_in, principal=offender),
            arm=seen_in.arm if seen_in is not None else "none",
            synthetic=victim.is_synthetic and offender.is_synthetic,
        )
        place.again = 0
        for holding in list(place.holdings.values()):
            if len(self._located) < LOCATED_LIMIT and not violation.synthetic:
                self._located[holding.token] = violation
        self._reporter.report(violation)


def _is_quiet(principal: Principal, request: RequestContext | None) -> bool:
    """Whether a principal has nothing running; its open connection, where one message has just ended, does not count."""
    own = request is not None and request.principal is principal and request.connection is not None
    return principal.live <= (1 if own else 0)
