"""A collector that answers as a test says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.records.receiving import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.shutdown()
    server.server_close()
