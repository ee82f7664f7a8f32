"""Fixtures of the detectors' tests."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from isolation_monitor.telemetry import IsolationMonitor
from tests.telemetry.detectors.signed import Signed


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def signed(monitor: IsolationMonitor, app: FastAPI) -> Signed:
    return Signed(monitor, app)
