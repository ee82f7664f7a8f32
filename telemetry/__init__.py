"""Telemetry: watches a multi-user async service from inside and proves that one request never touches another's.

>>> from isolation_monitor.telemetry import IsolationMonitor
"""

from isolation_monitor.telemetry.delivery.automaton import EventNames
from isolation_monitor.telemetry.delivery.run import Run
from isolation_monitor.telemetry.errors import (
    ConflictingIdError,
    ForeignIdError,
    IdError,
    InvalidIdError,
    IsolationMonitorError,
    LifecycleError,
    NotReadyError,
    RunThreadMismatchError,
    SettingsError,
    UnresolvedIdError,
)
from isolation_monitor.telemetry.monitor import IsolationMonitor, current_request
from isolation_monitor.telemetry.settings import Settings
from isolation_monitor.telemetry.violations import Resource, Side, Violation

__all__ = [
    "ConflictingIdError",
    "EventNames",
    "ForeignIdError",
    "IdError",
    "InvalidIdError",
    "IsolationMonitor",
    "IsolationMonitorError",
    "LifecycleError",
    "NotReadyError",
    "Resource",
    "Run",
    "RunThreadMismatchError",
    "Settings",
    "SettingsError",
    "Side",
    "UnresolvedIdError",
    "Violation",
    "current_request",
]
