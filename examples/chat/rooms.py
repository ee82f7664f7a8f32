"""Shared rooms: the one place where users mean to see each other's words.

Rooms live in one worker: members who are connected to different workers do not meet. Run one worker, route a room's
users to one worker, or put a broker (PostgreSQL NOTIFY, Redis) behind `say` when that is not enough.
"""

from __future__ import annotations

import asyncio
from typing import Final

from chat.connections import Connection, ConnectionGoneError, Frame

ROOMS_PER_CONNECTION: Final = 20


class NotAMemberError(Exception):
    """Only members may speak in a room."""


class TooManyRoomsError(Exception):
    """A connection can be in `ROOMS_PER_CONNECTION` rooms at once."""


class Rooms:
    """Who is in which room, in this worker."""

    def __init__(self) -> None:
        self._members: dict[str, dict[int, Connection]] = {}

    def join(self, room: str, connection: Connection) -> int:
        """Make the connection a member and return how many members the room has now.

        Raises:
            TooManyRoomsError: it is in too many rooms already.
        """
        if sum(connection.id in members for members in self._members.values()) >= ROOMS_PER_CONNECTION:
            raise TooManyRoomsError(f"you are in {ROOMS_PER_CONNECTION} rooms already: leave one by reconnecting")
        members = self._members.setdefault(room, {})
        members[connection.id] = connection
        return len(members)

    def leave_all(self, connection: Connection) -> None:
        for room in [room for room, members in self._members.items() if connection.id in members]:
            del self._members[room][connection.id]
            if not self._members[room]:
                del self._members[room]

    async def say(self, room: str, speaker: Connection, text: str) -> None:
        """Send a text to every member of the room, the speaker included.

        Raises:
            NotAMemberError: the speaker has not joined the room.
        """
        members = self._members.get(room, {})
        if speaker.id not in members:
            raise NotAMemberError(f"join the room {room!r} before you speak in it")
        frame: Frame = {"type": "room_message", "room": room, "author": speaker.user.name, "text": text}
        await asyncio.gather(*(self._tell(member, frame) for member in list(members.values())))

    async def _tell(self, member: Connection, frame: Frame) -> None:
        try:
            await member.send(frame)
        except ConnectionGoneError:
            self.leave_all(member)
