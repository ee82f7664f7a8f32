"""Where commands print their tables: standard output, as wide as the terminal or, without one, wide enough."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

_LOG_WIDTH: Final = 140
"""A log has no width; 80 columns would cut the tables."""


def stdout_console(*, highlight: bool = True) -> Console:
    """Return a console on standard output; with `highlight`, numbers in plain text are coloured."""
    return Console(width=None if sys.stdout.isatty() else _LOG_WIDTH, highlight=highlight)
