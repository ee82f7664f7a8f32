"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from isolation_monitor.telemetry.instrument import patches


@pytest.fixture(autouse=True)
def _libraries_are_left_as_found() -> Iterator[None]:
    """A hook that outlives its test changes what the next ones see; requested first, so that it looks last."""
    before = set(patches.in_place())
    yield
    left = set(patches.in_place()) - before
    assert not left, f"hooks were left on {sorted(left)}: a monitor was not closed, or its hooks did not come off"
