"""SQLAlchemy: whether the process reads by engines that nobody passed to the monitor.

Their reads are followed like all others once somebody suspects a value (`sqlalchemy_reads.py`); until then it is enough to know
that they are there. Told by the first checkouts of the process and by each new connection, so that it costs nothing later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import SUPPORTED, version, watched

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

CHECKOUTS: Final = 200
"""So many checkouts are looked at: pools that were full before the monitor came make no new connections."""


def install(detection: Detection) -> Installed:
    """Listen to all pools of the process."""
    text, numbers = version()
    if numbers not in SUPPORTED:
        return Installed([Patch("sqlalchemy.pool", text, "Pool events", True, False, "2.0 and 2.1 are followed")], lambda: None)
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    left = CHECKOUTS

    def connected(_connection: Any, record: Any) -> None:
        _look(detection, record)

    def checked_out(_connection: Any, record: Any, _proxy: Any) -> None:
        nonlocal left
        _look(detection, record)
        left -= 1
        if left == 0:
            # Not here, where the listeners are being called.
            detection.kit.housekeeper.after(0.0, stop)

    def stop() -> None:
        if event.contains(Pool, "checkout", checked_out):
            event.remove(Pool, "checkout", checked_out)

    def undo() -> None:
        stop()
        event.remove(Pool, "connect", connected)

    event.listen(Pool, "connect", connected)
    event.listen(Pool, "checkout", checked_out)
    return Installed([Patch("sqlalchemy.pool", text, "Pool events connect and, at first, checkout", True, True)], undo)


def _look(detection: Detection, record: Any) -> None:
    """Note that a connection belongs to a pool of no engine that is watched."""
    try:
        if not detection.has_unpassed_engines:
            pool = getattr(record, "_ConnectionRecord__pool", None)
            detection.has_unpassed_engines = pool is not None and all(engine.pool is not pool for engine in list(watched))
    except Exception as error:
        detection.kit.reporter.check_failed(names.FOREIGN_CONTENT, "sqlalchemy", error)
