"""Command storms: one actor's destructive commands that come faster than the house allows.

A storm is told once, when it is over: then it is known how many commands it had. A graceful command of Compose ends all containers of a
project at once, and whoever stops a container to remove it is done with it in one: neither is a storm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from isolation_monitor.collector.containers.domain import Action, Command, Happening, happening_id

UNKNOWN_ACTOR: Final = "unknown"
"""The engine does not say who asked: so far as it tells, one actor asks for everything that no tool has told of."""
_SETTLED_AFTER: Final = timedelta(seconds=2)
"""Whoever tells of a command tells of it after it was carried out."""
_SAME_COMMAND: Final = timedelta(seconds=30)
_NAMED: Final = 20


class Storms:
    """Commands that are not judged yet."""

    def __init__(self, engine: str, cooldown: timedelta) -> None:
        self._engine = engine
        self._cooldown = cooldown
        self._waiting: list[Command] = []

    @property
    def oldest(self) -> datetime | None:
        """Return the time of the oldest command that is not judged yet."""
        return min((command.at for command in self._waiting), default=None)

    def add(self, commands: Iterable[Command]) -> None:
        self._waiting.extend(commands)

    def due(self, now: datetime, actor_of: Callable[[Command], str]) -> list[Happening]:
        """Return the storms that are over; commands of storms that go on wait."""
        by_actor: dict[str, list[Command]] = {}
        for command in sorted(self._waiting, key=lambda one: one.at):
            by_actor.setdefault(actor_of(command), []).append(command)
        self._waiting, found = [], []
        for actor, commands in by_actor.items():
            for burst in _bursts(commands, self._cooldown):
                if now - burst[-1].at < _SETTLED_AFTER:
                    self._waiting.extend(burst)
                elif _commands_in(burst) > 1:
                    found.append(self._storm(actor, burst))
        return found

    def _storm(self, actor: str, burst: list[Command]) -> Happening:
        first, last = burst[0], burst[-1]
        detail = {
            "commands": _commands_in(burst),
            "seconds": round((last.at - first.at).total_seconds(), 3),
            "containers": list(dict.fromkeys(command.container for command in burst))[:_NAMED],
            "actions": sorted({command.action for command in burst}),
        }
        identity = happening_id(self._engine, "command_storm", actor, first.at.isoformat(), first.container_id)
        return Happening(identity, self._engine, first.at, "command_storm", actor=actor, detail=detail)


def _commands_in(burst: Iterable[Command]) -> int:
    """Count commands as somebody gave them: each kill, each project that Compose ends, each other container that is ended."""
    number = 0
    ended: set[str] = set()
    for command in burst:
        subject = command.container_id if command.action == "kill" or command.project is None else f"project {command.project}"
        is_another = command.action == "kill" or subject not in ended or (command.action == "stop" and command.project is None)
        number += is_another
        ended |= {subject, command.container_id}
    return number


def _bursts(commands: list[Command], cooldown: timedelta) -> list[list[Command]]:
    bursts: list[list[Command]] = []
    for command in commands:
        if bursts and command.at - bursts[-1][-1].at < cooldown:
            bursts[-1].append(command)
        else:
            bursts.append([command])
    return bursts


def who(actions: Iterable[Action], container_id: str | None, container: str | None, at: datetime) -> Action | None:
    """Return what somebody told of having done to this container at about this time; None where nobody did.

    A tool writes when it began or when it ended, and a stop may take its ten seconds: the nearest one counts.
    """
    of_it = [
        one
        for one in actions
        if one.result == "done" and abs(one.time - at) <= _SAME_COMMAND and _is_of(one, container_id, container)
    ]  # fmt: skip
    return min(of_it, key=lambda one: abs(one.time - at), default=None)


def _is_of(action: Action, container_id: str | None, container: str | None) -> bool:
    if action.container_id and container_id:
        # Tools know the short form too.
        return container_id.startswith(action.container_id) or action.container_id.startswith(container_id)
    return bool(container) and action.container == container
