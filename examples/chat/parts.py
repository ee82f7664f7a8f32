"""The parts of one worker, and how they are put together. What is not built here, no part can reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from chat import run_ids
from chat.agents import AgentFactory
from chat.auth import Tokens, load_secret
from chat.connections import Connections
from chat.database import Database
from chat.rooms import Rooms
from chat.runs import Runner
from chat.settings import Settings
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.resolution import Resolver


@dataclass(frozen=True, slots=True)
class Kinds:
    """The classes that the parts are made of; `faults.py` has defective ones."""

    tokens: Callable[..., Tokens] = Tokens
    database: Callable[..., Database] = Database
    connections: Callable[..., Connections] = Connections
    agents: Callable[..., AgentFactory] = AgentFactory


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that lives as long as the worker."""

    settings: Settings
    tokens: Tokens
    database: Database
    connections: Connections
    rooms: Rooms
    runner: Runner
    ids: Resolver


def build_parts(settings: Settings, monitor: IsolationMonitor, kinds: Kinds) -> Parts:
    database = kinds.database(settings.database_url, pool_size=settings.pool_size, max_overflow=settings.max_overflow)
    connections = kinds.connections()
    agents = kinds.agents(settings.word_pause_s)
    ids = run_ids.build(monitor, database)
    return Parts(
        settings=settings,
        tokens=kinds.tokens(load_secret(settings.secret, settings.secret_file), settings.token_lifetime_s),
        database=database,
        connections=connections,
        rooms=Rooms(),
        runner=Runner(monitor, database, connections, agents.create, ids),
        ids=ids,
    )


def _parts_of(connection: HTTPConnection) -> Parts:
    parts: Parts = connection.app.state.parts
    return parts


PartsDependency = Annotated[Parts, Depends(_parts_of)]
