"""The lives of an engine's containers, from its events and its listings: each death is counted once.

Events tell everything while the stream holds. It breaks with the engine, which forgets its events then, and a listing has to tell what
was missed: a container lives from one start to one end, the engine's clock orders them, and its restart count says how many
there were between two looks. What a listing has told already is not counted again when its event comes late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from isolation_monitor.collector.containers.domain import (
    PROJECT_LABEL,
    SIGKILL,
    SIGTERM,
    Command,
    EngineEvent,
    Happening,
    Rules,
    Seen,
    Tracked,
    expiry_of,
    happening_id,
    owner_of,
    reason_of,
    signal_name,
)

_TOGETHER: Final = timedelta(seconds=10)
"""A removal so soon after a SIGKILL was one command with it: `docker rm --force`."""
_AT_ONCE: Final = timedelta(seconds=1)
_OOM_BEFORE: Final = timedelta(minutes=1)
_NO_GRACE_S: Final = 1.0
"""A stop with less time than this (`docker stop -t 0`) is a kill, as for `isomon docker` and its audit."""
_JUDGED_AFTER: Final = _TOGETHER + timedelta(seconds=1)
"""Until then a SIGKILL may turn out to be a forced removal, and a container that ran out of memory may end by it."""


class Lives:
    """Everything remembered of one engine's containers. `events` and `listing` return what happened, oldest first.

    Changed containers are collected in `changed` until somebody has stored them.
    """

    def __init__(self, engine: str, rules: Rules, tracked: Iterable[Tracked] = (), *, is_first_look: bool = True) -> None:
        """`is_first_look`: nothing is known of this engine yet, so what has ended already ended before our time."""
        self.engine = engine
        self.rules = rules
        self.tracked = {one.id: one for one in tracked}
        self.changed: set[str] = set()
        self.commands: list[Command] = []
        """Destructive commands since somebody took them."""
        self.told_late: list[Happening] = []
        """What `judged` has found to have happened, since somebody took it."""
        self._is_first_look = is_first_look

    @property
    def present(self) -> list[Tracked]:
        """Return the containers that are there now."""
        return [one for one in self.tracked.values() if one.removed_at is None]

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, event: EngineEvent) -> list[Happening]:
        """Take one event, in the order of the engine, and return what happened."""
        one = self.tracked.get(event.container_id)
        if one is None:
            one = self.tracked[event.container_id] = Tracked(
                event.container_id, event.name, event.image, owner=owner_of(event.labels, self.rules), created_at=event.at,
                expires_at=expiry_of(event.labels, event.at),
                # First heard of by its end: it lived before.
                is_open=event.action in ("die", "kill", "oom"),
            )  # fmt: skip
        if one.removed_at is not None:
            return []
        self.changed.add(one.id)
        match event.action:
            case "start":
                self._started(one, event.at)
            case "kill":
                return self._signalled(one, event)
            case "stop":
                return self._stopped(one)
            case "oom" if one.is_open:
                return self._starved(one, event.at)
            case "die":
                return self._died(one, event)
            case "destroy":
                return self._destroyed(one, event)
            case "pause":
                one.status = "paused"
            case "unpause":
                one.status = "running"
            case "rename":
                one.name = event.name
            case "health_status" if event.health is not None and event.health != one.health:
                before, one.health = one.health, event.health
                return [self._happened(one, "health", event.at, event.at.isoformat(), detail={"from": before, "to": event.health})]
        return []

    def _started(self, one: Tracked, at: datetime) -> None:
        if one.is_open or (one.started_at is not None and at <= one.started_at):
            return
        if one.started_at is not None or one.deaths:
            one.restarts += 1
            one.life += one.restarts_by_policy
        _begin_life(one, at, exact=False)

    def _signalled(self, one: Tracked, event: EngineEvent) -> list[Happening]:
        at, number = event.at, event.signal
        if not one.is_open and (one.finished_at is None or at <= one.finished_at):
            # A listing has told of this life's end already.
            return []
        key = (one.id, at.isoformat())
        if number != SIGKILL:
            is_stop = number in (SIGTERM, one.stop_signal)
            if is_stop:
                one.stop_asked_at = at
                self._commanded("stop", one, event)
            kind = "stop" if is_stop else "kill"
            return [self._happened(one, kind, at, *key, signal=signal_name(number), forced=False)]
        after = None if one.stop_asked_at is None else (at - one.stop_asked_at).total_seconds()
        if _stops_by_kill(one) and after is None:
            # `docker stop`, `kill` and `rm -f` begin alike here. After the first one alone a `stop` follows: it is told then, or later.
            one.killed_at, one.was_forced, one.kill_to_judge = at, True, at
            self._commanded("stop", one, event)
            return []
        one.killed_at, one.was_forced = at, after is None or after < _NO_GRACE_S
        if one.was_forced:
            one.kill_to_judge = at
        if after is None:
            self._commanded("kill", one, event)
        # One that got no time to stop has not failed to.
        kind = "kill" if one.was_forced else "stop_sigkill"
        return [self._happened(one, kind, at, *key, signal="SIGKILL", forced=True, after_stop_s=after)]

    def _stopped(self, one: Tracked) -> list[Happening]:
        """The engine has carried out a stop: one by SIGKILL, of an image that wants it so, was no kill."""
        if not _stops_by_kill(one) or one.kill_to_judge is None:
            return []
        at, one.kill_to_judge, one.was_forced = one.kill_to_judge, None, False
        return [self._happened(one, "stop", at, one.id, at.isoformat(), signal="SIGKILL", forced=False)]

    def _killed(self, one: Tracked) -> list[Happening]:
        """Tell now of the kill that might have been a stop."""
        if not _stops_by_kill(one) or one.kill_to_judge is None:
            return []
        at = one.kill_to_judge
        return [self._happened(one, "kill", at, one.id, at.isoformat(), signal="SIGKILL", forced=True)]

    def _starved(self, one: Tracked, at: datetime) -> list[Happening]:
        """The kernel ended a process of it for want of memory; that need not be the first one, whose end is the container's."""
        # The kernel may try again and again within seconds, and so may a program that starts its workers again.
        is_another = one.oom_at is None or at - one.oom_at > _OOM_BEFORE
        one.oom_at, one.oom_to_judge = at, one.oom_to_judge or at
        return [self._happened(one, "out_of_memory", at, one.deaths, at.isoformat())] if is_another else []

    def _died(self, one: Tracked, event: EngineEvent) -> list[Happening]:
        if not one.is_open or (one.started_at is not None and event.at < one.started_at):
            # The listing was first: it has counted this one.
            return []
        # A worker that was ended for want of memory, and that the container survived, is not why it ends a day later.
        oom = one.oom_at is not None and event.at - one.oom_at <= _OOM_BEFORE
        reason = reason_of(event.exit_code, oom=oom, killed=one.killed_at is not None, stop_signal=one.stop_signal)
        if reason == "killed" and one.killed_at is None and one.stop_asked_at is None:
            # The engine tells of each signal that it sends before the end. This one it did not send: to whoever runs it, a crash.
            reason = "error"
        return [self._death(one, event.at, event.exit_code, reason, "event")]

    def _destroyed(self, one: Tracked, event: EngineEvent) -> list[Happening]:
        at = event.at
        found: list[Happening] = []
        if one.is_open:
            found.append(self._death(one, at, None, reason_of(None, oom=False, killed=one.killed_at is not None), "event"))
        forced = one.was_forced and one.killed_at is not None and at - one.killed_at <= _TOGETHER
        if forced:
            found += self._killed(one)
            one.kill_to_judge = None
        # One that was gone before anybody looked at it, and at once when it ended, removed itself (`docker run --rm`).
        by_itself = one.auto_remove or (not one.image_id and one.finished_at is not None and at - one.finished_at < _AT_ONCE)
        if not forced and not by_itself:
            self._commanded("remove", one, event)
        found.append(self._removal(one, at, "forced" if forced else "graceful", "event"))
        return found

    def _commanded(self, action: str, one: Tracked, event: EngineEvent) -> None:
        self.commands.append(Command(event.at, action, one.id, one.name, event.labels.get(PROJECT_LABEL) or None))

    def judged(self, now: datetime) -> list[tuple[str, Literal["kill", "oom_survived"]]]:
        """Return the names of containers that were killed and not removed with it, and of those that outlived a lack of memory.

        Each is told once, a few seconds after it happened, when it is known not to have been a part of something else.
        """
        found: list[tuple[str, Literal["kill", "oom_survived"]]] = []
        for one in self.tracked.values():
            if one.kill_to_judge is not None and now - one.kill_to_judge >= _JUDGED_AFTER:
                self.told_late += self._killed(one)
                one.kill_to_judge = None
                found.append((one.name, "kill"))
                self.changed.add(one.id)
            if one.oom_to_judge is not None and now - one.oom_to_judge >= _JUDGED_AFTER:
                one.oom_to_judge = None
                self.changed.add(one.id)
                if one.is_open:
                    found.append((one.name, "oom_survived"))
        return found

    # --- listings -----------------------------------------------------------------------------------------------------

    def listing(self, seen: Iterable[Seen], at: datetime, *, is_certain: bool) -> list[Happening]:
        """Compare with all containers that the engine has, and return what its events did not tell.

        `is_certain`: no event is on its way any more, so one that is gone is gone; otherwise it may be missing once.
        """
        found: list[Happening] = []
        present = set()
        for shown in seen:
            present.add(shown.id)
            found += self._looked_at(shown, at)
        for one in self.present:
            if one.id in present:
                one.is_missing = False
            elif is_certain or one.is_missing:
                self.changed.add(one.id)
                if one.is_open:
                    found.append(self._death(one, at, None, "unknown", "listing"))
                found.append(self._removal(one, at, "unknown", "listing"))
            else:
                one.is_missing = True
        self._is_first_look = False
        return found

    def describe(self, shown: Seen) -> None:
        """Take from a look what no event tells: policy, limits, stop signal. Its end is left to events, which may be on their way."""
        one = self.tracked.get(shown.id)
        if one is not None and one.removed_at is None:
            _describe(one, shown, self.rules)
            self.changed.add(one.id)

    def _looked_at(self, shown: Seen, at: datetime) -> list[Happening]:
        one = self.tracked.get(shown.id)
        if one is None:
            return self._met(shown, at)
        if one.removed_at is not None:
            return []
        missed = self._missed(one, shown)
        if missed is None:
            return []
        before = _facts(one)
        found: list[Happening] = []
        is_new_life = shown.started_at is not None and not _is_same_life(one, shown.started_at)
        for number in range(missed):
            is_last = number == missed - 1 and not shown.is_running
            found.append(self._missed_death(one, shown, at, is_last=is_last))
        if is_new_life and shown.started_at is not None:
            one.restarts += max(1, missed) if one.started_at is not None else 0
            if shown.is_running:
                _begin_life(one, shown.started_at, exact=True)
        _be_as(one, shown, self.rules)
        if _facts(one) != before:
            self.changed.add(one.id)
        return found

    def _met(self, shown: Seen, at: datetime) -> list[Happening]:
        one = self.tracked[shown.id] = Tracked(shown.id, shown.name, shown.image)
        self.changed.add(one.id)
        ended = 0
        if shown.started_at is not None and not self._is_first_look:
            ended = shown.life + (not shown.is_running)
        found = [self._missed_death(one, shown, at, is_last=n == ended - 1 and not shown.is_running) for n in range(ended)]
        one.restarts = shown.restart_count
        if self._is_first_look and not shown.is_running and shown.started_at is not None:
            one.exit_code, one.finished_at = shown.exit_code, shown.finished_at
            one.reason = reason_of(shown.exit_code, oom=shown.oom_killed, killed=False, stop_signal=shown.stop_signal)
        _be_as(one, shown, self.rules)
        return found

    def _missed(self, one: Tracked, shown: Seen) -> int | None:
        """Return how many deaths nobody told of; None when the look is older than what is known."""
        if shown.started_at is None:
            return 0
        if one.started_at is None:
            if one.is_open:
                # Known by an event of its end alone.
                return int(not shown.is_running)
            return shown.life + (not shown.is_running) if not one.deaths else 0
        if _is_same_life(one, shown.started_at):
            if not one.is_open and shown.is_running:
                return None
            return int(one.is_open and not shown.is_running)
        if shown.started_at < one.started_at:
            return None
        if shown.life > one.life:
            return max(0, shown.life - one.life - (not one.is_open) + (not shown.is_running))
        # Somebody started it by hand, which sets the engine's count to zero.
        return shown.life + (not shown.is_running) + one.is_open

    def _missed_death(self, one: Tracked, shown: Seen, at: datetime, *, is_last: bool) -> Happening:
        if is_last:
            known = one.killed_at is not None
            reason = reason_of(shown.exit_code, oom=shown.oom_killed, killed=known, stop_signal=shown.stop_signal)
            return self._death(one, shown.finished_at or at, shown.exit_code, reason, "listing")
        moment = shown.finished_at if shown.is_running and shown.finished_at is not None else at
        return self._death(one, moment, None, "unknown", "listing")

    # --- what happened ------------------------------------------------------------------------------------------------

    def _death(self, one: Tracked, at: datetime, exit_code: int | None, reason: str, found_by: str) -> Happening:
        one.is_open = False
        one.status = "exited"
        # Its end tells of it: as one that was out of memory, or as another one.
        one.oom_to_judge = None
        one.deaths += 1
        one.exit_code, one.finished_at, one.reason = exit_code, at, reason
        one.memory_bytes = None
        after = None
        if one.killed_at is not None and one.stop_asked_at is not None:
            after = (one.killed_at - one.stop_asked_at).total_seconds()
        lived = None if one.started_at is None else max(0.0, (at - one.started_at).total_seconds())
        detail = {"death": one.deaths, "lived_s": lived}
        # The number of the death is its identity: a stream and a listing, or two replicas, may see it at different times.
        return self._happened(
            one, "death", at, one.id, one.deaths, exit_code=exit_code, reason=reason, after_stop_s=after, found_by=found_by,
            forced=one.was_forced if one.killed_at is not None and not _stops_by_kill(one) else None, detail=detail,
        )  # fmt: skip

    def _removal(self, one: Tracked, at: datetime, mode: str, found_by: str) -> Happening:
        one.removed_at = at
        forced = None if mode == "unknown" else mode == "forced"
        signal = "SIGKILL" if forced else None
        detail = {"mode": mode, "by_engine": one.auto_remove}
        return self._happened(one, "removal", at, one.id, forced=forced, signal=signal, found_by=found_by, detail=detail)

    def _happened(self, one: Tracked, kind: str, at: datetime, *key: object, **about: Any) -> Happening:  # Any: fields of Happening
        identity = happening_id(self.engine, kind, one.id, *key)
        return Happening(identity, self.engine, at, kind, one.id, one.name, one.image, one.owner, **about)


def _stops_by_kill(one: Tracked) -> bool:
    """Say whether SIGKILL is its stop signal, by its image's STOPSIGNAL or its own setting."""
    return one.stop_signal == SIGKILL


def _begin_life(one: Tracked, at: datetime, *, exact: bool) -> None:
    one.started_at, one.is_start_exact, one.is_open, one.status = at, exact, True, "running"
    one.stop_asked_at = one.killed_at = one.oom_at = None
    one.was_forced = False
    if one.health != "none":
        one.health = "starting"


def _is_same_life(one: Tracked, started_at: datetime) -> bool:
    """Say whether the life that began at `started_at` by the engine's listing is the one that is known."""
    if one.started_at is None:
        return False
    if one.is_start_exact:
        return started_at == one.started_at
    ended_before = one.finished_at if one.finished_at is not None and one.finished_at < one.started_at else None
    return started_at <= one.started_at and (ended_before is None or started_at > ended_before)


def _describe(one: Tracked, shown: Seen, rules: Rules) -> None:
    """Write down what does not change with a life."""
    one.name, one.image, one.image_id = shown.name, shown.image, shown.image_id
    one.owner, one.created_at = owner_of(shown.labels, rules), shown.created_at
    one.expires_at = expiry_of(shown.labels, shown.created_at)
    one.restarts_by_policy, one.auto_remove, one.stop_signal = shown.restarts_by_policy, shown.auto_remove, shown.stop_signal
    one.memory_limit, one.cpu_limit = shown.memory_limit, shown.cpu_limit


def _be_as(one: Tracked, shown: Seen, rules: Rules) -> None:
    """Write down a container as a listing shows it."""
    _describe(one, shown, rules)
    one.status, one.health, one.life, one.is_open = shown.status, shown.health, shown.life, shown.is_running
    if shown.started_at is not None:
        one.started_at, one.is_start_exact = shown.started_at, True


def _facts(one: Tracked) -> Mapping[str, object]:
    return {name: getattr(one, name) for name in Tracked.__slots__}
