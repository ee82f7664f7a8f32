"""Id resolution: a run's id led to two threads or owners, to another user's thread that was served, or to none.

Sees: every resolution and registration of a run's id (`monitor.resolution(...)`, docs/ids.md): what the registry, the orchestrator, the
connections and the id itself say of it, as far as they were asked; and whose the thread is beside who asks.
Cannot see: ids that the application resolves without the library; two sources that are wrong in the same way; a foreign thread
whose owner nobody knows. Cost: nothing beyond the resolution's own. Precision: 1 for what the sources say; which one is wrong it
cannot tell.
Grades: `reachable` when sources disagree, `crossed` when another user's thread was served, `hygiene` when nobody knew the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal
    from isolation_monitor.telemetry.stacks import RawStack


@dataclass(frozen=True, slots=True)
class Claim:
    """What one source says of a run: its thread, and the owner's id where it knows him."""

    source: str
    thread_id: str
    owner: str | None = None

    def agrees(self, other: Claim) -> bool:
        """Return whether two claims name the same thread and, as far as both know, the same owner."""
        return self.thread_id == other.thread_id and (self.owner is None or other.owner is None or self.owner == other.owner)


class IdResolution:
    """Reports what is wrong with resolutions. Ids leave the process as keyed hashes only."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._reporter = kit.reporter

    def agreed(self) -> None:
        """Count a resolution with which nothing is wrong."""
        self._reporter.checked(names.ID_RESOLUTION)

    def disagreed(self, run_id: str, claims: Sequence[Claim], request: RequestContext | None) -> None:
        """Report that sources say different things of one run; `claims` in the order of the sources."""
        try:
            self._disagreed(run_id, claims, request)
        except Exception as error:
            self._reporter.check_failed(names.ID_RESOLUTION, "resolution", error)

    def served(self, run_id: str, claim: Claim, request: RequestContext | None, stack: RawStack) -> None:
        """Report that somebody was served from a thread that `claim` says is another's."""
        try:
            detail = {"run": self._hash(run_id), "claims": [self._told(claim)]}
            summary = "a run of another user was resolved and its thread was served"
            self._report("crossed", summary, detail, self._principal(claim.owner), request, stack)
        except Exception as error:
            self._reporter.check_failed(names.ID_RESOLUTION, "resolution", error)

    def failed(self, run_id: str, said: Mapping[str, str], request: RequestContext | None, *, defaulted: bool) -> None:
        """Report that no source knew a run; `said` maps each source to its answer. The victim is who asked."""
        try:
            stack = stacks.capture(2)
            self._reporter.report(
                Violation(
                    kind=names.ID_RESOLUTION,
                    grade="hygiene",
                    summary="a run's id could not be resolved to its thread" + (", and a default was taken for it" if defaulted else ""),
                    resource=Resource("run_id", "an id that no source knows", {"run": self._hash(run_id), "said": dict(said)}),
                    victim=side_of(request, stack),
                    offender=None,
                    arm=request.arm if request is not None else "none",
                ),
                request,
            )
        except Exception as error:
            self._reporter.check_failed(names.ID_RESOLUTION, "resolution", error)

    def plant(self, lab: Lab) -> None:
        """Let two sources name different owners for a run that nobody has."""
        thread = f"planted-{lab.name}"
        claims = [Claim("registry", thread, lab.victim.id), Claim("orchestrator", thread, lab.offender.id)]
        self.disagreed(f"planted-{lab.name}", claims, lab.request(of_offender=True))

    def _disagreed(self, run_id: str, claims: Sequence[Claim], request: RequestContext | None) -> None:
        asker = request.principal if request is not None else None
        victim = self._principal(next((c.owner for c in claims if c.owner is not None and (asker is None or c.owner != asker.id)), None))
        sources = " and ".join(dict.fromkeys(claim.source for claim in claims))
        what = "threads" if len({claim.thread_id for claim in claims}) > 1 else "owners"
        self._report(
            "reachable",
            f"a run's id leads to different {what}: {sources} disagree",
            {"run": self._hash(run_id), "claims": [self._told(claim) for claim in claims]},
            victim,
            request,
        )

    def _report(
        self,
        grade: str,
        summary: str,
        detail: dict[str, Any],
        victim: Principal | None,
        request: RequestContext | None,
        stack: RawStack = (),
    ) -> None:
        self._reporter.report(
            Violation(
                kind=names.ID_RESOLUTION,
                grade=grade,
                summary=summary,
                resource=Resource("run_id", "a run's id", detail),
                victim=side_of(None, principal=victim) if victim is not None else None,
                offender=side_of(request, stack or stacks.capture(4)),
                arm=request.arm if request is not None else "none",
            ),
            request,
        )

    def _told(self, claim: Claim) -> dict[str, str | None]:
        owner = self._principal(claim.owner)
        return {"source": claim.source, "thread": self._hash(claim.thread_id), "owner": owner.hash if owner is not None else None}

    def _principal(self, owner: str | None) -> Principal | None:
        return None if owner is None else self._kit.principals.named(owner)

    def _hash(self, text: str) -> str:
        return self._kit.principals.hash(text)
