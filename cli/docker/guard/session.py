"""A guard with everything around it: the engine that is found, its turns, the journal, and the collector where one is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from isolation_monitor.cli.collector_client import CollectorClient, UsageError, read_token
from isolation_monitor.cli.docker.guard.action import Action, Caller
from isolation_monitor.cli.docker.guard.cooldown import Cooldown
from isolation_monitor.cli.docker.guard.engine import Engine
from isolation_monitor.cli.docker.guard.guard import Guard
from isolation_monitor.cli.docker.guard.journal import Journal, journal_path
from isolation_monitor.cli.docker.guard.reporting import report


@dataclass(slots=True)
class Setup:
    """Where the guard's parts are; None: as the environment says, or the default. `collector` None: nobody is told."""

    host: str | None = None
    journal: Path | None = None
    actor: str | None = None
    collector: str | None = None
    token_file: Path | None = None
    caller: Caller | None = None
    problems: list[str] = field(default_factory=list)


@asynccontextmanager
async def guard_session(setup: Setup) -> AsyncIterator[Guard]:
    """Run a guard; when the block ends the collector is told. What went wrong beside the actions is in `setup.problems`.

    Raises:
        EngineError: there is no engine, or it does not answer.
    """
    journal = Journal(setup.journal or journal_path())
    caller = setup.caller or Caller.of_this_process(setup.actor)
    actions: list[Action] = []
    engine = Engine(setup.host)
    try:
        guard = Guard(engine, Cooldown(await engine.identity()), journal, caller, tell=actions.append)
        try:
            yield guard
        finally:
            setup.problems += guard.problems
            _tell(setup, journal, actions)
    finally:
        await engine.close()


def _tell(setup: Setup, journal: Journal, actions: list[Action]) -> None:
    if setup.collector is None:
        return
    try:
        with CollectorClient(setup.collector, read_token(setup.token_file)) as client:
            problem = report(client, journal, actions)
    except UsageError as error:
        problem = f"the collector was not told: {error}"
    if problem is not None:
        setup.problems.append(problem)
