"""A rollout in plain values, and its state machine: which step follows which, and who may take it.

Two kinds share a name space. A watched rollout is only judged: somebody else gives users their variant. A staged one is
also a flag of the same name: its stage decides who gets `on`, and the collector advances it or takes it back by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from isolation_monitor.collector.rollouts.spec import TRIGGERS, ZERO_TOLERANCE, InternalUsers, RolloutSpec, Stage

DEFAULT_MIN_EXPOSED_REQUESTS: Final = 300
"""0 violations in 299 requests says: fewer than 1 % at 95 % (canary-gates reference, 3.1)."""
DEFAULT_MIN_OWED_EVENTS: Final = 100
"""Below this, a few lost events decide a share of 95 % by chance."""

Status = Literal["ready", "running", "held", "rolled_back", "complete"]
Action = Literal["apply", "start", "advance", "hold", "rollback", "re-arm"]
OFF: Final = "off"
"""The stage of a rollout that nobody gets."""
CONTROLLER: Final = "isolation-monitor"
"""The actor of what the collector does by itself."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What the owner of a watched rollout asks for. `arm` None means all arms; `min_owed_events` 0 means a service without runs."""

    name: str
    service: str
    arm: str | None
    min_exposed_requests: int = DEFAULT_MIN_EXPOSED_REQUESTS
    min_owed_events: int = DEFAULT_MIN_OWED_EVENTS


@dataclass(frozen=True, slots=True)
class RolloutState:
    """Who gets what now. `percent` is 0-100; `revision` grows by one with each change."""

    name: str
    service: str
    status: Status
    stage: str
    percent: float
    internal_users: InternalUsers
    holdback_percent: float
    revision: int
    changed_at: datetime
    reason: str
    actor: str

    @property
    def serves(self) -> bool:
        """Say whether anybody gets `on`: nobody does before the start and after a rollback."""
        return self.status in ("running", "held", "complete")


@dataclass(frozen=True, slots=True)
class StagedRollout:
    """A rollout with its file. `soaked_s` is the time that its stage was seen to be in order, counted until `soaked_at`."""

    spec: RolloutSpec
    state: RolloutState
    started_at: datetime
    stage_started_at: datetime
    soaked_s: float
    soaked_at: datetime | None

    @property
    def stage(self) -> Stage | None:
        """Return the stage it is in; None before the start and after a rollback."""
        return self.spec.stage(self.state.stage)

    @property
    def watched_until(self) -> datetime | None:
        """Return until when harm takes a complete rollout back; None where it is not complete, or is not watched after its end."""
        if self.state.status != "complete" or not self.spec.watch_after_completion_s:
            return None
        return self.state.changed_at + timedelta(seconds=self.spec.watch_after_completion_s)

    def is_live(self, now: datetime) -> bool:
        """Say whether harm takes it back: it runs, is held, or is complete and watched still."""
        until = self.watched_until
        return self.state.status in ("running", "held") or (until is not None and now < until)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout under watch. `started_at` is the collector's time; `failed_at` stays until a person re-arms.

    `staged` is None where it is only watched.
    """

    plan: RolloutPlan
    started_at: datetime
    failed_at: datetime | None
    staged: StagedRollout | None = None


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One change of a rollout. `sequence` grows over all rollouts: a reader who knows one has seen all before it."""

    id: str
    sequence: int
    rollout: str
    service: str
    revision: int
    action: Action
    from_status: str
    to_status: str
    from_stage: str
    to_stage: str
    actor: str
    reason: str
    decision_id: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks for a change, and why; both end in the history."""

    actor: str
    reason: str
    decision_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Where an action leads. `begins_stage` starts the stage's evidence and soak anew, `begins_rollout` the whole rollout's."""

    status: Status
    stage: str
    begins_stage: bool = False
    begins_rollout: bool = False


class StepRefused(Exception):
    """The action makes no sense in this state; the text says what to do instead."""


def step(spec: RolloutSpec, state: RolloutState, action: Action) -> Step | None:
    """Return where `action` leads from `state`; None where it is so already.

    Raises:
        StepRefused: this state does not allow the action.
    """
    status, name = state.status, state.name
    if action == "rollback":
        # Never refused: whoever reverts must not have to think about states.
        return None if status == "rolled_back" else Step("rolled_back", OFF)
    if action == "re-arm":
        if status == "ready":
            return None
        if status == "rolled_back":
            return Step("ready", OFF)
        raise StepRefused(f"{name} is {status}: only a rollout that was rolled back is re-armed")
    if status == "rolled_back":
        raise StepRefused(f"{name} was rolled back ({state.reason}): a person re-arms it first, isomon rollout re-arm {name}")
    if action == "start":
        return _start(spec, state)
    if action == "hold":
        return _hold(state)
    if action == "advance":
        return _advance(spec, state)
    raise StepRefused(f"{action} is no step of a rollout")


def _start(spec: RolloutSpec, state: RolloutState) -> Step | None:
    if state.status == "ready":
        return Step("running", spec.stages[0].name, begins_stage=True, begins_rollout=True)
    if state.status == "held":
        return Step("running", state.stage)
    if state.status == "running":
        return None
    raise StepRefused(f"{state.name} is complete: a new change deserves a new rollout")


def _hold(state: RolloutState) -> Step | None:
    if state.status == "held":
        return None
    if state.status == "running":
        return Step("held", state.stage)
    raise StepRefused(f"{state.name} is {state.status}: only a running rollout can be held")


def _advance(spec: RolloutSpec, state: RolloutState) -> Step:
    if state.status not in ("running", "held"):
        raise StepRefused(f"{state.name} is {state.status}: " + ("start it first" if state.status == "ready" else "there is no next stage"))
    following = spec.after(state.stage)
    if following is None:
        return Step("complete", state.stage)
    return Step("running", following.name, begins_stage=True)


def after(spec: RolloutSpec, state: RolloutState, taken: Step, who: Who, at: datetime) -> RolloutState:
    """Return the state that `taken` makes of `state`."""
    stage = spec.stage(taken.stage)
    return replace(
        state,
        status=taken.status,
        stage=taken.stage,
        percent=0.0 if stage is None else stage.percent,
        revision=state.revision + 1,
        changed_at=at,
        reason=who.reason,
        actor=who.actor,
    )


def refuse_apply(old: StagedRollout, new: RolloutSpec) -> str | None:
    """Return why `new` cannot replace the file of a rollout that users have now; None when it can.

    Applying a file never moves users between variants by itself, the list of internal users excepted.
    """
    state = old.state
    if new.service != old.spec.service:
        return f"{state.name} belongs to service {old.spec.service!r}: a rollout never moves to another, give it a new name"
    if not state.serves:
        return None
    now, then = old.stage, new.stage(state.stage)
    if then is None or now is None or (then.percent, then.kind) != (now.percent, now.kind):
        return f"{state.name} is {state.status} in stage {state.stage!r}, which the file changes or leaves out: roll back first"
    if new.holdback_percent != old.spec.holdback_percent:
        return f"{state.name} is {state.status}: its holdback of {old.spec.holdback_percent:g} % cannot change now, roll back first"
    return None


@dataclass(frozen=True, slots=True)
class Move:
    """What the controller does next."""

    action: Literal["rollback", "advance", "hold"]
    reason: str
    decision_id: str | None = None


def next_move(rollout: StagedRollout, answer: dict[str, Any]) -> Move | None:  # Any: the gate's JSON
    """Return what the gate's answer makes of a rollout; None to go on as it is.

    Only a clear `fail` reverts and only a clear `pass` promotes; everything else waits.
    """
    verdict, decision_id = answer.get("verdict"), answer.get("decision_id")
    if verdict == "fail":
        return Move("rollback", _why(answer), decision_id)
    stage = rollout.stage
    if verdict != "pass" or rollout.state.status != "running" or stage is None or rollout.soaked_s < stage.soak_s:
        return None
    seen = f"stage {stage.name} passed its gate and was in order for {rollout.soaked_s:.0f} s of {stage.soak_s:.0f} s"
    if stage.advance == "manual":
        return Move("hold", f"{seen}: it waits for isomon rollout advance", decision_id)
    return Move("advance", seen, decision_id)


def _why(answer: dict[str, Any]) -> str:
    failed = [reason for reason in answer.get("reasons", []) if reason.get("state") == "fail"]
    return "; ".join(f"{reason['trigger']}: {reason['detail']}" for reason in failed[:3]) or "its gate failed"


def soak_tick(verdict: str, monotonic_s: float | None, wall_s: float | None, longest_s: float) -> float:
    """Return the seconds that one look adds to a stage's soak time.

    Both clocks must agree that time went by, and neither may say more than `longest_s`: a wall clock that jumps adds
    nothing that did not happen, nor does time during which nobody looked. `None` means a first look. A look that could
    not see (`error`) adds nothing either.
    """
    if verdict not in ("pass", "inconclusive") or monotonic_s is None or wall_s is None:
        return 0.0
    return max(0.0, min(monotonic_s, wall_s, longest_s))


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alert that Alertmanager delivered as firing. `starts_at` is Prometheus' time."""

    labels: dict[str, str]
    summary: str
    starts_at: datetime

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "unnamed")


def alarm_against(rollout: StagedRollout, alarms: list[Alarm]) -> Move | None:
    """Return the rollback that the first alarm of this rollout asks for.

    `alarms` are those of its service that carry `rollback="true"` and began within it. One counts when it names no other
    rollout and no trigger that the stage leaves out. What was measured on arm `off` alone counts where one is enough:
    the victim may be anybody's neighbour. A planted fault or a drill never counts.
    """
    stage = rollout.stage
    for alarm in sorted(alarms, key=lambda alarm: alarm.starts_at):
        labels = alarm.labels
        if labels.get("synthetic") == "true" or labels.get("rollout", rollout.spec.rollout) != rollout.spec.rollout:
            continue
        trigger = labels.get("trigger") or _TRIGGER_OF_ALERT.get(alarm.name, ZERO_TOLERANCE[0])
        if stage is not None and trigger in TRIGGERS and trigger not in stage.triggers:
            continue
        if labels.get("arm") == "off" and trigger not in ZERO_TOLERANCE:
            continue
        return Move("rollback", f"alert {alarm.name}: {alarm.summary or 'it says no more'}")
    return None


_TRIGGER_OF_ALERT: Final = {"EventDeliveryBelow95": "delivery", "Cascade": "cascade", "SessionLeak": "session_leak"}
"""Alerts that tell their trigger by name only; any other one is about isolation."""
