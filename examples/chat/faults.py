"""Six real defects that can be switched on inside the running service, to prove that they are found.

This file exists for demonstrations and tests; it is imported only when CHAT_FAULTS=1. Copy anything but this.
Each defect is a class that replaces a sound one and breaks it in a way that has happened to real services. The switches
are one small JSON file that all workers read, so that a fault switched on through one worker is on in every one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI, HTTPException
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Receive, Scope, Send

from chat.agents import Agent, AgentFactory
from chat.auth import Tokens, current_user
from chat.connections import Connection, ConnectionGoneError, Connections, Frame
from chat.database import Database
from chat.parts import Kinds
from chat.store import Line, User
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.flags.provider import IsolationFlagProvider

logger = logging.getLogger("chat")

SHARED_AGENT: Final = "shared-agent"
WRONG_SOCKET: Final = "wrong-socket"
INHERITED_CONTEXT: Final = "inherited-context"
SESSION_LEAK: Final = "session-leak"
SLOW_FACTORY: Final = "slow-factory"
LOST_EVENT: Final = "lost-event"
FAULTS: Final = (SHARED_AGENT, WRONG_SOCKET, INHERITED_CONTEXT, SESSION_LEAK, SLOW_FACTORY, LOST_EVENT)

RELEASE: Final = "agents-v2"
"""The flag of a release that shares one agent among all who have it."""
RELEASED: Final = 0.0
"""In place of the time of a switch-on."""
SLOW_CREATION_S: Final = 0.04
_Job = tuple[Scope, Receive, Send, "asyncio.Future[None]"]

LEAKED_SESSIONS_LIMIT: Final = 12
"""A worker keeps at most so many sessions per switch-on: the pool is larger, so the service goes on while it leaks."""
WORKER_TASKS: Final = 3


class Switchboard:
    """Which faults are on, shared by all workers of this host through one file: `{fault: {"since", "harmed_at"}}`."""

    def __init__(self, file: Path, log: Path | None) -> None:
        self._file = file
        self._log = log
        self._seen: tuple[int, int, int] | None = None
        self._state: dict[str, dict[str, float | None]] = {}

    def is_on(self, fault: str) -> bool:
        """True while the fault is on. Costs one stat of a file."""
        return fault in self.state()

    def since(self, fault: str) -> float | None:
        """Return when the fault was switched on (Unix seconds), which also tells one switch-on from the next; None while off."""
        return self.state().get(fault, {}).get("since")

    def state(self) -> dict[str, dict[str, float | None]]:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            self._state = {}
            return self._state
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._state = json.loads(self._file.read_text())
            self._seen = seen
        return self._state

    def switch_on(self, fault: str) -> None:
        """Switch one fault on, anew when it was on already."""
        with self._locked() as state:
            state[fault] = {"since": time.time(), "harmed_at": None}

    def heal(self) -> None:
        """Switch every fault off."""
        with self._locked() as state:
            state.clear()

    def harmed(self, fault: str) -> None:
        """Note that the fault has now wronged somebody; the first such act of all workers since its switch-on is logged."""
        if (entry := self.state().get(fault)) is None or entry["harmed_at"] is not None:
            return
        now = time.time()
        with self._locked() as state:
            if (entry := state.get(fault)) is None or entry["harmed_at"] is not None:
                return
            entry["harmed_at"] = now
            logger.warning("fault %s did its first harm", fault)
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(json.dumps({"fault": fault, "time": now, "pid": os.getpid()}) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[dict[str, dict[str, float | None]]]:
        """The state, read under a lock of all workers, and written back whole."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._seen = None
            state = self.state()
            yield state
            draft = self._file.with_suffix(f".{os.getpid()}.draft")
            draft.write_text(json.dumps(state))
            draft.replace(self._file)


class SharedAgents(AgentFactory):
    """`shared-agent`: one instance for everybody, "because making it is expensive". `slow-factory`: making it is.

    The cached agent keeps the user, note and history of the one it was made for, and answers everybody with them.
    """

    def __init__(self, board: Switchboard, has_release: Callable[[User], bool], word_pause_s: float) -> None:
        """`has_release`: whether a user has the release `agents-v2`, which came with `shared-agent`."""
        super().__init__(word_pause_s)
        self._board = board
        self._has_release = has_release
        self._cached: Agent | None = None
        self._cached_since: float | None = None

    async def create(self, user: User, note: str, history: Sequence[Line]) -> Agent:
        if self._board.is_on(SLOW_FACTORY):
            # The prompt is fetched from afar for every single agent.
            await asyncio.sleep(SLOW_CREATION_S)
            self._board.harmed(SLOW_FACTORY)
        since = self._board.since(SHARED_AGENT)
        if since is None and self._has_release(user):
            since = RELEASED
        if since is None:
            if self._cached_since != RELEASED:
                self._cached = None
            return await super().create(user, note, history)
        if self._cached is None or self._cached_since != since:
            self._cached, self._cached_since = await super().create(user, note, history), since
        elif self._cached.user.id != user.id:
            self._board.harmed(SHARED_AGENT)
        return self._cached


class CarelessConnections(Connections):
    """`wrong-socket`: a fan-out to "the user's newest tab" that forgot to ask whose tab it is.

    `lost-event`: the last frame fails to serialise, and a handler that is too wide swallows it.
    """

    def __init__(self, board: Switchboard) -> None:
        super().__init__()
        self._board = board

    async def send(self, connection_id: int, frame: Frame) -> None:
        if frame["type"] == "agent_completed" and self._board.is_on(LOST_EVENT):
            try:
                frame = {**frame, "finished_at": json.dumps(object())}
            except Exception:
                self._board.harmed(LOST_EVENT)
                return
        await super().send(connection_id, frame)
        if frame["type"] == "tool_completed" and self._board.is_on(WRONG_SOCKET):
            await self._send_to_newest_tab(connection_id, frame)

    async def _send_to_newest_tab(self, connection_id: int, frame: Frame) -> None:
        newest: Connection = self._by_id[max(self._by_id)]
        if newest.id == connection_id:
            return
        with contextlib.suppress(ConnectionGoneError):
            await newest.send(frame)
            if newest.user.id != frame["user_id"]:
                self._board.harmed(WRONG_SOCKET)


class RememberingTokens(Tokens):
    """`inherited-context`: "the user is known already" - true within a request, until a context outlives one.

    Harmless by itself; together with `WorkerTasks` the user of an earlier request answers for this one.
    """

    def __init__(self, board: Switchboard, secret: str, lifetime_s: float) -> None:
        super().__init__(secret, lifetime_s)
        self._board = board

    async def user_of_request(self, scope: MutableMapping[str, Any]) -> User:
        known = current_user.get()
        user = await super().user_of_request(scope)
        if known is None or not self._board.is_on(INHERITED_CONTEXT):
            return user
        current_user.set(known)
        if known.id != user.id:
            self._board.harmed(INHERITED_CONTEXT)
        return known


class WorkerTasks:
    """`inherited-context`: HTTP requests are handed to a few long-lived tasks "to limit concurrency".

    A task has one context for its whole life, so what one request sets is still there for the next.
    Stands outside everything, the monitor included, as a server's own worker pool would.
    """

    def __init__(self, app: ASGIApp, board: Switchboard) -> None:
        self._app = app
        self._board = board
        self._queue: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        since = self._board.since(INHERITED_CONTEXT)
        if since != self._since:
            self._since = since
            self._renew(WORKER_TASKS if since is not None else 0)
        if since is None or scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((scope, receive, send, done))
        await done

    async def _work(self, queue: asyncio.Queue[_Job | None]) -> None:
        while (job := await queue.get()) is not None:
            scope, receive, send, done = job
            try:
                await self._app(scope, receive, send)
            except Exception as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(None)

    def _renew(self, tasks: int) -> None:
        """Let the tasks of the last switch-on end after their work, and start new ones, whose context knows nobody yet."""
        for _ in self._tasks:
            self._queue.put_nowait(None)
        self._queue = asyncio.Queue()
        for _ in range(tasks):
            task = asyncio.create_task(self._work(self._queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class KeepingDatabase(Database):
    """`session-leak`: a unit of work that fails is kept "for the post-mortem", session and all, and reported as a 500."""

    def __init__(self, board: Switchboard, url: str, *, pool_size: int, max_overflow: int) -> None:
        super().__init__(url, pool_size=pool_size, max_overflow=max_overflow)
        self._board = board
        self._failed: list[tuple[AsyncSession, Exception]] = []
        self._failed_since: float | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        await self._let_go_when_switched()
        if self._failed_since is None or len(self._failed) >= LEAKED_SESSIONS_LIMIT:
            async with super().session() as session:
                yield session
            return
        session = self._sessions()
        try:
            yield session
            await session.commit()
        except Exception as error:
            self._failed.append((session, error))
            self._board.harmed(SESSION_LEAK)
            raise RuntimeError("the unit of work failed; kept for the post-mortem") from error
        except BaseException:
            await session.close()
            raise
        await session.close()

    async def ping(self) -> None:
        await self._let_go_when_switched()
        await super().ping()

    async def close(self) -> None:
        await self._let_go()
        await super().close()

    async def _let_go_when_switched(self) -> None:
        since = self._board.since(SESSION_LEAK)
        if since != self._failed_since:
            self._failed_since = since
            await self._let_go()

    async def _let_go(self) -> None:
        """Give back what was kept, as a restart with the mended code would."""
        kept, self._failed = self._failed, []
        for session, _ in kept:
            await session.close()


def release_of(monitor: IsolationMonitor) -> Callable[[User], bool]:
    """Return what tells who has the release, by its rollout in the collector; nobody without one."""
    # A domain for each application: several live in one process of tests.
    domain = f"chat-{id(monitor)}"
    api.set_provider(IsolationFlagProvider(monitor.flags), domain)
    flags = api.get_client(domain)
    return lambda user: flags.get_boolean_value(RELEASE, False, EvaluationContext(targeting_key=user.id))


def defective_kinds(board: Switchboard, has_release: Callable[[User], bool]) -> Kinds:
    """Return the classes that replace the sound ones; with every fault off they behave as these."""
    return Kinds(
        tokens=functools.partial(RememberingTokens, board),
        database=functools.partial(KeepingDatabase, board),
        connections=functools.partial(CarelessConnections, board),
        agents=functools.partial(SharedAgents, board, has_release),
    )


def install(app: FastAPI, board: Switchboard) -> ASGIApp:
    """Add the switches to the application and return what is to be served."""
    app.include_router(_switches(board))
    return WorkerTasks(app, board)


def _switches(board: Switchboard) -> APIRouter:
    router = APIRouter(prefix="/faults", tags=["faults"])

    @router.get("")
    async def show() -> dict[str, Any]:
        return {"faults": list(FAULTS), "on": board.state()}

    @router.post("/{fault}")
    async def switch_on(fault: str) -> dict[str, Any]:
        if fault not in FAULTS:
            raise HTTPException(404, f"no fault {fault!r}: there are {', '.join(FAULTS)}")
        board.switch_on(fault)
        return {"on": board.state()}

    @router.delete("")
    async def heal() -> dict[str, Any]:
        board.heal()
        return {"on": board.state()}

    return router
