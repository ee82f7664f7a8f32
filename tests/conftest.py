"""What holds for every test."""

from __future__ import annotations

import compileall
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from isolation_monitor.telemetry.instrument import patches

# A busy machine is slow for a second now and then, which says nothing of the code: durations belong to benchmarks.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Make what tests start the same wherever they run.

    Shells start jobs in the background with SIGINT ignored, which every process below inherits and no test of an interrupt would
    survive. Our code is compiled once: images of Python often forbid it to keep bytecode, and hundreds of processes would compile it all.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        for folder in ("telemetry", "collector", "dashboards", "alerts", "cli", "demo", "bench", "examples", "src", "tests"):
            # Where the checkout cannot be written to, it is as slow as it was.
            compileall.compile_dir(CHECKOUT / folder, quiet=2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:  # Any: of pytest-xdist, which needs not be there
    from tests.together import ByFile

    return ByFile(config, log)


@pytest.fixture(autouse=True, scope="session")
def _no_test_sends_what_another_left() -> None:
    """Records wait in memory unless a test names a folder: the next one would adopt them, and so would the user's own services."""
    os.environ["ISOLATION_SPOOL_DIR"] = ""


@pytest.fixture(autouse=True)
def _libraries_are_left_as_found() -> Iterator[None]:
    """A hook that outlives its test changes what the next ones see; requested first, so that it looks last."""
    before = set(patches.in_place())
    yield
    left = set(patches.in_place()) - before
    assert not left, f"hooks were left on {sorted(left)}: a monitor was not closed, or its hooks did not come off"
