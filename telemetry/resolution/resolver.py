"""Resolution: which thread a run belongs to, by five sources in order: registry, orchestrator, connections, pattern, else an error.

The course of a resolution is written once, as a generator that says whom to ask next; `resolve` drives it on the event loop and
`resolve_now` on a thread. What is at hand for nothing (the id's own text, the monitor's own connections) is compared with whoever
answered, and one in `verify_every` runs that the registry knows is held against the other sources, after its answer was given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.id_resolution import Claim, IdResolution
from isolation_monitor.telemetry.errors import ConflictingIdError, InvalidIdError, UnresolvedIdError
from isolation_monitor.telemetry.resolution.ownership import ErrorCounter, Ownership, Resolved
from isolation_monitor.telemetry.resolution.patterns import Patterns
from isolation_monitor.telemetry.resolution.registry import Entry, Registry
from isolation_monitor.telemetry.resolution.run_ids import RunIds
from isolation_monitor.telemetry.resolution.sources import FAILED, HIT, MISS, SKIPPED, TIMEOUT, Answer, Source, is_id, read_entry

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.resolution.outcomes import AffectedUsers, Counts

REGISTRY, ORCHESTRATOR, CONNECTION, PATTERN = names.ID_SOURCES
ERROR: Final = "error"
Step = tuple[Source, tuple[Any, ...]]
Course = Generator[Step, Answer, Any]
"""Says whom to ask with what, is sent the answer, and returns the result of the whole."""


@dataclass(slots=True)
class Parts:
    """What a resolver is made of; `monitor.resolution(...)` puts them together."""

    registry: Registry
    read_registry: Source
    write_registry: Source
    orchestrator: Source | None
    connections: Source | None
    own_connections: Callable[[str], tuple[str, str | None] | None]
    owner_of: Source | None
    patterns: Patterns
    ownership: Ownership
    detector: IdResolution
    counts: Counts
    affected: AffectedUsers
    on_error: ErrorCounter
    verify_every: int


class Resolver:
    """Makes, registers and resolves the ids of runs. Safe under threads; `*_now` are the same for code without an event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ids = RunIds()
        self._hits = 0
        self._verifying: asyncio.Task[None] | None = None
        self._resolved_by_registry = parts.counts.resolved[REGISTRY]
        self._registry_durations = parts.counts.durations[REGISTRY]

    # --- making and registering ---------------------------------------------------------------------------------------

    async def create(self, thread_id: str, *, owner: str | None = None) -> str:
        """Return the id of a new run of a thread, registered; `owner` is the user's id, by default the request's principal.

        A registry that cannot be reached does not fail the run: the id carries its thread.

        Raises:
            InvalidIdError: the thread's id cannot be carried in a run's (`run_ids.RunIds.new`), or the owner is no id.
        """
        run_id = self._ids.new(thread_id)
        await self.register(run_id, thread_id, owner=owner)
        return run_id

    def create_now(self, thread_id: str, *, owner: str | None = None) -> str:
        """As `create`, from a thread."""
        run_id = self._ids.new(thread_id)
        self.register_now(run_id, thread_id, owner=owner)
        return run_id

    async def register(self, run_id: str, thread_id: str, *, owner: str | None = None) -> None:
        """Say which thread a run of another id belongs to, and whose it is. The first word holds for ever.

        Raises:
            InvalidIdError: one of the three is no id.
            ConflictingIdError: the run is registered already, with another thread or owner.
        """
        await self._drive(self._registering(run_id, thread_id, owner, CURRENT.get()))

    def register_now(self, run_id: str, thread_id: str, *, owner: str | None = None) -> None:
        """As `register`, from a thread."""
        self._drive_now(self._registering(run_id, thread_id, owner, CURRENT.get()))

    # --- resolving ----------------------------------------------------------------------------------------------------

    async def resolve(
        self,
        run_id: str,
        *,
        thread_id: str | None = None,
        default: str | None = None,
        asker: str | None = None,
        foreign: Literal["deny", "report"] = "deny",
    ) -> Resolved:
        """Return the thread of a run.

        Args:
            run_id: what a client, an event or a job named; nothing of it is trusted.
            thread_id: the thread that the caller takes the run to belong to, where it has an idea.
            default: thread to answer with when nobody knows the run. It is counted, recorded and logged as the failure that it is.
            asker: id of the user who asks; by default the request's principal.
            foreign: what to do when the thread belongs to another user than the asker: `deny` raises; `report` returns it, and it
                is judged by whether the request is then refused (`Resolved.refuse`, or an HTTP status of 400 or above) or served.

        Raises:
            InvalidIdError: `run_id` can be no id.
            UnresolvedIdError: no source knows the run, and there is no default.
            ConflictingIdError: two sources disagree.
            RunThreadMismatchError: the run does not belong to `thread_id`.
            ForeignIdError: the thread is another user's.
        """
        start = time.perf_counter()
        request = CURRENT.get()
        entry = self._parts.registry.peek(run_id) if type(run_id) is str else None
        if entry is not None and entry.is_compared and (entry.owner is not None or self._parts.owner_of is None):
            self._hits += 1
            if self._parts.verify_every and self._hits % self._parts.verify_every == 0:
                self._verify(entry, request)
            return self._remembered(entry, thread_id, asker, foreign, request, start)
        return await self._drive(self._resolving(run_id, thread_id, default, asker, foreign, request, start))  # type: ignore[no-any-return]

    def resolve_now(
        self,
        run_id: str,
        *,
        thread_id: str | None = None,
        default: str | None = None,
        asker: str | None = None,
        foreign: Literal["deny", "report"] = "deny",
    ) -> Resolved:
        """As `resolve`, from a thread. On a thread that runs an event loop only what needs no waiting is asked."""
        start = time.perf_counter()
        request = CURRENT.get()
        return self._drive_now(self._resolving(run_id, thread_id, default, asker, foreign, request, start))  # type: ignore[no-any-return]

    def tick(self) -> None:
        """Show which circuits are open; each second."""
        parts = self._parts
        open_: dict[str, bool] = dict.fromkeys(names.ID_ASKED, False)
        for source in (parts.read_registry, parts.write_registry, parts.orchestrator, parts.connections, parts.owner_of):
            if source is not None and source.circuit.is_open:
                open_[source.name] = True
        for name, is_open in open_.items():
            parts.counts.circuits[name].set(float(is_open))

    # --- the two drivers ----------------------------------------------------------------------------------------------

    async def _drive(self, course: Course) -> Any:
        try:
            source, arguments = next(course)
            while True:
                source, arguments = course.send(await source.ask(*arguments))
        except StopIteration as stop:
            return stop.value
        finally:
            course.close()

    def _drive_now(self, course: Course) -> Any:
        try:
            source, arguments = next(course)
            while True:
                source, arguments = course.send(source.ask_now(*arguments))
        except StopIteration as stop:
            return stop.value
        finally:
            course.close()

    # --- the course of a resolution -----------------------------------------------------------------------------------

    def _resolving(
        self,
        run_id: str,
        thread_id: str | None,
        default: str | None,
        asker: str | None,
        foreign: Literal["deny", "report"],
        request: RequestContext | None,
        start: float,
    ) -> Course:
        self._check(run_id=run_id, thread_id=thread_id, default=default, asker=asker)
        answers: list[Answer] = []
        claim = yield from self._ask_all(run_id, answers, request, start)
        if claim is None:
            return self._fail(run_id, answers, default, request, start)
        owner = claim.owner
        if owner is None and self._parts.owner_of is not None:
            answer: Answer = yield self._parts.owner_of, (claim.thread_id,)
            answers.append(answer)
            if claim.source == PATTERN and answer.result == MISS:
                # The application knows of no such thread: the text of an id alone is no proof that there is one.
                return self._fail(run_id, answers, default, request, start)
            owner = answer.value if answer.result == HIT else None
        if claim.source != REGISTRY:
            registry_answer = next(one for one in answers if one.source == REGISTRY)
            yield from self._backfill(Entry(run_id, claim.thread_id, owner, claim.source, self._expiry()), registry_answer, request, start)
        elif owner is not None:
            entry = self._parts.registry.peek(run_id)
            if entry is not None and entry.owner is None:
                entry.owner = owner
        resolved = Resolved(run_id, claim.thread_id, owner, claim.source)
        self._count(claim.source, start)
        return self._parts.ownership.judge(resolved, thread_id, asker, foreign, request)

    def _ask_all(
        self, run_id: str, answers: list[Answer], request: RequestContext | None, start: float
    ) -> Generator[Step, Answer, Claim | None]:
        """Ask in order until one knows; return what holds, after it was compared with what is at hand."""
        parts = self._parts
        entry = parts.registry.peek(run_id)
        if entry is not None:
            answer = Answer(REGISTRY, HIT, entry)
            parts.counts.answered(answer)
        elif parts.registry.is_local:
            answer = Answer(REGISTRY, MISS)
            parts.counts.answered(answer)
        else:
            answer = yield parts.read_registry, (run_id,)
        answers.append(answer)
        claims: list[Claim] = []
        if answer.result == HIT:
            entry = answer.value
            claims.append(Claim(REGISTRY, entry.thread_id, entry.owner))
        for source in (parts.orchestrator, parts.connections):
            if source is not None and (not claims or (entry is not None and entry.is_disputed)):
                answer = yield source, (run_id,)
                answers.append(answer)
                if answer.result == HIT:
                    claims.append(Claim(source.name, *answer.value))
        self._add_at_hand(run_id, answers, claims)
        if any(not claim.agrees(claims[0]) for claim in claims):
            self._conflict(run_id, claims, request, start)
        if not claims:
            return None
        if entry is not None:
            entry.is_compared, entry.is_disputed = True, False
        self._parts.detector.agreed()
        owner = next((claim.owner for claim in claims if claim.owner is not None), None)
        return Claim(claims[0].source, claims[0].thread_id, owner)

    def _add_at_hand(self, run_id: str, answers: list[Answer], claims: list[Claim]) -> None:
        """Add what the monitor's own connections and the id's text say: both cost nothing, so they are always compared."""
        parts = self._parts
        if parts.connections is None:
            found = parts.own_connections(run_id)
            answer = Answer(CONNECTION, MISS if found is None else HIT, found)
            if not claims:
                parts.counts.answered(answer)
                answers.append(answer)
            if found is not None:
                claims.append(Claim(CONNECTION, *found))
        reading = parts.patterns.read(run_id)
        parts.counts.patterns[reading.algorithm].inc()
        if not claims:
            answer = Answer(PATTERN, MISS if reading.thread_id is None else HIT, reading.thread_id, reading.algorithm)
            parts.counts.answered(answer)
            answers.append(answer)
        if reading.thread_id is not None:
            claims.append(Claim(PATTERN, reading.thread_id))

    def _backfill(self, entry: Entry, said: Answer, request: RequestContext | None, start: float) -> Generator[Step, Answer, None]:
        """Tell the registry what a later source knew; it may know better by now."""
        if said.result in (TIMEOUT, FAILED, SKIPPED):
            # It did not answer just now: whoever waits for this run has waited for it once already.
            self._parts.counts.registrations[entry.source, "failed"].inc()
            return
        held = yield from self._put(entry)
        if held is not None and not held.says_the_same(entry):
            claims = [Claim(REGISTRY, held.thread_id, held.owner), Claim(entry.source, entry.thread_id, entry.owner)]
            self._conflict(entry.run_id, claims, request, start)

    def _put(self, entry: Entry) -> Generator[Step, Answer, Entry | None]:
        """Put an entry into the registry and count what became of it; return the one that holds, None when nobody can tell."""
        parts = self._parts
        if parts.registry.is_local:
            held = read_entry(parts.registry.put(entry))
        else:
            answer = yield parts.write_registry, (entry,)
            held = answer.value if answer.result == HIT else None
        if held is None:
            result = "failed"
        elif not held.says_the_same(entry):
            result = "conflict"
        else:
            result = "stored" if held is entry or held.expires_at == entry.expires_at else "known"
            # What was put in had been compared already.
            held.is_compared = True
        parts.counts.registrations[entry.source, result].inc()
        return held

    def _registering(self, run_id: str, thread_id: str, owner: str | None, request: RequestContext | None) -> Course:
        self._check(run_id=run_id, thread_id=thread_id, owner=owner)
        if owner is None and request is not None and request.principal is not None and not request.principal.is_credential:
            owner = request.principal.id
        claim = Claim(REGISTRY, thread_id, owner)
        reading = self._parts.patterns.read(run_id)
        if reading.thread_id is not None and reading.thread_id != thread_id:
            self._refuse_conflict(run_id, [claim, Claim(PATTERN, reading.thread_id)], request)
        entry = Entry(run_id, thread_id, owner, "created", self._expiry())
        held = yield from self._put(entry)
        if held is not None and not held.says_the_same(entry):
            self._refuse_conflict(run_id, [Claim(REGISTRY, held.thread_id, held.owner), Claim("created", thread_id, owner)], request)
        self._parts.counts.outcomes["created"].inc()
        self._parts.detector.agreed()

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def _remembered(
        self,
        entry: Entry,
        thread_id: str | None,
        asker: str | None,
        foreign: Literal["deny", "report"],
        request: RequestContext | None,
        start: float,
    ) -> Resolved:
        """Answer from what this process remembers and has compared: the commonest case, written out."""
        if thread_id is not None or asker is not None:
            self._check(thread_id=thread_id, asker=asker)
        self._parts.counts.answered(_REMEMBERED)
        self._parts.detector.agreed()
        self._resolved_by_registry.inc()
        self._registry_durations.observe(time.perf_counter() - start)
        return self._parts.ownership.judge(
            Resolved(entry.run_id, entry.thread_id, entry.owner, REGISTRY), thread_id, asker, foreign, request
        )

    def _count(self, source: str, start: float) -> None:
        self._parts.counts.resolved[source].inc()
        self._parts.counts.durations[source].observe(time.perf_counter() - start)

    def _fail(self, run_id: str, answers: Sequence[Answer], default: str | None, request: RequestContext | None, start: float) -> Resolved:
        """Count, record and log that nobody knew the run; then raise, or answer with the default."""
        said = {answer.source: str(answer) for answer in answers}
        principal = request.principal if request is not None else None
        affected = self._parts.affected.add(principal.id if principal is not None else None)
        self._count(ERROR, start)
        self._parts.counts.outcomes["unknown" if default is None else "defaulted"].inc()
        self._parts.detector.failed(run_id, said, request, defaulted=default is not None)
        if default is not None:
            return Resolved(run_id, default, None, ERROR, "defaulted")
        told = "; ".join(f"{source}: {answer}" for source, answer in said.items())
        raise UnresolvedIdError(f"run {run_id!r} is known to nobody ({told}); {affected} users affected in this minute", said, affected)

    def _conflict(self, run_id: str, claims: Sequence[Claim], request: RequestContext | None, start: float) -> None:
        self._count(ERROR, start)
        self._refuse_conflict(run_id, claims, request)

    def _refuse_conflict(self, run_id: str, claims: Sequence[Claim], request: RequestContext | None) -> None:
        self._parts.counts.outcomes["conflict"].inc()
        self._parts.detector.disagreed(run_id, claims, request)
        sources = " and ".join(dict.fromkeys(claim.source for claim in claims))
        raise ConflictingIdError(f"run {run_id!r}: {sources} disagree on whose it is; the evidence has what each said")

    # --- verification -------------------------------------------------------------------------------------------------

    def _verify(self, entry: Entry, request: RequestContext | None) -> None:
        """Hold an entry against the sources that cost something, apart from the answer and one at a time."""
        if self._parts.orchestrator is None and self._parts.connections is None:
            return
        if self._verifying is not None and not self._verifying.done():
            return
        # In a context of its own: it is nobody's request, and may outlive the one that came upon it.
        self._verifying = asyncio.get_running_loop().create_task(self._compared(entry, request), context=Context())

    async def _compared(self, entry: Entry, request: RequestContext | None) -> None:
        try:
            await self._drive(self._comparing(entry, request))
        except Exception as error:
            self._parts.on_error("resolution", error)

    def _comparing(self, entry: Entry, request: RequestContext | None) -> Course:
        claims = [Claim(REGISTRY, entry.thread_id, entry.owner)]
        for source in (self._parts.orchestrator, self._parts.connections):
            if source is not None:
                answer = yield source, (entry.run_id,)
                if answer.result == HIT:
                    claims.append(Claim(source.name, *answer.value))
        if any(not claim.agrees(claims[0]) for claim in claims):
            self._parts.counts.outcomes["conflict"].inc()
            self._parts.detector.disagreed(entry.run_id, claims, request)
            # Whoever asks next compares for himself, and is refused as long as they disagree.
            entry.is_compared, entry.is_disputed = False, True

    # --- small things -------------------------------------------------------------------------------------------------

    def _expiry(self) -> float:
        return time.time() + self._parts.registry.ttl_s

    def _check(self, **ids: str | None) -> None:
        for name, value in ids.items():
            if value is None and name != "run_id":
                continue
            if not is_id(value):
                self._parts.counts.outcomes["invalid"].inc()
                raise InvalidIdError(f"{name} is no id: text of 1 to 200 printable characters was expected, not {_shown(value)}")


_REMEMBERED: Final = Answer(REGISTRY, HIT)


def _shown(value: object) -> str:
    return repr(value[:60]) if type(value) is str else type(value).__name__
