"""Errors that telemetry raises: wrong configuration at start, refusals in block mode, and ids that whoever asked cannot be answered."""

from __future__ import annotations

from collections.abc import Mapping


class IsolationMonitorError(Exception):
    """Base of every error this package raises on purpose."""


class SettingsError(IsolationMonitorError):
    """A setting has a value that cannot be used; the text says which, what was found, and what to write instead."""


class IdError(IsolationMonitorError):
    """Base of what making or resolving a run's id can raise, and only to the caller who asked for it (`docs/ids.md`)."""


class InvalidIdError(IdError, ValueError):
    """This can be no id: of a wrong type, empty, too long, or with characters that ids do not have; nobody was asked."""


class UnresolvedIdError(IdError, LookupError):
    """No source knows the run. `said` maps each source to what it answered; `affected` counts the users of the minute so far."""

    def __init__(self, text: str, said: Mapping[str, str], affected: int) -> None:
        super().__init__(text)
        self.said = dict(said)
        self.affected = affected


class ConflictingIdError(IdError):
    """Two sources name different threads or owners for one run: no answer is safe."""


class ForeignIdError(IdError):
    """The run's thread belongs to another user than the one who asks. Names neither."""


class RunThreadMismatchError(IdError):
    """The run does not belong to the thread that it was asked for with."""


class UnscopedAccessError(IsolationMonitorError):
    """A query for an owned model that does not ask for its user's rows was refused (`unscoped_access=block`)."""


class LifecycleError(IsolationMonitorError):
    """A start-up phase, clean-up step or health check was declared or used in a way that cannot work; the text says what to do."""


class NotReadyError(IsolationMonitorError):
    """Raised by a health check to say in its own words why the application cannot serve now; the text is shown to whoever asks."""
