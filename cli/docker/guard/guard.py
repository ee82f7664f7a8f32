"""The guard itself: graceful stops, removal without force, one destructive request per half second, and a record of each action.

A stop is the container's stop signal and then patience. SIGKILL follows only where the caller allowed it; without that the container
goes on, having heard the signal, and the caller is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from isolation_monitor.cli.docker.audit.engine_words import is_sigkill
from isolation_monitor.cli.docker.guard.action import Action, Caller, Deed, Result
from isolation_monitor.cli.docker.guard.cooldown import Cooldown, NoTurn
from isolation_monitor.cli.docker.guard.engine import Container, Engine, EngineError
from isolation_monitor.cli.docker.guard.journal import Journal, JournalError

GRACE_S: Final = 10.0
_MIN_GRACE_S: Final = 1.0
_AFTER_KILL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class PruneLimits:
    """What `prune` may remove: only containers that carry `label` (`KEY` or `KEY=VALUE`) and ended at least `older_than` ago."""

    label: str
    older_than: timedelta = timedelta(0)


class Guard:
    """Does what is asked on one engine, or refuses it; every method returns the recorded action and raises nothing of the engine's.

    `tell` hears of each action after it is in the journal. `problems` are sentences about what could not be recorded.
    """

    def __init__(
        self,
        engine: Engine,
        cooldown: Cooldown,
        journal: Journal,
        caller: Caller,
        *,
        tell: Callable[[Action], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._cooldown = cooldown
        self._journal = journal
        self._caller = caller
        self._tell = tell
        self._now = now
        self.problems: list[str] = []

    async def stop(self, name: str, *, grace_s: float = GRACE_S, allow_kill: bool = False) -> Action:
        """Send the container's stop signal and wait `grace_s` seconds; SIGKILL then, where `allow_kill` says so, else a refusal."""
        if (refusal := self._no_grace("stop", name, grace_s, allow_kill)) is not None:
            return refusal
        return await self._guarded("stop", name, lambda found: self._stop("stop", found, grace_s, allow_kill))

    async def restart(self, name: str, *, grace_s: float = GRACE_S, allow_kill: bool = False) -> Action:
        """Stop as `stop` does, then start; what did not end is not started anew."""
        if (refusal := self._no_grace("restart", name, grace_s, allow_kill)) is not None:
            return refusal

        async def restart(found: Container) -> Action:
            stopped = await self._stop("restart", found, grace_s, allow_kill)
            if stopped.result != "done":
                return stopped
            await self._engine.start(found)
            how = "SIGKILL, which was allowed" if stopped.forced else stopped.reason
            return self._action("restart", "done", f"{how}; started again", found, signal=stopped.signal, forced=stopped.forced)

        return await self._guarded("restart", name, restart)

    async def remove(
        self,
        name: str,
        *,
        stop: bool = False,
        grace_s: float = GRACE_S,
        allow_kill: bool = False,
        volumes: bool = False,
        force: bool = False,
    ) -> Action:
        """Remove a container that has ended; one that runs is refused, or stopped first with `stop`. `force` is always refused."""
        if force:
            return self._record(
                self._action(
                    "remove",
                    "refused",
                    "removal by force is SIGKILL without a warning: leave -f out; a running container is stopped first with --stop",
                    name=name,
                    forced=True,
                )
            )
        if stop and (refusal := self._no_grace("remove", name, grace_s, allow_kill)) is not None:
            return refusal

        async def remove(found: Container) -> Action:
            stopped: Action | None = None
            if not found.is_over:
                if not stop:
                    reason = f"{found.name} is {found.status}: stop it first (isomon docker stop {found.name}), or say --stop"
                    return self._action("remove", "refused", reason, found)
                stopped = await self._stop("remove", found, grace_s, allow_kill)
                if stopped.result != "done":
                    return stopped
            try:
                async with self._cooldown.turn():
                    await self._engine.remove(found, volumes=volumes)
            except EngineError as error:
                # One that removes itself when it ends (--rm) is gone, or going, before we ask.
                if stopped is None or error.status not in (404, 409):
                    raise
            how = "it had ended" if stopped is None else stopped.reason
            signal, forced = (None, False) if stopped is None else (stopped.signal, stopped.forced)
            return self._action("remove", "done", f"{how}; removed without force", found, signal=signal, forced=forced)

        return await self._guarded("remove", name, remove)

    async def kill(self, name: str, *, signal: str = "SIGKILL", allow_kill: bool = False) -> Action:
        """Send a signal. SIGKILL is refused unless `allow_kill`."""
        forced = is_sigkill(signal)
        if forced and not allow_kill:
            reason = "SIGKILL ends it without a warning: use isomon docker stop, or another --signal; where it must be, say --allow-kill"
            return self._record(self._action("kill", "refused", reason, name=name, signal=signal, forced=True))

        async def kill(found: Container) -> Action:
            if found.is_over:
                return self._action("kill", "failed", f"{found.name} is {found.status}: it gets no signal", found, signal=signal)
            if forced and (problem := self._unrecorded()) is not None:
                return self._action("kill", "refused", problem, found, signal=signal, forced=True)
            async with self._cooldown.turn():
                await self._engine.signal(found, signal)
            if not forced:
                return self._action("kill", "done", f"{signal} was sent", found, signal=signal)
            if await self._engine.ends(found, _AFTER_KILL_S) is None:
                return self._action(
                    "kill", "failed", f"it still runs {_AFTER_KILL_S:.0f} s after SIGKILL", found, signal=signal, forced=True
                )
            return self._action("kill", "done", "killed, as --allow-kill allows", found, signal=signal, forced=True)

        return await self._guarded("kill", name, kill)

    async def prune(self, limits: PruneLimits | None, *, force: bool = False, dry_run: bool = False) -> list[Action]:
        """Remove every ended container within `limits`, oldest first. Without limits, and by force, it is refused.

        With `dry_run` nothing is done or recorded, and the actions say what would be.
        """
        if force or limits is None:
            reason = (
                "it is never by force, and asks nothing: leave -f out"
                if force
                else "without a label everybody's stopped containers would go: say --label KEY=VALUE of those that are yours"
            )
            return [self._record(self._action("prune", "refused", reason, forced=force))]
        try:
            found = await self._engine.containers(limits.label)
        except EngineError as error:
            return [self._record(self._action("prune", "failed", str(error)))]
        latest = self._now() - limits.older_than
        ended = [one for one in found if one.is_over and (one.finished_at or one.created_at or latest) <= latest]
        ended.sort(key=lambda one: (one.finished_at or one.created_at or latest, one.id))
        done = []
        for one in ended:
            reason = f"it carries {limits.label} and is {one.status}"
            if dry_run:
                done.append(self._action("prune", "done", f"would be removed: {reason}", one))
                continue

            async def remove(again: Container, reason: str = reason) -> Action:
                # Looked at anew: it may have been started since.
                if not again.is_over:
                    return self._action("prune", "refused", f"{again.name} is {again.status} again", again)
                async with self._cooldown.turn():
                    await self._engine.remove(again)
                return self._action("prune", "done", f"{reason}; removed without force", again)

            done.append(await self._guarded("prune", one.id, remove, shown=one.name))
        return done

    async def _stop(self, deed: Deed, found: Container, grace_s: float, allow_kill: bool) -> Action:
        """Stop a container and return the action unrecorded; `deed` is what the stop is for."""
        if found.is_over:
            return self._action(deed, "done", f"it was {found.status} already", found)
        signal = "SIGTERM" if is_sigkill(found.stop_signal) else found.stop_signal
        begun = asyncio.get_running_loop().time()
        async with self._cooldown.turn():
            await self._engine.signal(found, signal)
        ended = await self._engine.ends(found, grace_s)
        if ended is not None:
            took = asyncio.get_running_loop().time() - begun
            code = "" if ended.exit_code is None or not ended.is_over or ended is found else f" with exit code {ended.exit_code}"
            return self._action(deed, "done", f"ended {took:.1f} s after {signal}{code}", found, signal=signal)
        if not allow_kill:
            reason = (
                f"{found.name} still runs {grace_s:g} s after {signal}, and SIGKILL is not allowed: give it more --time, "
                f"see why it does not end (docker logs {found.name}), or say --allow-kill"
            )
            return self._action(deed, "refused", reason, found, signal=signal)
        if (problem := self._unrecorded()) is not None:
            return self._action(deed, "refused", problem, found, signal=signal)
        async with self._cooldown.turn():
            try:
                await self._engine.signal(found, "SIGKILL")
            except EngineError as error:
                # 404 and 409: it ended by itself in this very moment.
                if error.status not in (404, 409):
                    raise
        if await self._engine.ends(found, _AFTER_KILL_S) is None:
            reason = f"it still runs {_AFTER_KILL_S:.0f} s after SIGKILL: its processes hang in the kernel; look at the host"
            return self._action(deed, "failed", reason, found, signal="SIGKILL", forced=True)
        reason = f"did not end within {grace_s:g} s of {signal}; SIGKILL, as --allow-kill allows"
        return self._action(deed, "done", reason, found, signal="SIGKILL", forced=True)

    async def _guarded(self, deed: Deed, name: str, do: Callable[[Container], Awaitable[Action]], shown: str | None = None) -> Action:
        """Find the container, do it and record what became of it."""
        found: Container | None = None
        try:
            found = await self._engine.look(name)
            action = await do(found)
        except EngineError as error:
            reason = str(error)
            if error.status == 404:
                reason = f"there is no container {name!r} on this engine" if name else "a container's name is empty: is its variable set?"
            action = self._action(deed, "failed", reason, found, name=shown or name)
        except NoTurn as error:
            action = self._action(deed, "refused", str(error), found, name=shown or name)
        except asyncio.CancelledError:
            # Ctrl-C, or a job that is called off: what was sent until then must not be missing in the record.
            self._record(self._action(deed, "failed", "broken off; signals that were sent stay sent", found, name=shown or name))
            raise
        return self._record(action)

    def _no_grace(self, deed: Deed, name: str, grace_s: float, allow_kill: bool) -> Action | None:
        if grace_s >= _MIN_GRACE_S or allow_kill:
            return None
        reason = f"a stop within {grace_s:g} s is a kill: give it {_MIN_GRACE_S:g} s or more ({GRACE_S:g} s is usual), or say --allow-kill"
        return self._record(self._action(deed, "refused", reason, name=name, forced=True))

    def _unrecorded(self) -> str | None:
        """Return why force cannot be recorded, and therefore is not used."""
        try:
            self._journal.check()
        except JournalError as error:
            return f"force is used only where it is recorded, and {error}"
        return None

    def _action(
        self,
        deed: Deed,
        result: Result,
        reason: str,
        found: Container | None = None,
        *,
        name: str | None = None,
        signal: str | None = None,
        forced: bool = False,
    ) -> Action:
        who = self._caller
        return Action(
            who.actor, who.host, who.command, deed, result, reason,
            container=name if found is None else found.name,
            container_id=None if found is None else found.id,
            image=None if found is None else found.image,
            signal=signal, forced=forced,
        )  # fmt: skip

    def _record(self, action: Action) -> Action:
        try:
            self._journal.add(action)
        except JournalError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
        self._tell(action)
        return action
