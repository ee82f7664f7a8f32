"""Echoes: frames that come to who is meant by them and to others as well, as broadcasts do."""

from __future__ import annotations

import time
from typing import Final

ECHO_S: Final = 1.6
"""For so long what came to its owner explains that it comes to others: sending to all of a crowded room takes a while."""
KEYS_LIMIT: Final = 2_000


class Echoes:
    """When a content was last sent to its owner, and to which sockets of others it went because of that."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._explained: dict[str, tuple[float, set[int]]] = {}

    def heard(self, key: str) -> None:
        """Note that a content, known by its key, goes to its owner now."""
        self._heard[key] = time.monotonic()
        if len(self._heard) > KEYS_LIMIT:
            self._heard.pop(next(iter(self._heard)), None)

    def explain(self, key: str, sockets: set[int]) -> bool:
        """Return whether a content that went to sockets of others is a broadcast, by what its owner heard.

        Each broadcast is heard by all: what comes to one socket again, while its owner has heard nothing new, is meant for him.
        """
        at = self._heard.get(key)
        if at is None or time.monotonic() - at > ECHO_S:
            return False
        before, gone = self._explained.get(key, (0.0, set[int]()))
        if before == at:
            if not gone.isdisjoint(sockets):
                return False
            sockets = sockets | gone
        self._explained[key] = (at, set(sockets))
        if len(self._explained) > KEYS_LIMIT:
            self._explained.pop(next(iter(self._explained)), None)
        return True
