"""How this service is watched: two lines, and four declarations about what isolation means here.

The fifth is in `runs.py`: each run is a `with monitor.run(...)` block that says which event it hands over.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI

from chat.auth import NotSignedInError, Tokens, token_of
from chat.database import Database
from chat.runs import Runner
from isolation_monitor.telemetry import IsolationMonitor


def watch(app: FastAPI, monitor: IsolationMonitor, database: Database, tokens: Tokens, runner: Runner) -> None:
    """Instrument the application and its database engine, and declare what must hold."""
    monitor.instrument(app, engine=database.engine)

    # Whom a request is for: read from the request's own token, by nothing but the request's own scope.
    @monitor.principal
    def principal(scope: MutableMapping[str, Any]) -> str | None:
        try:
            return tokens.user_of(token_of(scope)).id
        except NotSignedInError:
            return None

    # Every answer and frame says whom it is for. An author's name in a room is no such field: rooms are shared on purpose.
    monitor.identity_fields("user_id")

    # An agent is made for one request and never seen by a second one.
    runner.create_agent = monitor.factory("agent", scope="request")(runner.create_agent)
