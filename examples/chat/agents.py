"""The agent: a small planner with tools, made fresh for each request.

There is no language model here: a few rules choose one tool, and the answer is written from its result. What matters is
the life of the object: everything it knows belongs to one user, so it must never outlive the request it was made for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from chat import tools
from chat.store import Line, User

CreateAgent = Callable[[User, str, Sequence[Line]], Awaitable["Agent"]]

_ARITHMETIC: Final = re.compile(r"[-(]*\d[\d.\s()]*(?:[-+*/%]+[\s(-]*\d[\d.\s()]*)+")
_TIME: Final = re.compile(r"\b(time|date|day|clock)\b", re.IGNORECASE)
_HISTORY: Final = re.compile(r"\b(before|earlier|history|last time|did i say)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """What the agent means to do: one call of one tool, and why."""

    tool: str
    argument: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the user it was written for."""

    user_id: str
    text: str


class Agent:
    """One agent for one request of one user."""

    def __init__(self, user: User, note: str, history: Sequence[Line], word_pause_s: float) -> None:
        self.user = user
        self.note = note
        self.history = tuple(history)
        self._word_pause_s = word_pause_s

    def plan(self, question: str) -> Step:
        """Choose the tool that answers the question; the note when nothing else fits."""
        if found := _ARITHMETIC.search(question):
            return Step("calculator", found.group().strip(), "this is arithmetic")
        if _TIME.search(question):
            return Step("clock", "", "this asks for the time")
        if _HISTORY.search(question):
            return Step("history", "", "this asks for what was said before")
        return Step("note", "", "your note may say")

    def use(self, step: Step) -> str:
        """Call the step's tool and return its result; a tool's refusal is a result too."""
        if step.tool == "calculator":
            try:
                return tools.calculator(step.argument)
            except tools.ToolError as refusal:
                return str(refusal)
        if step.tool == "clock":
            return tools.clock()
        if step.tool == "history":
            return " / ".join(line.text for line in self.history if line.author == "user") or "nothing yet"
        return self.note or "empty"

    async def answer(self, step: Step, result: str) -> Answer:
        """Write the answer word by word, as a model would."""
        words = [word async for word in self._write(step, result)]
        return Answer(self.user.id, " ".join(words))

    async def _write(self, step: Step, result: str) -> AsyncIterator[str]:
        opening = {
            "calculator": f"{step.argument} is",
            "clock": "It is now",
            "history": f"{self.user.name}, you said before:",
            "note": f"{self.user.name}, your note says:",
        }[step.tool]
        for word in opening.split():
            await asyncio.sleep(self._word_pause_s)
            yield word
        yield result


class AgentFactory:
    """Makes agents. It keeps settings only: nothing of one user may stay here for the next."""

    def __init__(self, word_pause_s: float) -> None:
        self.word_pause_s = word_pause_s

    async def create(self, user: User, note: str, history: Sequence[Line]) -> Agent:
        """Return a fresh agent that knows this user's note and thread, and nothing else."""
        return Agent(user, note, history, self.word_pause_s)
