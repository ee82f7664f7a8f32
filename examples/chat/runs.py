"""One run: a question goes in, five events come out in order, and the exchange is stored before the last of them leaves.

`agent_started`, `agent_thinking`, `tool_executing`, `tool_completed`, `agent_completed`; `agent_error` ends a run that broke.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from chat import store
from chat.agents import Answer, CreateAgent
from chat.connections import Connection, ConnectionGoneError, Connections, Frame
from chat.database import Database
from chat.store import Line, User
from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.resolution import Resolver

logger = logging.getLogger("chat")

AGENT: Final = "planner"
"""Name of the agent in traces."""

Tell = Callable[..., Awaitable[None]]
"""`await tell(event, **fields)` hands one event over."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a run starts from: read in one short unit of work, before the agent exists."""

    user: User
    thread_id: str
    note: str
    history: list[Line]


class Runner:
    """Performs runs, over a WebSocket or within an HTTP request."""

    def __init__(
        self, monitor: IsolationMonitor, database: Database, connections: Connections, create_agent: CreateAgent, ids: Resolver
    ) -> None:
        self._monitor = monitor
        self._ids = ids
        self._database = database
        self._connections = connections
        self.create_agent = create_agent

    async def run_live(self, connection: Connection, text: str, thread_id: str = store.MAIN_THREAD) -> None:
        """Answer on the connection that asked, telling each event as it happens.

        Raises:
            ThreadNotFoundError: the thread is not the user's; no run was started.
            ConnectionGoneError: the client left during the run.
        """
        context = await self._read(connection.user, thread_id)
        run_id = await self._ids.create(context.thread_id, owner=connection.user.id)
        with self._monitor.run(run_id, owner=connection.user.id, agent=AGENT, conversation=context.thread_id) as run:

            async def tell(event: str, **fields: Any) -> None:
                run.emit(event, fields.get("call_id", ""), tool=fields.get("tool", ""))
                frame = {"type": event, "run_id": run_id, "user_id": connection.user.id, "seq": sum(run.emitted.values()), **fields}
                await self._connections.send(connection.id, frame)

            try:
                await self._perform(run_id, context, text, tell)
            except ConnectionGoneError:
                raise
            except Exception:
                logger.exception("run %s failed", run_id)
                await tell("agent_error", text="Something went wrong here. Please try again.")

    async def run_once(self, user: User, text: str, thread_id: str = store.MAIN_THREAD) -> dict[str, Any]:
        """Answer in one piece: the JSON answer carries the text and all events of the run.

        Raises:
            ThreadNotFoundError: the thread is not the user's; no run was started.
        """
        context = await self._read(user, thread_id)
        run_id = await self._ids.create(context.thread_id, owner=user.id)
        events: list[Frame] = []
        with self._monitor.run(run_id, owner=user.id, agent=AGENT, conversation=context.thread_id) as run:

            async def tell(event: str, **fields: Any) -> None:
                run.emit(event, fields.get("call_id", ""), tool=fields.get("tool", ""))
                events.append({"type": event, "seq": len(events) + 1, **fields})

            answer = await self._perform(run_id, context, text, tell)
        return {"run_id": run_id, "thread_id": context.thread_id, "user_id": answer.user_id, "text": answer.text, "events": events}

    async def _read(self, user: User, thread_id: str) -> Context:
        async with self._database.session() as session:
            thread_id = await store.thread_of(session, user.id, thread_id)
            return Context(user, thread_id, await store.note_of(session, user.id), await store.history_of(session, thread_id))

    async def _perform(self, run_id: str, context: Context, text: str, tell: Tell) -> Answer:
        agent = await self.create_agent(context.user, context.note, context.history)
        await tell("agent_started", thread_id=context.thread_id)
        step = agent.plan(text)
        await tell("agent_thinking", text=f"I will use the {step.tool}: {step.reason}.")
        call = {"call_id": "call_" + uuid.uuid4().hex[:12], "tool": step.tool}
        await tell("tool_executing", **call, argument=step.argument)
        result = agent.use(step)
        await tell("tool_completed", **call, result=result)
        answer = await agent.answer(step, result)
        # Where the exchange belongs is what the run says, not what was true when it began: a run may be long.
        run = await self._ids.resolve(run_id, thread_id=context.thread_id, asker=context.user.id)
        async with self._database.session() as session:
            await store.add_exchange(session, run.thread_id, run_id, text, answer.text)
        await tell("agent_completed", thread_id=context.thread_id, **asdict(answer))
        return answer
