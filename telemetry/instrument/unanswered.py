"""Pings that are out: whom the answer is told, once."""

from __future__ import annotations

from collections.abc import Callable


class Unanswered:
    """What the probes of all servers whose pongs are heard have in common."""

    _ponged: Callable[[], None] | None = None

    def answered(self) -> None:
        """Tell of the pong, once."""
        ponged, self._ponged = self._ponged, None
        if ponged is not None:
            ponged()
