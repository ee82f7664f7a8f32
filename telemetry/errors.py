"""Errors that telemetry raises. Only wrong configuration raises, and only at start; after that the host never sees us."""


class IsolationMonitorError(Exception):
    """Base of every error this package raises on purpose."""


class SettingsError(IsolationMonitorError):
    """A setting has a value that cannot be used; the text says which, what was found, and what to write instead."""


class UnscopedAccessError(IsolationMonitorError):
    """A query for an owned model that does not ask for its user's rows was refused (`unscoped_access=block`)."""
