"""One user of the chat service, with a real WebSocket and real HTTP, who looks at everything he receives.

His note is a private phrase that nobody can guess. Whoever sees another one's phrase, or another one's id where his own
belongs, has seen a leak: that is a `ForeignSighting`, the proof from outside that needs no instrument inside the service.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

RUN_EVENTS: Final = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
_PHRASE: Final = re.compile(r"phrase-[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class ForeignSighting:
    """Something of `victim_name` that `seen_by_name` received. `time` is Unix seconds; `what` is the text or id that was seen."""

    time: float
    victim_name: str
    seen_by_name: str
    where: str
    """`frame <type>` or `http <path>`."""
    what: str


@dataclass(slots=True)
class SeenRun:
    """One run as its user saw it. Times are seconds since the question left; None where nothing came."""

    user_name: str
    asked_at: float
    """Unix seconds."""
    run_id: str | None = None
    events: list[str] = field(default_factory=list)
    text: str | None = None
    first_event_s: float | None = None
    duration_s: float | None = None

    @property
    def is_complete(self) -> bool:
        return tuple(self.events) == RUN_EVENTS


class Registry:
    """Whose phrase and whose id is whose: known to the demonstration only, never to the service."""

    def __init__(self) -> None:
        self._name_by_phrase: dict[str, str] = {}
        self._name_by_id: dict[str, str] = {}

    def new_phrase(self, name: str) -> str:
        phrase = f"phrase-{secrets.token_hex(12)}"
        self._name_by_phrase[phrase] = name
        return phrase

    def add_id(self, user_id: str, name: str) -> None:
        self._name_by_id[user_id] = name

    def foreign_in(self, text: str, user_id: object, own_name: str) -> tuple[str, str] | None:
        """Return (victim's name, what was seen) if a text, or the user id beside it, is somebody else's; else None."""
        for phrase in _PHRASE.findall(text):
            if (name := self._name_by_phrase.get(phrase)) not in (None, own_name):
                return str(name), phrase
        if isinstance(user_id, str) and (name := self._name_by_id.get(user_id)) not in (None, own_name):
            return str(name), user_id
        return None


class ChatUser:
    """One user. `sign_in` first, then `connect`, `ask` and the rest; `close` at the end.

    Args:
        on_foreign: called with each foreign sighting, at once.
        on_frame: called with each frame received on the WebSocket.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        registry: Registry,
        *,
        on_foreign: Callable[[ForeignSighting], None],
        on_frame: Callable[[dict[str, Any]], None] = lambda _: None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 15.0,
    ) -> None:
        self.name = name
        self.user_id = ""
        self.token = ""
        self.worker: int | None = None
        """Process id of the worker that holds the WebSocket."""
        self._registry = registry
        self.phrase = registry.new_phrase(name)
        self._on_foreign = on_foreign
        self._on_frame = on_frame
        self._socket_url = base_url.replace("http", "ws", 1).rstrip("/") + "/ws"
        # A client of his own: no connection is ever shared by two users. One TLS context for all: making one takes long.
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=timeout_s, verify=tls or ssl.create_default_context())
        self._timeout_s = timeout_s
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def sign_in(self) -> None:
        """Log in and store the private phrase as the note. Do so while no fault is on: a fault may misplace the note.

        Raises:
            httpx2.HTTPError: the service did not answer as it should.
        """
        answer = (await self._http.post("/api/login", json={"name": self.name})).raise_for_status().json()
        self.user_id, self.token = answer["user_id"], answer["token"]
        self._registry.add_id(self.user_id, self.name)
        self._http.headers["Authorization"] = f"Bearer {self.token}"
        (await self._http.put("/api/note", json={"text": self.phrase})).raise_for_status()

    async def get(self, path: str) -> httpx2.Response:
        """GET a path as this user, and look at the answer."""
        return self._looked_at(await self._http.get(path), path)

    async def ask_by_http(self, text: str, thread_id: str = "main") -> httpx2.Response:
        """Ask the agent within one HTTP request."""
        path = f"/api/threads/{thread_id}/messages"
        return self._looked_at(await self._http.post(path, json={"text": text}), path)

    def _looked_at(self, response: httpx2.Response, path: str) -> httpx2.Response:
        user_id = None
        with suppress(ValueError, AttributeError):
            user_id = response.json().get("user_id")
        self._look(response.text, user_id, f"http {path}")
        return response

    # --- WebSocket --------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the WebSocket; a socket that is open already is closed first.

        Raises:
            OSError, websockets.exceptions.WebSocketException, TimeoutError: the service cannot be reached or said nothing.
        """
        await self.disconnect()
        self._frames = asyncio.Queue()
        self._socket = await connect(
            f"{self._socket_url}?token={self.token}", open_timeout=self._timeout_s, close_timeout=2, compression=None
        )
        self._reader = asyncio.create_task(self._read(self._socket, self._frames))
        hello = await self.next_frame(self._timeout_s)
        self.worker = hello.get("worker")

    async def disconnect(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def send(self, frame: dict[str, Any]) -> None:
        """Send a frame.

        Raises:
            ConnectionError: the WebSocket is not open.
        """
        if self._socket is None:
            raise ConnectionError(f"{self.name} is not connected")
        try:
            await self._socket.send(json.dumps(frame))
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from error

    async def next_frame(self, timeout_s: float) -> dict[str, Any]:
        """Return the next frame, whatever it is.

        Raises:
            TimeoutError: none came in time.
            ConnectionError: the WebSocket was closed.
        """
        async with asyncio.timeout(timeout_s):
            frame = await self._frames.get()
        if frame is None:
            raise ConnectionError(f"the WebSocket of {self.name} was closed")
        return frame

    async def ask(self, text: str, timeout_s: float = 5.0) -> SeenRun:
        """Ask the agent over the WebSocket and return what came within `timeout_s` seconds of the question.

        Raises:
            ConnectionError: the WebSocket was closed meanwhile.
        """
        started = time.perf_counter()
        seen = SeenRun(self.name, time.time())
        await self.send({"type": "message", "text": text})
        with suppress(TimeoutError):
            while seen.text is None:
                frame = await self.next_frame(max(0.0, started + timeout_s - time.perf_counter()))
                self._follow(seen, frame, time.perf_counter() - started)
        return seen

    def _follow(self, seen: SeenRun, frame: dict[str, Any], elapsed_s: float) -> None:
        kind, run_id = frame.get("type"), frame.get("run_id")
        if seen.run_id is None and kind == "agent_started" and frame.get("user_id") == self.user_id:
            seen.run_id = run_id
            seen.first_event_s = elapsed_s
        if run_id is None or run_id != seen.run_id:
            return
        seen.events.append(str(kind))
        if kind in ("agent_completed", "agent_error"):
            seen.text = str(frame.get("text", ""))
            seen.duration_s = elapsed_s

    async def _read(self, socket: ClientConnection, frames: asyncio.Queue[dict[str, Any] | None]) -> None:
        try:
            async for text in socket:
                frame = json.loads(text)
                self._look(str(text), frame.get("user_id"), f"frame {frame.get('type')}")
                self._on_frame(frame)
                frames.put_nowait(frame)
        except ConnectionClosed:
            pass
        finally:
            frames.put_nowait(None)

    async def close(self) -> None:
        await self.disconnect()
        await self._http.aclose()

    def _look(self, text: str, user_id: object, where: str) -> None:
        found = self._registry.foreign_in(text, user_id, self.name)
        if found is not None:
            self._on_foreign(ForeignSighting(time.time(), found[0], self.name, where, found[1]))
