"""Users who sign in, each with a token of his own, and clients of which each call is one user's."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor
from tests.telemetry.conftest import Client, user_of

_NAMES = ("ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal", "ida", "jan")
MANY_USERS = tuple(f"u-{uuid.uuid5(uuid.NAMESPACE_DNS, name)}" for name in _NAMES)
USERS = MANY_USERS[:5]
ANN, BOB, CID, *_ = USERS


def me(request: Request) -> str:
    return user_of(request.scope) or ""


def tokens_of_logins(monitor: IsolationMonitor) -> dict[str, str]:
    """Tell users by login tokens, so that their ids are no credentials; return each one's token."""
    user_by_token = {uuid.uuid5(uuid.NAMESPACE_URL, user).hex: user for user in MANY_USERS}
    monitor.principal(lambda scope: user_by_token.get(user_of(scope) or ""))
    return {user: token for token, user in user_by_token.items()}


class Signed:
    """A client of which each call is one user's."""

    def __init__(self, monitor: IsolationMonitor, app: FastAPI) -> None:
        self._monitor = monitor
        self._token_of = tokens_of_logins(monitor)
        self.user_of_token = {token: user for user, token in self._token_of.items()}
        self._client = Client(monitor.instrument(app))

    def who(self, request: Request) -> str:
        return self.user_of_token[me(request)]

    async def get(self, user: str, path: str, headers: dict[str, str] | None = None) -> Any:
        return (await self._client.get(path, user=self._token_of[user], headers=headers)).json()

    async def post(self, user: str, path: str, **body: str) -> Any:
        return (await self._client.post(path, user=self._token_of[user], json=body)).json()

    async def walked(self) -> None:
        """Let the walks through memory see what is there now."""
        for _ in range(2):
            self._monitor.detection.shared_state.look_now()
        await asyncio.sleep(0)

    def found(self) -> list[str]:
        self._monitor.detection.settle()
        return [violation.summary for violation in self._monitor.violations() if violation.grade != "hygiene"]
