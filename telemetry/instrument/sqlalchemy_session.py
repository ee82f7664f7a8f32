"""SQLAlchemy sessions and connections that two owners use: found without a call per statement of ordinary sessions.

An ordinary session is made, used and closed within one request; it costs one entry in a queue. Followed closely are
- sessions made outside of requests (a module's or a lifespan's), and sessions that outlive the request that made them:
  told at each transaction that they begin;
- connections that such a session works with, that are still out when their request ends, that were taken outside of
  requests and kept, or that are out for a while when the housekeeper looks, each second: told at each statement, commit
  and rollback, by wrappers on that one pool handle;
- SQLAlchemy's own refusals (`IllegalStateChangeError`, "concurrent operations are not permitted", "a transaction is already
  begun") and the driver's errors on a connection that another request took: they cost nothing until they are raised.
Judged by `detectors/shared_connection.py`. A session that was closed in between is fresh; a transaction that was
committed or rolled back is over; a session that is passed on with the last owner's objects in it is not.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.detectors.shared_connection import differ
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import SUPPORTED, version

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.session_leak import Checkout

FRESH_LIMIT: Final = 256
"""Sessions whose end is not known yet; beyond it the oldest are taken for ended."""
KEPT_LIMIT: Final = 2_000
"""Sessions that are followed closely."""
_AT_A_TIME: Final = 8
"""Sessions made outside of requests that one checkout looks at; the rest waits for the next, or for the next second."""
LASTING_S: Final = 0.05
"""A connection that was taken outside of requests and is out for longer is one that requests may share."""
_HANDLE_METHODS: Final = ("cursor", "commit", "rollback")
_MARK: Final = "__isolation_monitor__"


class _Kept:
    """What is known of one session that is followed. `objects_before` were there when its last user began."""

    __slots__ = ("collided", "identity_map", "objects_before")

    def __init__(self) -> None:
        self.identity_map: weakref.ref[Any] | None = None
        self.objects_before = 0
        self.collided: RequestContext | None = None
        """A request that SQLAlchemy refused because somebody else, unknown yet, was at the session."""


class SessionWatch:
    """Follows the sessions and connections of one monitor. Called from loops, worker threads and the housekeeper."""

    def __init__(self, detection: Detection) -> None:
        self._shared = detection.shared_connection
        self._leaks = detection.leaks
        self._reporter = detection.kit.reporter
        self._housekeeper = detection.kit.housekeeper
        self._switch = detection.switches[names.SHARED_CONNECTION]
        self.fresh: deque[tuple[int, RequestContext]] = deque(maxlen=FRESH_LIMIT)
        """Sessions, by serial number, that may outlive their request."""
        self.outside: deque[int] = deque(maxlen=FRESH_LIMIT)
        """Sessions that were made outside of requests and not looked at yet."""
        self._kept: ByIdentity[_Kept] = ByIdentity(KEPT_LIMIT)
        self._handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.live: Any = {}
        """SQLAlchemy's own table of the sessions that live: weak references by serial number."""
        self._is_on = False
        self._is_sweeping = False
        self._undo: list[Callable[[], None]] = []
        self._of_errors = Patch(
            "sqlalchemy",
            version()[0],
            "Connection._handle_dbapi_exception, IllegalStateChangeError.__init__",
            reversible=True,
            active=False,
        )
        self._of_sessions = Patch(
            "sqlalchemy",
            version()[0],
            "orm.session._new_sessionid, Session.begin, SessionTransaction._raise_for_prerequisite_state",
            reversible=True,
            active=False,
            note="waits until sqlalchemy.orm is imported",
        )
        self.patches = [self._of_errors, self._of_sessions]

    # --- on and off -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Hook what is loaded by now; called again each second until SQLAlchemy's ORM has been imported."""
        self._is_on = True
        self._leaks.on_left_out = self._left_out
        self._leaks.on_outside = self._taken_outside
        self._housekeeper.every_second(self._tick)
        self._hook_errors()
        self._hook_sessions()

    def stop(self) -> None:
        """Take every hook off, from sessions and handles that live on too."""
        from sqlalchemy import event

        self._is_on = False
        self._leaks.on_left_out = self._leaks.on_outside = None
        while self._undo:
            self._undo.pop()()
        for session in [reference() for reference in list(self.live.values())]:
            if session is not None and event.contains(session, "after_begin", self._began):
                event.remove(session, "after_begin", self._began)
        for handle in list(self._handles):
            for method in _HANDLE_METHODS:
                if hasattr(handle.__dict__.get(method), _MARK):
                    del handle.__dict__[method]
        self.live = {}
        self._kept = ByIdentity(KEPT_LIMIT)
        self._handles.clear()
        self.fresh.clear()
        self.outside.clear()
        for patch in self.patches:
            patch.active = False

    def _hook_sessions(self) -> None:
        module: Any = sys.modules.get("sqlalchemy.orm.session")
        if module is None or self.live or version()[1] not in SUPPORTED or not hasattr(module, "_new_sessionid"):
            return
        self.live = module._sessions.data
        # Those that are there already were made outside of requests, as far as anybody can tell.
        self.outside.extend(list(self.live))
        self._settle_outside(len(self.outside))
        self._undo.append(patches.replace(module, "_new_sessionid", self._numbering))
        self._undo.append(patches.replace(module.Session, "begin", self._beginning))
        self._undo.append(patches.replace(module.SessionTransaction, "_raise_for_prerequisite_state", self._refusing))
        self._of_sessions.active, self._of_sessions.note = True, ""

    def _hook_errors(self) -> None:
        import sqlalchemy.engine.base
        import sqlalchemy.exc

        if version()[1] not in SUPPORTED:
            return
        self._undo.append(patches.replace(sqlalchemy.engine.base.Connection, "_handle_dbapi_exception", self._failing))
        self._undo.append(patches.replace(sqlalchemy.exc.IllegalStateChangeError, "__init__", self._illegal))
        self._of_errors.active = True

    def _tick(self, _now: float) -> None:
        if self._is_on:
            self._hook_sessions()
            self._settle_outside(len(self.outside))
            for checkout in self._leaks.all_out():
                if checkout.age_s >= LASTING_S and checkout.handle is not None:
                    self._follow(checkout.handle(), checkout.request)

    def _error(self, error: BaseException) -> None:
        self._reporter.check_failed(names.SHARED_CONNECTION, "sqlalchemy", error)

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _numbering(self, original: Any) -> Any:
        fresh, outside, current = self.fresh.append, self.outside.append, CURRENT.get

        def new_sessionid() -> Any:
            serial = original()
            if self._is_on:
                request = current()
                if request is None:
                    outside(serial)
                else:
                    fresh((serial, request))
            return serial

        return new_sessionid

    def oldest(self) -> tuple[int, RequestContext] | None:
        """Take the session whose turn it is to be looked at."""
        try:
            return self.fresh.popleft()
        except IndexError:
            return None

    def settle(self, oldest: tuple[int, RequestContext] | None) -> None:
        """Look at the oldest session that may have outlived its request. Called at checkouts: before a session's begin is told."""
        try:
            if self.outside and CURRENT.get() is not None:
                self._settle_outside(_AT_A_TIME)
            reference = self.live.get(oldest[0]) if oldest is not None else None
            session = reference() if reference is not None else None
            if oldest is None or session is None:
                return
            if oldest[1].finished:
                self._keep(session, oldest[1])
            else:
                self.fresh.append(oldest)
        except Exception as error:
            self._error(error)

    def _settle_outside(self, limit: int) -> None:
        for _ in range(min(limit, len(self.outside))):
            try:
                reference = self.live.get(self.outside.popleft())
            except IndexError:
                # Another thread took the last one.
                return
            session = reference() if reference is not None else None
            if session is not None:
                self._keep(session, None)

    def _keep(self, session: Any, maker: RequestContext | None) -> _Kept:
        kept = self._kept.get(session)
        if kept is None:
            kept = _Kept()
            if self._kept.put(session, kept):
                from sqlalchemy import event

                event.listen(session, "after_begin", self._began)
            if maker is not None and maker.principal is not None:
                kept.identity_map = _identity_map(session)
                _inside(maker, self._shared.used, session, _name(session))
        return kept

    def _began(self, session: Any, _transaction: Any, connection: Any) -> None:
        """Note that a session that is followed has begun a transaction for the current request."""
        request = CURRENT.get()
        kept = self._kept.get(session)
        if not self._is_on or not self._switch.is_on or kept is None or request is None or request.principal is None:
            return
        try:
            collided, kept.collided = kept.collided, None
            now_in_it = _objects(session)
            before = kept.identity_map() if kept.identity_map is not None else None
            if collided is not None:
                _inside(collided, self._shared.used, session, _name(session))
            elif before is not session.__dict__.get("identity_map") or now_in_it <= kept.objects_before:
                # Closed since, or nothing of the last user's is left.
                self._shared.closed(session)
            self._shared.used(session, _name(session))
            kept.identity_map, kept.objects_before = _identity_map(session), now_in_it
            handle = connection.__dict__.get("_dbapi_connection")
            if handle is not None:
                self._follow(handle, request)
        except Exception as error:
            self._error(error)

    # --- connections ------------------------------------------------------------------------------------------------

    def _left_out(self, checkout: Checkout) -> None:
        """Note that a connection is still out at the end of its request."""
        self._follow(checkout.handle() if checkout.handle is not None else None, checkout.request)

    def _taken_outside(self) -> None:
        """Note that a connection was taken outside of requests: it is looked at again when it lasts."""
        if not self._is_sweeping:
            self._is_sweeping = True
            self._housekeeper.after(LASTING_S, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        young = False
        for checkout in self._leaks.all_out():
            if checkout.request is not None:
                continue
            if checkout.age_s < LASTING_S:
                young = True
            elif checkout.handle is not None:
                self._follow(checkout.handle(), None)
        if young and self._is_on:
            self._taken_outside()

    def _follow(self, handle: Any, owner: RequestContext | None) -> None:
        """Have each statement, commit and rollback of one pool handle told, from now until it goes back."""
        try:
            if handle is None or not self._is_on or not handle.is_valid or hasattr(handle.__dict__.get("cursor"), _MARK):
                return
            if _commits_by_itself(handle.dbapi_connection):
                return
            name = self._pool_of(handle)
            for method in _HANDLE_METHODS:
                if method not in handle.__dict__:
                    handle.__dict__[method] = self._told(handle, name, method)
            self._handles.add(handle)
            if owner is not None and owner.principal is not None:
                _inside(owner, self._shared.used, handle, name)
        except Exception as error:
            self._error(error)

    def _told(self, handle: Any, name: str, method: str) -> Any:
        # Weak: a handle that is dropped must go back to its pool at once, not when cycles are collected.
        of_handle, driver = weakref.ref(handle), handle.dbapi_connection
        theirs = getattr(type(handle), method, None)
        ends = method != "cursor"
        uses = method != "rollback"

        def told(*arguments: Any, **options: Any) -> Any:
            handle = of_handle()
            try:
                if uses and handle is not None and self._is_on:
                    self._shared.used(handle, name)
            except Exception as error:
                self._error(error)
            try:
                if handle is None:
                    return getattr(driver, method)(*arguments, **options)
                if theirs is None:
                    return getattr(handle.dbapi_connection, method)(*arguments, **options)
                return theirs(handle, *arguments, **options)
            finally:
                if ends and handle is not None:
                    self._ended(handle)

        setattr(told, _MARK, True)
        return told

    def _ended(self, handle: Any) -> None:
        try:
            self._shared.closed(handle)
        except Exception as error:
            self._error(error)

    def _pool_of(self, handle: Any) -> str:
        checkout = self._leaks.found(id(handle._connection_record))
        return checkout.pool if checkout is not None else "a SQLAlchemy pool"

    # --- refusals and errors ----------------------------------------------------------------------------------------

    def _refusing(self, original: Any) -> Any:
        def raise_for_prerequisite_state(transaction: Any, operation_name: str, state: Any) -> Any:
            if self._is_on and getattr(state, "name", "") == "PROVISIONING_CONNECTION":
                self._collided(transaction)
            return original(transaction, operation_name, state)

        return raise_for_prerequisite_state

    def _illegal(self, original: Any) -> Any:
        def __init__(error: Any, *arguments: Any, **options: Any) -> None:
            original(error, *arguments, **options)
            if self._is_on:
                self._collided(_transaction_of_caller())

        return __init__

    def _beginning(self, original: Any) -> Any:
        from sqlalchemy.exc import InvalidRequestError

        def begin(session: Any, nested: bool = False) -> Any:
            try:
                return original(session, nested)
            except InvalidRequestError:
                # Refused while a transaction is open: somebody's.
                if self._is_on:
                    self._handles_used_by_two(session.__dict__.get("_transaction"))
                raise

        return begin

    def _handles_used_by_two(self, transaction: Any) -> None:
        try:
            for connection, *_ in list(transaction._connections.values()) if transaction is not None else ():
                self._used_by_two(connection.__dict__.get("_dbapi_connection"))
        except Exception as error:
            self._error(error)

    def _collided(self, transaction: Any) -> None:
        """Note that the current request was refused by a session because somebody is at it."""
        try:
            request = CURRENT.get()
            session = getattr(transaction, "session", None)
            if request is None or request.principal is None or session is None:
                return
            self._keep(session, None).collided = request
            self._handles_used_by_two(transaction)
        except Exception as error:
            self._error(error)

    def _failing(self, original: Any) -> Any:
        def _handle_dbapi_exception(connection: Any, *arguments: Any, **options: Any) -> Any:
            if self._is_on:
                try:
                    self._used_by_two(connection.__dict__.get("_dbapi_connection"))
                except Exception as error:
                    self._error(error)
            return original(connection, *arguments, **options)

        return _handle_dbapi_exception

    def _used_by_two(self, handle: Any) -> None:
        """Report it when the current request works with a connection that a request of another principal has taken."""
        request = CURRENT.get()
        record = getattr(handle, "_connection_record", None)
        checkout = self._leaks.found(id(record)) if record is not None else None
        owner = checkout.request if checkout is not None else None
        if checkout is None or request is None or owner is None or owner.finished or not differ(owner, request):
            return
        _inside(owner, self._shared.used, handle, checkout.pool)
        self._shared.used(handle, checkout.pool)


def _inside(request: RequestContext, act: Callable[..., Any], *arguments: Any) -> None:
    """Call `act` as if `request` did: to say what it has done before anybody looked."""

    def call() -> None:
        CURRENT.set(request)
        act(*arguments)

    copy_context().run(call)


def _identity_map(session: Any) -> weakref.ref[Any]:
    return weakref.ref(session.__dict__["identity_map"])


def _objects(session: Any) -> int:
    """Return how many objects a session knows: loaded, to be inserted, to be deleted. Reads SQLAlchemy's own tables only."""
    inside = session.__dict__
    return len(inside["identity_map"].__dict__["_dict"]) + len(inside["_new"]) + len(inside["_deleted"])


def _name(session: Any) -> str:
    return f"SQLAlchemy {type(session).__qualname__}"


def _commits_by_itself(driver: Any) -> bool:
    """Return whether the driver's connection has no transactions, so that nobody can stand in another's."""
    if getattr(driver, "autocommit", None) is True:
        return True
    level = getattr(driver, "isolation_level", "")
    is_sqlite = "sqlite" in type(driver).__module__
    return level == "autocommit" or (is_sqlite and level is None)


def _transaction_of_caller() -> Any:
    """Return the SessionTransaction in whose state machine the exception that is being made will be raised."""
    frame = sys._getframe(1)
    for _ in range(6):
        if frame.f_code.co_name in ("_go", "_expect_state") and frame.f_globals.get("__name__") == "sqlalchemy.orm.state_changes":
            return frame.f_locals.get("self")
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
