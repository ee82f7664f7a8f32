"""The running service as a driver sees it: real HTTP and WebSocket clients of several users, and the book of what is whose.

>>> async def drive(service):                                           # doctest: +SKIP
...     async def one(user, round):
...         answer = await service.get(user, "/balance")                # any foreign private value in it is a proof of harm
...         service.look(user, answer.text)
...     return await service.everybody(one, rounds=6)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import User, Users, mint

PROOFS_LIMIT = 200


class Service:
    """One running service and its users' clients. `environment` is what the case's parts gave."""

    def __init__(self, port: int, users: Users, environment: Mapping[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.users = users
        self.environment = environment
        self.proofs: list[str] = []
        self._owner_of: dict[str, User] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}

    # --- what is whose ----------------------------------------------------------------------------------------------

    def owns(self, user: User, *values: str) -> None:
        """Write down that private values belong to a user; from now on `look` knows them."""
        for value in values:
            self._owner_of[value] = user

    def own_values(self, label: str = "private", shape: Any = "hex") -> None:
        """Write down every user's derived value of that label."""
        for user in self.users:
            self.owns(user, user.value(label, shape))

    def minted(self, user: User, shape: Any = "hex") -> str:
        """Return a fresh private value that belongs to the user from now on."""
        value = mint(shape)
        self.owns(user, value)
        return value

    def look(self, user: User, received: str | bytes | httpx.Response, where: str = "an answer") -> bool:
        """Look for private values of others in what a user's client received; each is a proof of harm. True when one was found."""
        if isinstance(received, httpx.Response):
            received = "\n".join([*(f"{name}: {value}" for name, value in received.headers.multi_items()), received.text])
        text = received.decode("utf-8", "replace") if isinstance(received, bytes) else received
        found = False
        for value, owner in self._owner_of.items():
            if owner is not user and value in text:
                found = True
                self.harm(f"u{user.number}'s client holds the private value {value} of u{owner.number} (in {where})")
        return found

    def harm(self, sentence: str) -> None:
        """Write down a proof of harm that the driver knows of by itself."""
        if len(self.proofs) < PROOFS_LIMIT:
            self.proofs.append(sentence)

    # --- clients ----------------------------------------------------------------------------------------------------

    def client(self, user: User) -> httpx.AsyncClient:
        """Return the user's own client: authorized, with kept-alive connections and its own cookies."""
        client = self._clients.get(user.id)
        if client is None:
            client = self._clients[user.id] = httpx.AsyncClient(
                base_url=self.url, headers={"Authorization": f"Bearer {user.token}"}, timeout=30, trust_env=False
            )
        return client

    async def get(self, user: User, path: str, **arguments: Any) -> httpx.Response:
        return await self.client(user).get(path, **arguments)

    async def post(self, user: User, path: str, **arguments: Any) -> httpx.Response:
        return await self.client(user).post(path, **arguments)

    @contextlib.asynccontextmanager
    async def socket(self, user: User, path: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket as the user; the token goes in the query, as browsers must."""
        separator = "&" if "?" in path else "?"
        url = f"ws://127.0.0.1:{self.port}{path}{separator}token={user.token}"
        async with websockets.connect(url, proxy=None, open_timeout=30) as connection:
            yield connection

    # --- driving ----------------------------------------------------------------------------------------------------

    async def everybody(self, act: Callable[[User, int], Awaitable[object]], rounds: int = 6) -> list[str]:
        """Let all users act at once, `rounds` times; return the proofs of harm so far."""
        for round in range(rounds):
            await asyncio.gather(*(act(user, round) for user in self.users))
        return self.proofs

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
