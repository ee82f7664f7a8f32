"""Tells a person what is going on: a line that moves in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, RenderableType
from rich.status import Status


class Narrator:
    """Prints finished steps with the time since the start, and shows the present one while it lasts."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._status: Status | None = Status("", console=console) if console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Narrator:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Leave the terminal to something else for a while: only one live display fits."""
        if self._status is not None:
            self._status.stop()
        try:
            yield
        finally:
            if self._status is not None:
                self._status.start()

    def doing(self, text: str, moving: str = "") -> None:
        """Show what is waited for now, with a part that changes; a log gets each text once, without that part."""
        if self._status is not None:
            self._status.update(f"{text} {moving}".rstrip())
        elif text != self._last:
            self._line(f"... {text}")
        self._last = text

    def done(self, text: str) -> None:
        """Print a step that held."""
        self._line(f"[green]ok[/]  {text}")

    def failed(self, text: str) -> None:
        """Print what did not hold."""
        self._line(f"[bold red]FAILED[/]  {text}")

    def show(self, what: RenderableType) -> None:
        """Print anything as it is."""
        self.console.print(what)

    def _line(self, text: str) -> None:
        self.console.print(f"[dim]{self.elapsed_s:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)
