"""Where a command finds the parts of a stack: as its options say, else those of the demonstration that runs on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.demo.errors import DemoError
from isolation_monitor.demo.layout import Layout
from isolation_monitor.demo.state import StackState, default_file

STATE_ENV: Final = "ISOMON_DEMO_STATE"
"""Names the state file of the demonstration."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Addresses of a stack's parts and what opens them. `folder` is the one of drills, which Prometheus watches."""

    prometheus: str
    collector: str
    folder: Path
    alertmanager: str | None = None
    token_file: Path | None = None


def stack(
    prometheus: str | None,
    collector: str | None,
    folder: Path | None,
    *,
    token_file: Path | None,
    alertmanager: str | None = None,
    instead: str,
) -> Stack:
    """Return the stack that was given; where it is not whole, the running demonstration fills it up.

    Args:
        instead: what to do where no demonstration runs, for the error.

    Raises:
        UsageError: it is not whole and no demonstration runs.
    """
    if prometheus and collector and folder:
        return Stack(prometheus, collector, folder, alertmanager, token_file)
    try:
        running = StackState.read(Path(os.environ.get(STATE_ENV) or default_file()))
    except DemoError:
        raise UsageError(f"no demonstration runs: start one with make demo, or {instead}") from None
    layout = Layout(running.folder)
    return Stack(
        prometheus or running.urls.prometheus,
        collector or running.urls.collector,
        folder or layout.drills,
        alertmanager or running.urls.alertmanager,
        token_file or layout.read_token,
    )
