"""What comes before what: names with dependencies, checked as they are declared."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from isolation_monitor.telemetry.errors import LifecycleError

NAME_LIMIT: Final = 60


class Ordering:
    """A graph of names without cycles. `noun` is what the names are of, for errors: `phase`, `step`."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._after: dict[str, set[str]] = {}

    def add(self, name: str, after: Iterable[str] = (), before: Iterable[str] = ()) -> None:
        """Declare a name that comes after some and before others, all declared already.

        Raises:
            LifecycleError: a name is empty, too long, declared twice or unknown, or the order is a cycle. Nothing is declared then.
        """
        noun = self._noun
        if not isinstance(name, str) or not name.strip() or len(name) > NAME_LIMIT:
            raise LifecycleError(f"{noun} {name!r}: a name is text of 1 to {NAME_LIMIT} characters")
        if name in self._after:
            raise LifecycleError(f"{noun} {name!r} is declared twice: give each a name of its own")
        ends = {"after": _names(after, "after", name, noun), "before": _names(before, "before", name, noun)}
        for argument, others in ends.items():
            for other in others:
                if other == name:
                    raise LifecycleError(f"{noun} {name!r} waits for itself: take it out of {argument}")
                if other not in self._after:
                    raise LifecycleError(f"{noun} {name!r}: {argument} names {other!r}, which is no {noun}{self._advice(other)}")
        for follower in ends["before"]:
            for leader in ends["after"]:
                if path := self._path(leader, follower):
                    circle = " after ".join([name, *path, name])
                    raise LifecycleError(f"{noun} {name!r} closes a cycle: {circle}; take one of them out of `after` or `before`")
        self._after[name] = set(ends["after"])
        for follower in ends["before"]:
            self._after[follower].add(name)

    def forget(self, name: str) -> None:
        """Take a name out; whoever came after it does not wait for it any more."""
        self._after.pop(name, None)
        for leaders in self._after.values():
            leaders.discard(name)

    def of(self, name: str) -> frozenset[str]:
        """Return what a name comes directly after."""
        return frozenset(self._after[name])

    def _path(self, start: str, goal: str) -> list[str]:
        """Return the names from `start` down to `goal`, each after the next; empty when there is no way."""
        ways = [[start]]
        seen = {start}
        while ways:
            way = ways.pop()
            if way[-1] == goal:
                return way
            for leader in self._after[way[-1]] - seen:
                seen.add(leader)
                ways.append([*way, leader])
        return []

    def _advice(self, unknown: str) -> str:
        if close := difflib.get_close_matches(str(unknown), self._after, n=1):
            return f": did you mean {close[0]!r}?"
        known = ", ".join(map(repr, self._after)) or "none yet"
        return f": declare that one first (known: {known})"


def _names(given: Iterable[str], argument: str, name: str, noun: str) -> list[str]:
    if isinstance(given, str):
        raise LifecycleError(f"{noun} {name!r}: {argument}={given!r} is one text: write a list, {argument}=[{given!r}]")
    return list(dict.fromkeys(given))
