"""The scripted story of `make demo-once`: a clean minute, then six real defects, each proven, paged and gated.

The driver proves each harm from outside first, then reads everything else from where an operator would: metrics and the
score from Prometheus, evidence, notifications and gates from the collector. Second 0 of every delay is the first harmful
act, as the service itself logged it. Nothing sleeps for luck: each step polls what it waits for, with a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from isolation_monitor.alerts import slo
from isolation_monitor.demo import chat_api, measures
from isolation_monitor.demo.chat_api import Harm
from isolation_monitor.demo.collector_api import DEAD_MANS_SWITCH, Json, Notification, unix
from isolation_monitor.demo.errors import StepFailedError
from isolation_monitor.demo.expectations import EXPECTATIONS, Expectation
from isolation_monitor.demo.harm import HarmProof, prove
from isolation_monitor.demo.narrator import Narrator
from isolation_monitor.demo.report import PAGE_LIMIT_S, PAGE_MEDIAN_LIMIT_S, FaultTrial, Report
from isolation_monitor.demo.rollback import ALERT, bad_release
from isolation_monitor.demo.stack import SERVICE, Stack
from isolation_monitor.demo.users import Population
from isolation_monitor.telemetry import names

T = TypeVar("T")

USERS = 30
CLEAN_S = 60.0
POLL_S = 0.1
STEP_TIMEOUT_S = 30.0
"""For one step on a slow machine; each takes a second or two, and the limits on the delays are checked besides."""
QUIET_S = 2.0
"""So long no new violation, before the next fault's rollout starts: late finds belong to the fault before."""
RECOVERY_TIMEOUT_S = 120.0
"""The score looks back one minute."""
MIN_EXPOSED_REQUESTS = 20
MIN_OWED_EVENTS = 20
"""What a rollout of the story needs for a verdict; a real one asks for more."""

GRADE_ORDER = ("hygiene", "reachable", "crossed")


@dataclass(slots=True)
class Story:
    """One telling on a running stack with its traffic. The report fills while it goes."""

    stack: Stack
    users: Population
    narrator: Narrator
    report: Report
    clean_s: float = CLEAN_S
    expectations: tuple[Expectation, ...] = EXPECTATIONS
    ends_with_rollback: bool = True

    async def tell(self) -> None:
        """Run every step.

        Raises:
            StepFailedError: a step did not hold; the report has what was seen until then.
        """
        started = time.time()
        await self._clean_minute(started)
        score_healed_at: float | None = None
        for expectation in self.expectations:
            healed_at = await self._fault(expectation)
            if expectation.lowers_score:
                score_healed_at = healed_at
        page_median = self.report.page_median_s()
        if page_median is not None and page_median >= PAGE_MEDIAN_LIMIT_S:
            raise StepFailedError(f"the median of the pages took {page_median:.2f} s, less than {PAGE_MEDIAN_LIMIT_S:.0f} s are allowed")
        if score_healed_at is not None:
            # The score looks back one minute: a release that comes before would be taken back for harm that was not its own.
            await self._recovery(score_healed_at)
        if self.ends_with_rollback:
            await self._bad_release()

    async def _clean_minute(self, started: float) -> None:
        """All faults off: everything must be seen, judged and found in order."""
        metrics = self.stack.parts.prometheus
        self.narrator.doing("waiting for a score of 100 with every detector at work")
        await self._until("a score of 100, and checks by every detector", lambda: measures.all_seen(metrics))
        before = await measures.totals(metrics)
        begun = time.time()
        while (left := begun + self.clean_s - time.time()) > 0:
            self.narrator.doing("clean minute: no violation and no page may appear", f"({left:.0f} s left)")
            self._check()
            await asyncio.sleep(min(1.0, left))
        after = await measures.totals(metrics)
        clean = self.report.clean
        clean.requests, clean.exposed = after.requests - before.requests, after.exposed - before.exposed
        clean.evaluated = {name: after.evaluated.get(name, 0) - before.evaluated.get(name, 0) for name in after.evaluated}
        clean.coverage = measures.coverage(before, after)
        clean.score = await measures.lowest_score(metrics, self.clean_s)
        stored = await self.stack.parts.collector.violations(since=started - 60)
        # The larger of both ways: what was counted, and what was recorded.
        clean.violations = max(after.violations, len(stored))
        every = await self.stack.parts.collector.notifications(since=started - 600)
        speed = {objective.name for objective in slo.load().objectives if objective.indicator in slo.LATENCY_METRICS}
        # How quickly the machine answers is no part of the story; that requests and runs succeed is.
        notified = [n for n in every if n.alertname != DEAD_MANS_SWITCH and n.labels.get("slo") not in speed]
        clean.pages = len(notified)
        self._hold(clean.violations == 0, f"the clean minute saw {clean.violations} violations: {[v['summary'] for v in stored[:3]]}")
        self._hold(clean.pages == 0, f"the clean minute was notified of {', '.join(n.text for n in notified)}")
        self._hold(clean.score == 100.0, f"the score of the clean minute was {clean.score}, not 100")
        self._hold(clean.coverage == 1.0, f"coverage of the clean minute was {clean.coverage}, not 1.0: some requests were not judged")
        self._hold(clean.exposed > 0, "no request of the clean minute was exposed: nothing could have leaked, so the score says nothing")
        blind = [name for name in names.ALWAYS_AT_WORK if clean.evaluated.get(name, 0) == 0]
        self._hold(not blind, f"these detectors checked nothing in the clean minute: {', '.join(blind)}")
        checks, at_work = sum(clean.evaluated.values()), sum(count > 0 for count in clean.evaluated.values())
        self.narrator.done(
            f"clean minute: {clean.requests} requests, {clean.exposed} exposed, {checks} checks by {at_work} detectors, "
            f"score {clean.score:g}, no violation, no page"
        )

    async def _fault(self, expected: Expectation) -> float:
        """Inject one fault, see everything that must follow, heal; return when it was healed (Unix seconds)."""
        trial = FaultTrial(expected.fault, kind=expected.kind)
        self.report.faults.append(trial)
        rollout, trial.gate_before = await self._rollout_that_passes(expected)
        baseline = (await measures.violations_of(self.stack.parts.prometheus, expected.kind)) or 0.0
        known = {item["id"] for item in await self.stack.parts.collector.violations(kind=expected.kind)}

        self._doing(expected, "injected, proving the harm from outside")
        injected_at = time.time()
        await self.stack.parts.chat.inject(expected.fault)
        try:
            proof = await self._prove(expected, injected_at)
            trial.harm_proven = proof.proven
            await self._follow(expected, trial, rollout, injected_at, baseline, known)
        finally:
            await self.stack.parts.chat.heal()
        healed_at = time.time()
        # Whose a value is shows when its owner gets it once more: late finds come now rather than during the next fault.
        await self.users.reload()
        self._check_trial(expected, trial)
        self.narrator.done(
            f"{expected.fault}: {proof.what}; record after {trial.record_s:.2f} s, metric {trial.metric_s:.2f} s, "
            f"{trial.alert} {trial.page_s:.2f} s, gate {trial.gate_before} > {trial.gate_after}"
        )
        return healed_at

    async def _rollout_that_passes(self, expected: Expectation) -> tuple[str, str]:
        """Start a rollout and see its gate pass, so that "unchanged" afterwards means something; return its name and the verdict.

        A late find of the fault before fails the gate of a rollout that has just begun, rightly; then there is another one.
        """
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while True:
            self._doing(expected, "waiting for quiet")
            await self._until(f"quiet before {expected.fault}", lambda: self._quiet(expected))
            rollout = f"demo-{expected.fault}-{int(time.time() * 1000)}"
            await self.stack.parts.collector.start_rollout(
                rollout, SERVICE, min_exposed_requests=MIN_EXPOSED_REQUESTS, min_owed_events=MIN_OWED_EVENTS
            )
            self._doing(expected, "the gate before")
            try:
                verdict = await self._until(
                    f"the gate of {rollout} passing before the fault",
                    partial(self._gate, rollout, "pass"),
                    refuse=partial(self._gate_failing, rollout),
                )
            except StepFailedError as error:
                if time.monotonic() > deadline:
                    raise
                self.narrator.done(f"{expected.fault}: {error}; once more")
            else:
                return rollout, verdict

    async def _prove(self, expected: Expectation, since: float) -> HarmProof:
        """See the harm from outside, in what users receive, before anything of the monitor is looked at."""
        proof = await prove(expected.fault, self.users, self.stack.urls.chat, since=since, timeout_s=STEP_TIMEOUT_S)
        self._hold(proof.proven, f"{expected.fault}: {proof.what}")
        return proof

    async def _follow(
        self, expected: Expectation, trial: FaultTrial, rollout: str, injected_at: float, baseline: float, known: set[str]
    ) -> None:
        """Wait for harm, record, metric, page and gate, and note each delay."""
        harm = await self._until(f"{expected.fault} logging its first harm", lambda: self._harm(expected.fault, injected_at))
        self._doing(expected, "waiting for the record")
        found = await self._until(f"a record of {expected.kind}", lambda: self._record(expected, known, harm.time))
        trial.violation_id, trial.record_s = found["id"], measures.delay(unix(found["received_at"]), harm.time)
        self._doing(expected, "waiting for the metric")
        seen_at = await self._until(
            f"isolation_violations_total of {expected.kind} growing",
            lambda: measures.grew_at(self.stack.parts.prometheus, expected.kind, baseline, harm.time),
        )
        trial.metric_s = measures.delay(seen_at, harm.time)
        self._doing(expected, f"waiting for {expected.alert}")
        page = await self._until(f"the alert {expected.alert} arriving", lambda: self._page(expected, injected_at))
        trial.alert, trial.page_s = page.alertname, measures.delay(page.received_at, harm.time)
        self._doing(expected, "the gate after")
        if expected.rollback:
            trial.gate_after = await self._until(f"the gate of {rollout} failing", lambda: self._gate(rollout, "fail"))
        else:
            trial.gate_after = (await self.stack.parts.collector.gate(rollout))["verdict"]
        evidence = await self._until(f"evidence of grade {' or '.join(expected.grades)}", lambda: self._evidence(found["id"], expected))
        trial.grade = evidence["grade"]
        trial.victim, trial.offender = (_principal(evidence[side]) for side in ("victim", "offender"))
        trial.stacks = [line for side in ("victim", "offender") if (line := _example_line(evidence[side]))]

    def _check_trial(self, expected: Expectation, trial: FaultTrial) -> None:
        where = expected.fault
        self._hold(
            trial.page_s is not None and trial.page_s < PAGE_LIMIT_S,
            f"{where}: the page took {trial.page_s} s, {PAGE_LIMIT_S:.0f} s are allowed",
        )
        if not expected.rollback:
            self._hold(
                trial.gate_after == trial.gate_before,
                f"{where}: the gate went from {trial.gate_before} to {trial.gate_after}, though this is no rollback trigger",
            )
        sides = [side for side in (trial.victim, trial.offender) if side]
        self._hold(len(sides) >= expected.sides, f"{where}: the evidence {trial.violation_id} names {len(sides)} of {expected.sides} sides")
        self._hold(
            len(trial.stacks) >= expected.sides,
            f"{where}: the evidence {trial.violation_id} has {len(trial.stacks)} stacks of {expected.sides}",
        )
        if expected.sides == 2:
            self._hold(trial.victim != trial.offender, f"{where}: victim and offender of {trial.violation_id} are the same principal")

    async def _recovery(self, healed_at: float) -> None:
        """Measure how long the score took from the heal of the last fault that lowers it, back to 100."""
        self.narrator.doing("waiting for the score to be 100 again")
        back_at = await self._until(
            "the score back at 100", lambda: measures.score_back_at(self.stack.parts.prometheus, healed_at), timeout_s=RECOVERY_TIMEOUT_S
        )
        self.report.score_recovers_s = measures.delay(back_at, healed_at)
        self.narrator.done(f"the score was 100 again {self.report.score_recovers_s:.1f} s after the last fault that lowers it was healed")

    async def _bad_release(self) -> None:
        """Give half of the users a release that shares one agent, and see it taken back."""
        parts = self.stack.parts
        self.report.rollback = found = await bad_release(
            parts.collector, parts.prometheus, self.users, self.stack.urls.chat, SERVICE, self._until, self.narrator.doing
        )
        self.narrator.done(
            f"bad release for half of the users: rolled back {found.rollback_s:.2f} s after the first harm, "
            f"its traffic zero after {found.variant_traffic_zero_s:.1f} s, {ALERT} {found.page_s:.2f} s"
        )

    # --- what is polled: each returns what it saw, or None for "not yet" ---------------------------------------------

    async def _quiet(self, expected: Expectation) -> bool | None:
        """True when nothing was found for a while, and the fault's own alert does not fire."""
        if not await measures.still_for(self.stack.parts.prometheus, QUIET_S):
            return None
        firing = [labels for labels in await self.stack.parts.prometheus.firing() if _is_own(expected, labels)]
        return None if firing else True

    async def _gate(self, rollout: str, verdict: str) -> str | None:
        answer = await self.stack.parts.collector.gate(rollout)
        return verdict if answer["verdict"] == verdict else None

    async def _gate_failing(self, rollout: str) -> str | None:
        answer = await self.stack.parts.collector.gate(rollout)
        return "fail, because " + "; ".join(reason["detail"] for reason in answer["reasons"]) if answer["verdict"] == "fail" else None

    async def _harm(self, fault: str, since: float) -> Harm | None:
        # A switch-on and its first harm have the same clock: both are processes of this machine.
        return next((harm for harm in chat_api.harms(self.stack.layout.fault_log) if harm.fault == fault and harm.time >= since), None)

    async def _record(self, expected: Expectation, known: set[str], harm_time: float) -> Json | None:
        items = await self.stack.parts.collector.violations(kind=expected.kind, limit=1000)
        new = [
            item
            for item in items
            # The first find may be of one user's own two requests: true, but not the harm that is followed here.
            if item["id"] not in known and not item["synthetic"] and len(_principals(item)) >= expected.sides
        ]
        return min(new, key=lambda item: item["time"]) if new else None

    async def _page(self, expected: Expectation, since: float) -> Notification | None:
        arrived = [
            n for n in await self.stack.parts.collector.notifications(since=since) if n.status == "firing" and _is_own(expected, n.labels)
        ]
        return min(arrived, key=lambda n: n.received_at) if arrived else None

    async def _evidence(self, violation_id: str, expected: Expectation) -> Json | None:
        evidence = await self.stack.parts.collector.violation(violation_id)
        return evidence if evidence["grade"] in expected.grades else None

    # --- helpers -----------------------------------------------------------------------------------------------------

    async def _until(
        self,
        what: str,
        look: Callable[[], Awaitable[T | None]],
        *,
        timeout_s: float = STEP_TIMEOUT_S,
        refuse: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Poll until `look` returns something; `refuse` returning something ends the wait as failed."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._check()
            seen = await look()
            if seen is not None:
                return seen
            if refuse is not None and (wrong := await refuse()) is not None:
                raise StepFailedError(f"instead of {what}: {wrong}")
            if time.monotonic() > deadline:
                raise StepFailedError(f"{what}: not within {timeout_s:.0f} s")
            await asyncio.sleep(POLL_S)

    def _check(self) -> None:
        """Fail early, with the log, when a process of the stack or the traffic has ended."""
        self.stack.check()
        self.users.check()

    def _hold(self, held: bool, otherwise: str) -> None:
        if not held:
            raise StepFailedError(otherwise)

    def _doing(self, expected: Expectation, what: str) -> None:
        self.narrator.doing(f"{expected.fault}: {what}")


def _is_own(expected: Expectation, labels: dict[str, str]) -> bool:
    return labels.get("alertname") == expected.alert and all(labels.get(name) == value for name, value in expected.alert_labels.items())


def _principals(item: Json) -> set[str]:
    """Return who is named by a violation, as victim or as offender."""
    return {principal for side in ("victim", "offender") if (principal := _principal(item[side])) is not None}


def _principal(side: Json | None) -> str | None:
    return None if side is None else side.get("principal")


def _example_line(side: Json | None) -> str | None:
    """Return the innermost line of a side's stack that lies in the chat service, as `file:line`."""
    lines = [] if side is None else [str(line).split(" ")[0] for line in side.get("stack") or ()]
    return next((line for line in reversed(lines) if "examples/chat/" in line), None)
