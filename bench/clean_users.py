"""What users do to the two clean services: rooms, notes, threads and runs of the chat; orders, articles, messages and more.

Every text that a user writes holds an id that nobody else has, so that the monitor has something to recognise.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.clean_service import ADMIN, ARTICLES, create_app
from bench.inprocess import UnexpectedAnswerError, User, serving
from isolation_monitor.telemetry import IsolationMonitor

ROOMS: Final = 6
ALONE_FOR: Final = 80
"""Half of the users speak in no room before so many requests: what they show there has long been given to them alone."""
QUESTIONS: Final = ("what is my note?", "what is 12 * (3 + 4)?", "what time is it?", "what did I say before?")
EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"

Act = Callable[[User, random.Random], Awaitable[None]]
"""One thing that a user does; it counts its requests itself."""


class Population:
    """The users of one running service."""

    def __init__(self, users: list[User], acts: dict[Act, int], seed: int) -> None:
        self._users = users
        self._acts, self._weights = list(acts), list(acts.values())
        self._dice = random.Random(seed)
        self.unexpected: list[str] = []

    async def requests(self, n: int) -> int:
        """Let everybody act at once until about n requests were sent; return how many were."""
        began = sum(user.requests for user in self._users)

        async def lives(user: User) -> None:
            while sum(user.requests for user in self._users) - began < n:
                act = self._dice.choices(self._acts, self._weights)[0]
                try:
                    await act(user, self._dice)
                except Exception as error:
                    # Also what the service raised: one failure of an overloaded machine must not lose the other requests.
                    self.unexpected.append(f"{act.__name__}: {error!r}"[:300])

        await asyncio.gather(*(lives(user) for user in self._users))
        return sum(user.requests for user in self._users) - began


def phrase() -> str:
    """Return words with an id in them that nobody else has."""
    return f"the lamp {secrets.token_hex(8)} stands on the table in the hall, please somebody fetch it from there tomorrow"


def said(dice: random.Random) -> str:
    """Return what one says in a room: words with an id in them, or plain ones, beside which the speaker's name stands alone."""
    return dice.choice((phrase(), "good morning"))


# --- the chat -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def chat(monitor: IsolationMonitor, folder: Path, users: int, seed: int) -> AsyncIterator[Population]:
    """Run the reference service with so many signed-in users."""
    from chat.app import create_app as create_chat
    from chat.settings import Settings

    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{folder / 'chat.sqlite3'}",
        # SQLite lets its writers wait unfairly: of many that write without a pause, some wait in vain.
        pool_size=4,
        max_overflow=0,
        secret="only-for-the-benchmark",
        word_pause_s=0.0,
    )
    app = create_chat(settings, monitor)
    async with serving(app):
        people = []
        for _ in range(users):
            # A name that looks minted: it is in the frames of rooms, and in answers to the user alone.
            answer = await User(app, "").call("POST", "/api/login", {"name": f"person-{secrets.token_hex(4)}"})
            people.append(User(app, answer["token"], answer["user_id"]))
        acts: dict[Act, int] = {
            _write_note: 10, _read_note: 25, _list_threads: 10, _make_thread: 1, _read_messages: 15, _ask_by_http: 10, _ask_live: 8,
            _talk: 8,
        }  # fmt: skip
        yield Population(people, acts, seed)


def environment_of_chat() -> None:
    """Prepare for the import of `chat`: the application that its module builds for uvicorn shall watch and write nothing."""
    import sys

    os.environ |= {"ISOLATION_MODE": "off", "CHAT_SECRET": "only-for-the-benchmark"}
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))


async def _write_note(user: User, dice: random.Random) -> None:
    await user.call("PUT", "/api/note", {"text": phrase()})


async def _read_note(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/api/note"), user)


async def _list_threads(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/api/threads"), user)


async def _make_thread(user: User, dice: random.Random) -> None:
    await user.call("POST", "/api/threads", {"title": phrase()}, expect=201)


async def _read_messages(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/api/threads/main/messages"), user)


async def _ask_by_http(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("POST", "/api/threads/main/messages", {"text": dice.choice(QUESTIONS)}), user)


async def _ask_live(user: User, dice: random.Random) -> None:
    async with user.socket("/ws") as socket:
        await socket.hear("hello")
        for _ in range(dice.randint(2, 6)):
            socket.say({"type": "message", "text": dice.choice(QUESTIONS)})
            await socket.hear("agent_completed")


async def _talk(user: User, dice: random.Random) -> None:
    """Join a room and speak in it; what others say there comes in between."""
    if user.requests < ALONE_FOR and user.name[-1] in "02468ace":
        await _ask_live(user, dice)
        return
    async with user.socket("/ws") as socket:
        room = f"room {dice.randrange(ROOMS)}"
        socket.say({"type": "join", "room": room})
        await socket.hear("joined")
        for _ in range(dice.randint(2, 6)):
            socket.say({"type": "say", "room": room, "text": said(dice)})
            await socket.hear("room_message")


# --- the other clean service --------------------------------------------------------------------------------------------


@asynccontextmanager
async def shop(monitor: IsolationMonitor, folder: Path, users: int, seed: int) -> AsyncIterator[Population]:
    """Run `clean_service` with so many users, one of them the administrator."""
    named = [f"user-{secrets.token_hex(6)}" for _ in range(users - 1)]
    app = create_app(monitor, folder / "shop.sqlite3", named)
    async with serving(app):
        people = [User(app, name, name) for name in (*named, ADMIN)]
        acts: dict[Act, int] = {
            _me: 25, _feed: 10, _article: 20, _order: 12, _orders: 12, _export: 3, _write_to(named): 6, _messages: 10, _in_room: 4,
            _administer: 6,
        }  # fmt: skip
        yield Population(people, acts, seed)


async def _me(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/me"), user)


async def _feed(user: User, dice: random.Random) -> None:
    await user.call("GET", "/articles")


async def _article(user: User, dice: random.Random) -> None:
    await user.call("GET", f"/articles/{dice.randint(1, ARTICLES)}")


async def _order(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("POST", "/orders", {"what": phrase()}), user)


async def _orders(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/orders"), user)


async def _export(user: User, dice: random.Random) -> None:
    await user.call("GET", "/orders.ndjson")


def _write_to(named: list[str]) -> Act:
    async def write(user: User, dice: random.Random) -> None:
        await user.call("POST", "/messages", {"to": dice.choice(named), "text": phrase()})

    return write


async def _messages(user: User, dice: random.Random) -> None:
    _expect_own(await user.call("GET", "/messages"), user)


async def _in_room(user: User, dice: random.Random) -> None:
    async with user.socket(f"/rooms/{dice.randrange(ROOMS)}") as socket:
        for _ in range(dice.randint(2, 6)):
            socket.say({"id": secrets.token_hex(8), "text": said(dice)})
            await socket.hear("said")


async def _administer(user: User, dice: random.Random) -> None:
    """The administrator looks at everybody's; whoever else tries is refused."""
    is_admin = user.name == ADMIN
    await user.call("GET", dice.choice(("/admin/accounts", "/admin/orders")), expect=200 if is_admin else 403)


def _expect_own(answer: Any, user: User) -> None:
    if answer["user_id"] != user.name:
        raise UnexpectedAnswerError(f"an answer for {answer['user_id']} came to {user.name}: the service itself is not clean")
