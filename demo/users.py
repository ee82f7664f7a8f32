"""The traffic of the demonstration: a population of users who chat, read their notes, talk in rooms and reconnect.

Each one waits for his answers, so a slow service is asked less, not flooded. Everything is counted from the outside.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import statistics
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx2
from websockets.exceptions import WebSocketException

from isolation_monitor.demo.chat_user import RUN_EVENTS, ChatUser, ForeignSighting, Registry, SeenRun

QUESTIONS: Final = ("what is my note?", "please look into my note", "what is 12 * (3 + 4)?", "what time is it?", "what did I say before?")
ROOM: Final = "lounge"
UNREACHABLE: Final = (OSError, WebSocketException, TimeoutError, httpx2.HTTPError)
"""What a client sees while the service restarts."""
REMEMBERED: Final = 5_000
"""Sightings, lost runs and latencies are kept up to this number; the counts go on."""

# Share of each action. HTTP has 30 % of all; only those who joined the room talk in it.
ACTIONS: Final = {
    "ask": 0.66,
    "say": 0.03,
    "reconnect": 0.01,
    "ask_by_http": 0.12,
    "read_note": 0.13,
    "list_threads": 0.04,
    "mistype_thread": 0.01,
}


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run whose end its user never saw. `time` is when the user gave up, Unix seconds."""

    time: float
    user_name: str
    run_id: str | None
    missing: tuple[str, ...]


class Population:
    """Users of the chat service. `start` while no fault is on; the counts are public attributes, read them at any time.

    Args:
        base_url: of the chat service, such as `http://127.0.0.1:8000`.
        users: how many.
        requests_per_s: what all of them together aim at, WebSocket messages and HTTP requests.
        in_room: how many of them talk in a shared room.
        run_timeout_s: how long a user waits for the end of a run before he counts it as lost.
        seed: of the order of the actions.
    """

    def __init__(
        self,
        base_url: str,
        *,
        users: int = 30,
        requests_per_s: float = 80.0,
        in_room: int = 4,
        run_timeout_s: float = 5.0,
        seed: int = 1,
    ) -> None:
        self.base_url = base_url
        self._think_s = users / requests_per_s
        self._in_room = in_room
        self._run_timeout_s = run_timeout_s
        self._random = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self.registry = Registry()
        tls = ssl.create_default_context()
        prefix = secrets.token_hex(3)
        self.users = [
            ChatUser(base_url, f"user-{prefix}-{n:02}", self.registry, on_foreign=self._saw_foreign, on_frame=self._saw_frame, tls=tls)
            for n in range(users)
        ]
        self.foreign_seen: deque[ForeignSighting] = deque(maxlen=REMEMBERED)
        self.lost_runs: deque[LostRun] = deque(maxlen=REMEMBERED)
        self.first_events: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        """(Unix seconds of the question, seconds until its first event)."""
        self.run_durations_s: deque[float] = deque(maxlen=REMEMBERED)
        self.http_durations_s: deque[float] = deque(maxlen=REMEMBERED)
        self.requests = 0
        self.websocket_messages = 0
        self.http_requests = 0
        self.runs = 0
        self.answers = 0
        self.wrong_answers = 0
        self.lost = 0
        self.out_of_order_runs = 0
        self.reconnects = 0
        self.unreachable = 0
        """How often the service could not be reached."""
        self.events: Counter[str] = Counter()
        self.waiting_since: dict[object, float] = {}
        """Unix seconds of the beginning of each HTTP request that is not answered yet."""
        self.http_errors: Counter[int] = Counter()
        """Answers with a status that the user did not earn, by status."""

    async def __aenter__(self) -> Population:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Sign everybody in, connect everybody, then let them begin.

        Raises:
            httpx2.HTTPError, OSError, WebSocketException, TimeoutError: the service cannot be used.
        """
        try:
            for some in _groups(self.users, 8):
                await asyncio.gather(*(user.sign_in() for user in some))
                await asyncio.gather(*(user.connect() for user in some))
            for user in self.users[: self._in_room]:
                await user.send({"type": "join", "room": ROOM})
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._live(user, n < self._in_room)) for n, user in enumerate(self.users)]

    async def stop(self) -> None:
        """Let everybody leave. Counts stay readable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for user in self.users:
            with suppress(*UNREACHABLE):
                await user.close()

    async def reload(self) -> None:
        """Let everybody look at his own once more, as users do after a disturbance."""
        for some in _groups(self.users, 8):
            with suppress(*UNREACHABLE):
                await asyncio.gather(*(self._by_http(user, action) for user in some for action in ("read_note", "list_threads")))

    def check(self) -> None:
        """Raise what ended a user's task, if anything did: a silent population would prove nothing."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def stats(self) -> dict[str, Any]:
        """Return all counts, and latencies in milliseconds (None before the first), as plain JSON values."""
        return {
            "users": len(self.users),
            "requests": self.requests,
            "websocket_messages": self.websocket_messages,
            "http_requests": self.http_requests,
            "runs": self.runs,
            "answers": self.answers,
            "wrong_answers": self.wrong_answers,
            "lost_runs": self.lost,
            "out_of_order_runs": self.out_of_order_runs,
            "events": dict(self.events),
            "http_errors": {str(status): n for status, n in self.http_errors.items()},
            "reconnects": self.reconnects,
            "unreachable": self.unreachable,
            "first_event_ms": _quantiles([s for _, s in self.first_events]),
            "run_ms": _quantiles(self.run_durations_s),
            "http_ms": _quantiles(self.http_durations_s),
        }

    # --- one user's life --------------------------------------------------------------------------------------------

    async def _live(self, user: ChatUser, is_in_room: bool) -> None:
        actions, weights = list(ACTIONS), list(ACTIONS.values())
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._think_s))
            action = self._random.choices(actions, weights)[0]
            try:
                if action == "reconnect" or user.worker is None:
                    await self._reconnect(user, is_in_room)
                elif action == "say" and is_in_room:
                    await self._say(user)
                elif action in ("ask", "say"):
                    await self._ask(user)
                else:
                    await self._by_http(user, action)
            except UNREACHABLE:
                self.unreachable += 1
                user.worker = None
                await asyncio.sleep(0.2 + self._random.random() * 0.3)

    async def _reconnect(self, user: ChatUser, is_in_room: bool) -> None:
        await user.connect()
        self.reconnects += 1
        if is_in_room:
            await user.send({"type": "join", "room": ROOM})

    async def _say(self, user: ChatUser) -> None:
        self.requests += 1
        self.websocket_messages += 1
        await user.send({"type": "say", "room": ROOM, "text": "good morning"})

    async def _ask(self, user: ChatUser) -> None:
        self.requests += 1
        self.websocket_messages += 1
        seen = await user.ask(self._random.choice(QUESTIONS), self._run_timeout_s)
        self.runs += 1
        if seen.first_event_s is not None:
            self.first_events.append((seen.asked_at, seen.first_event_s))
        if seen.text is None:
            self.lost += 1
            missing = tuple(event for event in RUN_EVENTS if event not in seen.events)
            self.lost_runs.append(LostRun(time.time(), user.name, seen.run_id, missing))
        else:
            self._answered(seen)

    def _answered(self, seen: SeenRun) -> None:
        self.answers += 1
        self.out_of_order_runs += not seen.is_complete
        if seen.duration_s is not None:
            self.run_durations_s.append(seen.duration_s)

    async def _by_http(self, user: ChatUser, action: str) -> None:
        self.requests += 1
        self.http_requests += 1
        started = time.perf_counter()
        self.waiting_since[started, user] = time.time()
        try:
            response = await self._requested(user, action)
        finally:
            del self.waiting_since[started, user]
        self.http_durations_s.append(time.perf_counter() - started)
        if response.status_code != (404 if action == "mistype_thread" else 200):
            self.http_errors[response.status_code] += 1

    async def _requested(self, user: ChatUser, action: str) -> httpx2.Response:
        if action == "ask_by_http":
            response = await user.ask_by_http(self._random.choice(QUESTIONS))
            self.runs += 1
            self.answers += response.status_code == 200
            return response
        if action == "mistype_thread":
            return await user.get("/api/threads/t_mistyped/messages")
        return await user.get("/api/note" if action == "read_note" else "/api/threads")

    # --- what they see ----------------------------------------------------------------------------------------------

    def _saw_foreign(self, sighting: ForeignSighting) -> None:
        self.wrong_answers += 1
        self.foreign_seen.append(sighting)

    def _saw_frame(self, frame: dict[str, Any]) -> None:
        self.events[str(frame.get("type"))] += 1


def _groups(users: list[ChatUser], size: int) -> list[list[ChatUser]]:
    return [users[n : n + size] for n in range(0, len(users), size)]


def _quantiles(values_s: deque[float] | list[float]) -> dict[str, float] | None:
    """Return median and 95th percentile in milliseconds; None for no values."""
    ordered = sorted(values_s)
    if not ordered:
        return None
    return {"p50": round(statistics.median(ordered) * 1000, 1), "p95": round(ordered[int(len(ordered) * 0.95)] * 1000, 1)}
