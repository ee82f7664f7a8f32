"""Background tasks of the collector: how they hear that there is something to look at, and how they end.

A nudge carries no facts: what happened is in the store, where it survives this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_END_S: Final = 10.0


class Nudge:
    """Collects the subjects (services) that changed until somebody takes them."""

    def __init__(self) -> None:
        self._subjects: set[str] = set()
        self._given = asyncio.Event()

    def give(self, subject: str) -> None:
        """Never waits and never fails: it stands in the path of records."""
        self._subjects.add(subject)
        self._given.set()

    async def taken(self) -> set[str]:
        """Return all subjects since the last call, as soon as there is one."""
        await self._given.wait()
        self._given.clear()
        subjects, self._subjects = self._subjects, set()
        return subjects


async def whole(work: Coroutine[Any, Any, T], ending: Callable[[], None] = lambda: None) -> T:
    """Await `work`; when cancelled, let it come to its end first: a driver cut off in the middle of a statement loses its connection.

    `ending` is called when this is cancelled: it tells work of many steps not to begin another.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        ending()
        done, late = await asyncio.wait([task], timeout=_END_S)
        for one in done:
            # Taken, or the loop would complain that nobody did: whoever ends everything asks for no results.
            if not one.cancelled():
                one.exception()
        for one in late:
            one.cancel()
        raise
