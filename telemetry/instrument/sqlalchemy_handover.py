"""What pools hand on besides the connection: open transactions, and what the application notes in `connection.info`.

`Handover`: pools that clean nothing up (`reset_on_return=None`); a transaction that one user left open, found by the next
one. All other pools roll back on return, and nothing is added to their checkouts.
`Notes`: `connection.info` lives as long as the driver's connection. A note of a user's id that is still there when another
user has used the connection and gives it back was in force for both: who sets it anew at each checkout is not harmed.
What statements leave (settings, roles, temporary tables) is told by the integrations of the drivers, below SQLAlchemy.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.detectors.unscoped_access import as_text, is_same
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import cleans_nothing

if TYPE_CHECKING:
    import weakref

    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.stacks import RawStack

NOTES_LIMIT: Final = 20
"""Notes looked at per connection."""
_IN_TRANSACTION: Final = (2, 3)
"""`transaction_status` of psycopg and psycopg2: in a transaction, and in a failed one."""


class Handover:
    """Looks at the connections of one pool as they come back and as they go out."""

    def __init__(self, detection: Detection, name: str) -> None:
        self._detector = detection.dirty_handover
        self._switch = detection.switches[names.DIRTY_HANDOVER]
        self._reporter = detection.kit.reporter
        self._name = name
        self._left: ByIdentity[tuple[RequestContext, RawStack]] = ByIdentity()
        """Who left a transaction open, by the pool's record of the connection."""

    def listen(self, engine: Any) -> bool:
        """Hook the engine's pool where it does not clean up; return whether it was hooked."""
        if not cleans_nothing(engine.pool):
            return False
        from sqlalchemy import event

        event.listen(engine, "checkin", self._returned)
        event.listen(engine, "checkout", self._taken)
        return True

    def stop(self, of_engine: weakref.ref[Any]) -> None:
        from sqlalchemy import event

        engine = of_engine()
        for identifier, function in (("checkin", self._returned), ("checkout", self._taken)):
            if engine is not None and event.contains(engine, identifier, function):
                event.remove(engine, identifier, function)

    def _returned(self, _connection: Any, record: Any) -> None:
        try:
            self._left.drop(record)
            request = CURRENT.get()
            if self._switch.is_on and request is not None and is_in_transaction(record.driver_connection):
                self._left.put(record, (request, stacks.capture(2)))
        except Exception as error:
            self._reporter.check_failed(names.DIRTY_HANDOVER, "sqlalchemy", error)

    def _taken(self, _connection: Any, record: Any, _handle: Any) -> None:
        try:
            left = self._left.drop(record)
            if not self._switch.is_on or CURRENT.get() is None:
                return
            if left is None or not is_in_transaction(record.driver_connection):
                self._reporter.checked(names.DIRTY_HANDOVER)
            else:
                self._detector.found(record, self._name, {"transaction": "open"}, *left)
        except Exception as error:
            self._reporter.check_failed(names.DIRTY_HANDOVER, "sqlalchemy", error)


class Notes:
    """Looks at `connection.info` of the connections of one pool as they come back."""

    def __init__(self, detection: Detection, name: str) -> None:
        self._detector = detection.dirty_handover
        self._switch = detection.switches[names.DIRTY_HANDOVER]
        self._name = name
        self._known: ByIdentity[dict[str, tuple[str, RequestContext, RawStack]]] = ByIdentity()
        """By the pool's record: notes that named the principal of the request that used the connection."""

    def look(self, record: Any, info: dict[Any, Any]) -> None:
        """Compare the notes of a connection that comes back with who used it now and before."""
        request = CURRENT.get()
        principal = request.principal if request is not None else None
        if not self._switch.is_on or request is None or principal is None:
            return
        known = self._known.get(record) or {}
        now: dict[str, tuple[str, RequestContext, RawStack]] = {}
        for key, value in itertools.islice(list(info.items()), NOTES_LIMIT):
            text = as_text(value)
            if type(key) is not str or text is None:
                continue
            before = known.get(key)
            if is_same(value, principal):
                now[key] = (text, request, stacks.capture(3))
            elif before is not None and before[0] == text:
                now[key] = before
                self._detector.found(record, self._name, {"info": key}, before[1], before[2])
        if now or known:
            self._known.put(record, now)


def is_in_transaction(driver: Any) -> bool:
    """Return what a driver's connection says of itself; False for drivers that do not tell. Only drivers' own attributes are read."""
    found = getattr(driver, "in_transaction", None)
    if type(found) is bool:
        return found
    asks = getattr(driver, "is_in_transaction", None)
    if callable(asks):
        return asks() is True
    status = getattr(getattr(driver, "info", None), "transaction_status", None)
    if status is not None:
        return int(status) in _IN_TRANSACTION
    # pymysql and its asynchronous relatives: the flag of MySQL's own protocol.
    flags = getattr(driver, "server_status", None)
    return type(flags) is int and bool(flags & 1)
