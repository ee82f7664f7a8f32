"""Open WebSockets of this worker, by connection id. An event goes to the connection that asked for it, and to no other."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from chat.store import User

SEND_LIMIT_S: Final = 10.0
"""A client that takes no data for so long is given up, so that it cannot hold up others."""

Frame = dict[str, Any]
"""A JSON object with at least `type`. Any: its fields differ by type."""

_ids = itertools.count(1)


class ConnectionGoneError(Exception):
    """The client is no longer there."""


class Connection:
    """One open WebSocket of one user."""

    def __init__(self, user: User, socket: WebSocket) -> None:
        self.id = next(_ids)
        self.user = user
        self.socket = socket

    async def send(self, frame: Frame) -> None:
        """Send one frame.

        Raises:
            ConnectionGoneError: the client has left or takes no data.
        """
        if self.socket.application_state is not WebSocketState.CONNECTED:
            raise ConnectionGoneError
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                await self.socket.send_text(json.dumps(frame, ensure_ascii=False))
        except (WebSocketDisconnect, TimeoutError, RuntimeError) as error:
            # RuntimeError: Starlette's word for "already closed" when the close came while this frame was on its way.
            raise ConnectionGoneError from error


class Connections:
    """The registry of this worker."""

    def __init__(self) -> None:
        self._by_id: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, user: User, socket: WebSocket) -> Connection:
        connection = Connection(user, socket)
        self._by_id[connection.id] = connection
        return connection

    def remove(self, connection: Connection) -> None:
        self._by_id.pop(connection.id, None)

    async def send(self, connection_id: int, frame: Frame) -> None:
        """Send a frame to one connection.

        Raises:
            ConnectionGoneError: it is closed or unknown.
        """
        connection = self._by_id.get(connection_id)
        if connection is None:
            raise ConnectionGoneError
        await connection.send(frame)
