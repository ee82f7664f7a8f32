"""aiosqlite: the thread that runs a connection's statements works for the request that asked for them.

Statements, commits and rollbacks are told by sqlite3's own integration, which finds the request in the thread's context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_transactions import ASKED_AT
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, Patching, numbers_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection


OLDEST, NEWEST = (0, 17), (0, 999)


def install(_detection: Detection) -> Installed:
    """Hook the one method through which a connection and its cursors hand work to their thread."""
    import aiosqlite

    version = str(getattr(aiosqlite, "__version__", ""))
    if not OLDEST <= numbers_of(version) <= NEWEST or "_execute" not in vars(aiosqlite.Connection):
        note = "not supported: 0.17 to 0.x are"
        return Installed([Patch("aiosqlite", version, "Connection._execute", reversible=True, active=False, note=note)], lambda: None)
    patching = Patching("aiosqlite", version)
    patching.replace(aiosqlite.Connection, "_execute", _for_the_asker)
    return Installed(patching.patches, patching.undo)


def _for_the_asker(original: Any) -> Any:
    async def _execute(connection: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        request = CURRENT.get()
        if request is None:
            return await original(connection, fn, *args, **kwargs)

        asked_at = stacks.capture(2)

        def for_the_asker(*args: Any, **kwargs: Any) -> Any:
            nobody, nowhere = CURRENT.set(request), ASKED_AT.set(asked_at)
            try:
                return fn(*args, **kwargs)
            finally:
                ASKED_AT.reset(nowhere)
                CURRENT.reset(nobody)

        return await original(connection, for_the_asker, *args, **kwargs)

    return _execute
