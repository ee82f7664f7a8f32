"""The WebSocket side: one connection of one user, one message at a time.

From the client: `{"type": "message", "text", "thread_id"?}`, `{"type": "join", "room"}`, `{"type": "say", "room", "text"}`.
To the client: `hello`, the events of its runs, `joined`, `room_message`, and `error` for what could not be understood.
Close codes: 4401 no valid token; 1012 (by the server) the service restarts: connect again.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from chat.auth import NotSignedInError, token_of
from chat.connections import Connection, ConnectionGoneError
from chat.parts import Parts
from chat.rooms import NotAMemberError, TooManyRoomsError
from chat.store import MAIN_THREAD, ThreadNotFoundError

router = APIRouter()

CLOSE_NOT_SIGNED_IN: Final = 4401
LONGEST_TEXT: Final = 4_000
LONGEST_NAME: Final = 60


class BadMessageError(ValueError):
    """The client's message cannot be understood; the text says why."""


@router.websocket("/ws")
async def chat_socket(socket: WebSocket) -> None:
    parts: Parts = socket.app.state.parts
    try:
        # Straight from the handshake's own token, and kept in a local name: a connection outlives many contexts.
        user = parts.tokens.user_of(token_of(socket.scope))
    except NotSignedInError as error:
        # Accept first: a browser cannot read the reason of a refused handshake.
        await socket.accept()
        await socket.close(CLOSE_NOT_SIGNED_IN, str(error))
        return
    await socket.accept()
    connection = parts.connections.add(user, socket)
    try:
        await connection.send({"type": "hello", "user_id": user.id, "name": user.name, "worker": os.getpid()})
        while True:
            await _handle(parts, connection, await socket.receive_text())
    except (WebSocketDisconnect, ConnectionGoneError):
        return
    finally:
        parts.rooms.leave_all(connection)
        parts.connections.remove(connection)


async def _handle(parts: Parts, connection: Connection, text: str) -> None:
    try:
        message = _parse(text)
        kind = message["type"]
        if kind == "message":
            await parts.runner.run_live(connection, _text(message, "text"), _text(message, "thread_id", LONGEST_NAME, MAIN_THREAD))
        elif kind == "join":
            room = _text(message, "room", LONGEST_NAME)
            members = parts.rooms.join(room, connection)
            await connection.send({"type": "joined", "room": room, "members": members})
        elif kind == "say":
            await parts.rooms.say(_text(message, "room", LONGEST_NAME), connection, _text(message, "text"))
        else:
            raise BadMessageError(f"unknown type {kind!r}: use message, join or say")
    except (BadMessageError, ThreadNotFoundError, NotAMemberError, TooManyRoomsError) as error:
        await connection.send({"type": "error", "text": str(error)})


def _parse(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessageError("this is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessageError('send a JSON object with a "type"')
    return message


def _text(message: dict[str, Any], field: str, longest: int = LONGEST_TEXT, default: str = "") -> str:
    value = message.get(field, default)
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise BadMessageError(f'"{field}" must be a text of 1 to {longest} characters')
    return value.strip()
