"""What the collector logs stays one entry a line: texts of senders and of people cannot forge another, or move a terminal.

Control characters and the marks that reorder text are taken out, and lines are joined. The lines of a stack that follow an
entry begin with a bar, so that none of them can be taken for an entry.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from isolation_monitor.collector.jsontext import clean_text, one_line

LOGGERS: Final = ("isolation_monitor.collector", "uvicorn.error", "asyncio")
"""Ours, and those by which defects of ours go out a second time."""


class _Harmless(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception as error:
            text = f"{record.msg!r} could not be written out ({type(error).__name__})"
        record.msg, record.args = one_line(text), ()
        # The same text once more, for terminals: made of arguments that are gone.
        record.__dict__.pop("color_message", None)
        if record.exc_info and record.exc_info[0] is not None:
            lines = clean_text("".join(traceback.format_exception(*record.exc_info))).splitlines()
            # Formatters print this instead of making it anew.
            record.exc_text = "\n".join(f"| {line}" for line in lines)
        return True


def harmless() -> None:
    """Make the collector's loggers so; once is enough, more often does no harm."""
    for logger in map(logging.getLogger, LOGGERS):
        if not any(isinstance(found, _Harmless) for found in logger.filters):
            logger.addFilter(_Harmless())
    # It tells of each request with its whole address: those of probes may hold what not every reader should see.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
