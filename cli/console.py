"""Where commands print their tables: standard output, as wide as the terminal or, without one, wide enough."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

_LOG_WIDTH: Final = 140
"""A log has no width; 80 columns would cut the tables."""
_UNFOLDED: Final = 10_000
"""Wider than any line of ours: a row of a table stays one line."""


def stdout_console(*, highlight: bool = True, unfolded: bool = False) -> Console:
    """Return a console on standard output; with `highlight`, numbers in plain text are coloured.

    `unfolded`: without a terminal no cell is ever folded. For tables that end in sentences or ids: in a log of CI they are
    searched line by line, and whoever reads them can scroll.
    """
    if sys.stdout.isatty():
        return Console(highlight=highlight)
    return Console(width=_UNFOLDED if unfolded else _LOG_WIDTH, highlight=highlight)
