"""Log lines of which one a minute is enough: the first at once, and how many were left out with the next."""

from __future__ import annotations

import logging
import time
from typing import Final

LOGGER: Final = logging.getLogger("isolation_monitor")
EVERY_S: Final = 60.0


class QuietLog:
    """Says each kind of thing at most once a minute. A lost update between threads costs a line too many or too few, no more."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}

    def warn(self, about: str, text: str, *args: object) -> None:
        """Log a warning, unless one about the same thing was logged in the last minute."""
        now = time.monotonic()
        at, left_out = self._said.get(about, (float("-inf"), 0))
        if now - at < EVERY_S:
            self._said[about] = (at, left_out + 1)
            return
        self._said[about] = (now, 0)
        LOGGER.warning("isolation monitor: " + text + (f" (and {left_out} like it in the last minutes)" if left_out else ""), *args)
