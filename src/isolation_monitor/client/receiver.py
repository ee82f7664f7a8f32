"""What arrived: gaps, duplicates and disorder in the numbers of one connection, and each event once over all connections.

No I/O: frames go in as text or bytes, events and the answers to the service come out. The words on the wire are those of
docs/decisions/0009-delivery-is-negotiated.md. Frames without an envelope are events, too; nobody can say whether some are missing.
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

MEMBER: Final = "isolation"
REMEMBERED_IDS: Final = 20_000
"""Events whose ids are remembered, so that one that is sent again is shown once; far more than a service keeps for a user."""
REMEMBERED_STREAMS: Final = 8
"""Lost connections in a row that are asked for."""
DEFAULT_ACK_MS: Final = 250


@dataclass(frozen=True, slots=True)
class Event:
    """One frame of the application. `data` is the frame as it was sent: text, or bytes."""

    data: str | bytes
    id: str | None = None
    """None for a frame without an envelope."""
    conn: int | None = None
    run: int | None = None
    owner: str | None = None
    epoch: str | None = None
    """Names the process that sent it."""


@dataclass(slots=True)
class Report:
    """What the client saw, in total of all its connections."""

    events: int = 0
    """Events with an envelope that were handed on, each once."""
    bare: int = 0
    """Frames without one."""
    gaps: int = 0
    """Numbers that were missing when a later one arrived."""
    disorder: int = 0
    """Numbers that arrived after a later one."""
    duplicates: int = 0
    """Events that arrived more than once; the second was not handed on."""
    connections: int = 0
    replayed: int = 0
    """Events that the service said it would send again."""
    lost: int = 0
    """Events that the service said it gave up."""
    unknown_resumes: int = 0
    """Times that nobody knew what was missed: another worker, or too late."""


class Receiver:
    """The numbers of the current connection, and the ids of all."""

    def __init__(self) -> None:
        self.report = Report()
        self.ack_ms = DEFAULT_ACK_MS
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._missed: list[tuple[str, int]] = []
        """What is to be asked for, oldest first: streams of lost connections, and how far each got."""
        self._begin(None)

    def _begin(self, stream: str | None) -> None:
        self._stream = stream
        self._floor = 0
        self._highest = 0
        self._beyond: set[int] = set()
        self._told = 0
        self._gaps = self._duplicates = self._disorder = 0

    @property
    def is_current(self) -> bool:
        """Whether a connection is there and nothing of an earlier one is still to be asked for."""
        return self._stream is not None and not self._missed

    def disconnected(self) -> None:
        """The connection is lost."""
        if self._stream is not None:
            self._missed = [*self._missed, (self._stream, self._floor)][-REMEMBERED_STREAMS:]
        self._begin(None)

    def heard(self, frame: str | bytes) -> tuple[Event | None, str | None]:
        """Take a frame; return the event that it is, and what to answer at once."""
        content = _envelope_of(frame)
        if content is None:
            self.report.bare += 1
            return Event(frame), None
        fields, said = content
        if len(fields) == 1 and "conn" not in said:
            return None, self._own(said)
        return self._event(str(frame), fields, said), None

    def acknowledgement(self) -> str | None:
        """Return what to tell the service by now; None when there is no news."""
        if self._floor <= self._told:
            return None
        self._told = self._floor
        counts = {"gaps": self._gaps, "duplicates": self._duplicates, "disorder": self._disorder}
        return _own_frame({"ack": self._floor, **counts})

    def _own(self, said: dict[str, Any]) -> str | None:
        welcome, resumed = said.get("welcome"), said.get("resumed")
        if isinstance(welcome, dict):
            self._begin(str(welcome.get("stream")))
            self.report.connections += 1
            ack_ms = welcome.get("ack_ms")
            if isinstance(ack_ms, (int, float)) and ack_ms > 0:
                self.ack_ms = int(ack_ms)
            return self._hello()
        if isinstance(resumed, dict):
            # Only now: had the connection been lost before, the same hello would have to be said again.
            del self._missed[:1]
            self.report.replayed += int(resumed.get("replayed") or 0)
            lost = resumed.get("lost")
            if lost is None:
                self.report.unknown_resumes += 1
            else:
                self.report.lost += int(lost)
            return self._hello()
        return None

    def _hello(self) -> str | None:
        if not self._missed:
            return None
        stream, conn = self._missed[0]
        return _own_frame({"hello": {"stream": stream, "conn": conn}})

    def _event(self, frame: str, fields: dict[str, Any], envelope: dict[str, Any]) -> Event | None:
        conn, id = envelope.get("conn"), envelope.get("id")
        if not isinstance(conn, int) or not isinstance(id, str):
            # No envelope that we know: the application's own.
            self.report.bare += 1
            return Event(frame)
        self._count(conn)
        if id in self._ids:
            self.report.duplicates += 1
            return None
        self._ids[id] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)
        self.report.events += 1
        run, data = envelope.get("run"), _unwrapped(frame, fields, envelope.get("as"))
        return Event(data, id, conn, run if isinstance(run, int) else None, envelope.get("owner"), envelope.get("epoch"))

    def _count(self, conn: int) -> None:
        if conn <= self._floor or conn in self._beyond:
            self._duplicates += 1
            return
        if conn < self._highest:
            self._disorder += 1
            self.report.disorder += 1
        elif conn > self._highest + 1:
            self._gaps += conn - self._highest - 1
            self.report.gaps += conn - self._highest - 1
        self._highest = max(self._highest, conn)
        self._beyond.add(conn)
        while self._floor + 1 in self._beyond:
            self._floor += 1
            self._beyond.discard(self._floor)


def _envelope_of(frame: str | bytes) -> tuple[dict[str, Any], dict[str, Any]] | None:
    if not isinstance(frame, str) or f'"{MEMBER}"' not in frame[:32]:
        return None
    try:
        fields = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    said = fields.get(MEMBER) if isinstance(fields, dict) else None
    return (fields, said) if isinstance(said, dict) else None


def _unwrapped(frame: str, fields: dict[str, Any], form: object) -> str | bytes:
    """Return the application's own frame: the object without the envelope, or what the application wrapped."""
    data = fields.get("data")
    if form == "text" and isinstance(data, str):
        return data
    if form == "base64" and isinstance(data, str):
        return base64.b64decode(data)
    # The envelope is the first member; cut out rather than dumped again, so that the rest stays as it was sent.
    start = frame.index("{") + 1
    _, end = json.JSONDecoder().raw_decode(frame, frame.index(":", start) + 1)
    rest = frame[end:]
    return frame[:start] + (rest[1:] if rest.startswith(",") else rest)


def _own_frame(said: dict[str, Any]) -> str:
    return json.dumps({MEMBER: said}, separators=(",", ":"))
