"""SIGTERM, the way in which supervisors end a command: what it has started is undone first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ended_politely() -> Iterator[None]:
    """Let SIGTERM leave the block as an exception, so that every `finally` runs; the process exits as one ended by a signal."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
