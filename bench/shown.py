"""What a benchmark shows a person while it runs and at its end."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.rows import Row


def console_for_people() -> Console:
    """Return a console on standard output; into a file or a pipe it writes each line at once, and folds no table at 80 columns."""
    if sys.stdout.isatty():
        return Console()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Who follows a file for half an hour wants to see the progress, not the first 8 kB of it.
        sys.stdout.reconfigure(line_buffering=True)
    return Console(width=170)


def table(title: str, rows: list[Row]) -> Table:
    """Return the rows as a table for the terminal."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for column in ("row", "value", "unit", "budget", "90 % range", "quiet", ""):
        shown.add_column(column, justify="right" if column in ("value", "budget", "quiet") else "left", overflow="fold")
    for row in rows:
        shown.add_row(
            row.name,
            "not measured" if row.value is None else f"{row.value:,.2f}",
            row.unit,
            "" if row.budget is None else f"{'<=' if row.better == 'lower' else '>='} {row.budget:g}",
            "" if row.spread is None else f"{row.spread[0]:,.2f} .. {row.spread[1]:,.2f}",
            "" if row.quiet is None else f"{row.quiet:,.2f}",
            row.note if row.budget is None else ("[green]ok[/]" if row.ok else "[red]over budget[/] " + row.note),
        )
    return shown


def ending(rows: list[Row], output: Path) -> str:
    """Return the last line: where the report is, and which rows missed their budget."""
    missed = [row.name for row in rows if not row.ok]
    return f"{len(rows)} rows in {output}" + (f"; missed: {', '.join(missed)}" if missed else "; all within budget")
