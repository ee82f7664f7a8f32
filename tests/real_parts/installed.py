"""The programs of `demo/binaries.py` in tests: their path, or the test skips with the reason (fails if ISOMON_REQUIRE_REAL=1)."""

from __future__ import annotations

import os

import pytest

from isolation_monitor.demo.binaries import Found, Part, find
from isolation_monitor.demo.errors import PartMissingError


def installed(part: Part) -> Found:
    """Return where the program is and which version; skip or fail the test where it is missing or too old."""
    try:
        return find(part)
    except PartMissingError as missing:
        if os.environ.get("ISOMON_REQUIRE_REAL") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
