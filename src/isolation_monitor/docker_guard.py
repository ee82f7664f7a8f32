"""The guard of `isomon docker` for Python scripts: graceful stops, removal without force, a cooldown between requests, a record of all.

    from isolation_monitor.docker_guard import DockerGuard

    with DockerGuard() as guard:
        guard.stop("web", grace_s=30)
        guard.remove("worker", stop=True)

Needs `isolation-monitor[docker]`. Asynchronous programs use `isolation_monitor.cli.docker.guard.session.guard_session`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from isolation_monitor.cli.docker.guard.action import Action, ActionFailed, ActionRefused
from isolation_monitor.cli.docker.guard.engine import EngineError
from isolation_monitor.cli.docker.guard.guard import GRACE_S, Guard, PruneLimits
from isolation_monitor.cli.docker.guard.session import Setup, guard_session

__all__ = ["Action", "ActionFailed", "ActionRefused", "DockerGuard", "EngineError"]

T = TypeVar("T")


class DockerGuard:
    """A guard on one engine; use it as a context manager. Each method returns the recorded action.

    All of them raise ActionRefused, with the reason and what to do, or ActionFailed: no such container, no answer. Times are in seconds.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        actor: str | None = None,
        journal: Path | None = None,
        collector: str | None = None,
        token_file: Path | None = None,
    ) -> None:
        """`host` as DOCKER_HOST; `collector` is told when the block ends, with the token of `token_file` or $ISOMON_TOKEN."""
        self._setup = Setup(host=host, actor=actor, journal=journal, collector=collector, token_file=token_file)
        self._runner: asyncio.Runner | None = None
        self._session: AbstractAsyncContextManager[Guard] | None = None
        self._guard: Guard | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be recorded or told, as sentences; complete when the block has ended."""
        return tuple(self._setup.problems)

    def stop(self, name: str, *, grace_s: float = GRACE_S, allow_kill: bool = False) -> Action:
        """Send the stop signal and wait; SIGKILL afterwards only with `allow_kill`."""
        return self._done(self._guarding.stop(name, grace_s=grace_s, allow_kill=allow_kill))

    def restart(self, name: str, *, grace_s: float = GRACE_S, allow_kill: bool = False) -> Action:
        """Stop as `stop` does, then start."""
        return self._done(self._guarding.restart(name, grace_s=grace_s, allow_kill=allow_kill))

    def remove(self, name: str, *, stop: bool = False, grace_s: float = GRACE_S, allow_kill: bool = False, volumes: bool = False) -> Action:
        """Remove a container without force; one that runs is refused, or stopped first with `stop`."""
        return self._done(self._guarding.remove(name, stop=stop, grace_s=grace_s, allow_kill=allow_kill, volumes=volumes))

    def prune(self, label: str, *, older_than_s: float = 0) -> list[Action]:
        """Remove the ended containers that carry `label` (`KEY` or `KEY=VALUE`); what could not be done is among the actions."""
        return self._run(self._guarding.prune(PruneLimits(label, timedelta(seconds=older_than_s))))

    def __enter__(self) -> DockerGuard:
        self._runner = asyncio.Runner()
        self._session = guard_session(self._setup)
        try:
            self._guard = self._runner.run(_awaited(self._session.__aenter__()))
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._session is not None:
                self._run(self._session.__aexit__(None, None, None))
        finally:
            if self._runner is not None:
                self._runner.close()

    @property
    def _guarding(self) -> Guard:
        if self._guard is None:
            raise RuntimeError("use it as a context manager: with DockerGuard() as guard")
        return self._guard

    def _run(self, asked: Awaitable[T]) -> T:
        if self._runner is None:
            raise RuntimeError("use it as a context manager: with DockerGuard() as guard")
        return self._runner.run(_awaited(asked))

    def _done(self, asked: Awaitable[Action]) -> Action:
        action = self._run(asked)
        if action.result == "refused":
            raise ActionRefused(action)
        if action.result == "failed":
            raise ActionFailed(action)
        return action


async def _awaited(asked: Awaitable[T]) -> T:
    return await asked
