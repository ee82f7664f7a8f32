"""Dirty handover: a connection that comes to a request of another principal with state of its previous user.

Sees: what the integrations tell. `statement` reads what each statement leaves in its session (settings, role, search
path, temporary tables, advisory locks) and what clears it again; a hand-over is known by the principal of the request
that uses the connection, so that no pool has to say anything. `returned` and `taken` tell of state that only the pool or
the driver knows: an open transaction, unread replies, another database than configured.
Judged at the taker's first statement that works with the session: who sets all anew before is not harmed. A setting
accuses only where its value belongs to a principal (`owned_settings`); what was taken before that was known is reported
as soon as it is. A role accuses whatever it is, unless it was set before the connection worked for anybody else.
Cannot see: settings changed inside of functions and by statements longer than 4,000 characters; savepoints (what is set
since one is taken as kept); poolers between the service and its database; state of drivers without an integration.
Cost: 0.5 us per statement; about 5 us for one that sets something. Precision: near 1 for what pools tell and for
settings that carry a principal's id; the others need values of two principals first.
Grades: `reachable`; `crossed` when the taker's answer then carries the other's data (the content detectors escalate).
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.detectors.owned_settings import OwnedSettings
from isolation_monitor.telemetry.detectors.session_statements import Effect, effects
from isolation_monitor.telemetry.detectors.shared_connection import differ
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

LEFT_LIMIT: Final = 100
"""Left-over things remembered per connection."""
SUSPECTS_LIMIT: Final = 50
"""Hand-overs per setting that wait for the proof that it belongs to its principal: the latest."""
SUSPECTED_LIMIT: Final = 200
"""Settings with such hand-overs."""
RIGHTS: Final = ("role", "session authorization", "row_security")
"""Settings that decide what a session may see: left by one request, they are another's wrong rights, whatever the value."""
_TRUE: Final = ("true", "t", "1", "on", "yes")
_NO_STATE: Final[Mapping[str, str]] = {}


class _Left:
    """One thing left in a session. `before` is what a rollback of the transaction that made it brings back."""

    __slots__ = ("before", "in_transaction", "is_setup", "kind", "name", "request", "stack", "value")

    def __init__(self, kind: str, name: str, value: str, request: RequestContext | None, in_transaction: bool) -> None:
        self.kind = kind
        self.name = name
        self.value = value
        self.request = request
        self.stack: RawStack = stacks.capture(5) if request is not None else ()
        self.in_transaction = in_transaction
        self.before: _Left | None = None
        self.is_setup = True
        """Set before the session worked for anybody else: what pools' own hooks do with a new connection."""


class _Session:
    """What is known of one connection."""

    __slots__ = ("in_transaction", "judged", "left", "local", "name", "returner", "returner_stack", "serial", "trying")

    def __init__(self, name: str, serial: int) -> None:
        self.name = name
        self.serial = serial
        self.left: dict[str, _Left] = {}
        self.local: set[str] = set()
        """Settings that the running transaction has for itself."""
        self.in_transaction = False
        self.trying: _Left | None = None
        """A lock of the last statement, got or not."""
        self.judged: RequestContext | None = None
        """The request that used the session last; what it found there was looked at."""
        self.returner: RequestContext | None = None
        self.returner_stack: RawStack = ()


class DirtyHandover:
    """Follows what is left in the sessions of pooled connections, and who finds it."""

    def __init__(self, kit: Kit) -> None:
        self._switch = kit.switches[names.DIRTY_HANDOVER]
        self._reporter = kit.reporter
        self._sessions: ByIdentity[_Session] = ByIdentity()
        self._serial = itertools.count(1)
        self._owned = OwnedSettings()
        self._suspects: dict[str, deque[tuple[_Session, _Left, RequestContext, RawStack]]] = {}

    # --- what pools and drivers know --------------------------------------------------------------------------------

    def returned(self, connection: object, name: str, state: Mapping[str, str] = _NO_STATE) -> None:
        """Note that the current request gives the connection back. `state` is for evidence: the truth is `taken`'s."""
        request = CURRENT.get()
        if not self._switch.is_on or request is None:
            return
        session = self._session(connection, name)
        if session is not None:
            session.returner = request
            session.returner_stack = stacks.capture(3) if state else ()

    def taken(self, connection: object, name: str, state: Mapping[str, str] = _NO_STATE) -> None:
        """Note that the current request receives the connection.

        Args:
            state: what is found on it that its previous user must have left and the next one does not expect, name to
                value (`{"transaction": "open"}`, `{"unread_replies": "2"}`). Empty: nothing, which is one check passed.
        """
        request = CURRENT.get()
        if not self._switch.is_on or request is None:
            return
        if not state:
            self._reporter.checked(names.DIRTY_HANDOVER)
            return
        session = self._session(connection, name)
        owner = (session.returner or session.judged) if session is not None else None
        if session is not None and owner is not None:
            self.found(connection, name, state, owner, session.returner_stack)

    def found(self, connection: object, name: str, state: Mapping[str, str], owner: RequestContext, stack: RawStack = ()) -> None:
        """Note that the current request finds `state` of `owner` on the connection: the same where the caller knows who left it."""
        request = CURRENT.get()
        if not self._switch.is_on or request is None or request.finished or not differ(owner, request):
            return
        session = self._session(connection, name)
        what = ", ".join(f"{key} ({value})" for key, value in state.items())
        self._report(name, session.serial if session else 0, what, dict(state), owner, stack, request, stacks.capture(3))

    def proven(
        self, connection: object, name: str, state: Mapping[str, str], owner: RequestContext, owner_stack: RawStack,
        taker: RequestContext, taker_stack: RawStack, *, is_crossed: bool,
    ) -> None:  # fmt: skip
        """Note what `taker` found of `owner`, told afterwards: what came later proved it. `is_crossed`: it read what answered `owner`."""
        if not self._switch.is_on or not differ(owner, taker):
            return
        session = self._session(connection, name)
        what = ", ".join(f"{key} ({value})" for key, value in state.items())
        serial, grade = session.serial if session else 0, "crossed" if is_crossed else "reachable"
        self._report(name, serial, what, dict(state), owner, owner_stack, taker, taker_stack, grade)

    def closed(self, connection: object) -> None:
        """Note that the session is over: closed, or begun anew on the same object."""
        self._sessions.drop(connection)

    # --- what passes by ---------------------------------------------------------------------------------------------

    def statement(self, connection: object, text: str, params: Sequence[object] | None = None, name: str = "sql") -> None:
        """Note a statement that the current request is about to send. Call it on the driver's own connection object."""
        if not self._switch.is_on:
            return
        done = effects(text)
        session = self._sessions.get(connection)
        if session is None:
            session = self._session(connection, name)
            if session is None:
                return
        request = CURRENT.get()
        session.trying = None
        for effect in done:
            if effect.act == "work":
                if request is not None and session.judged is not request:
                    self._judge(session, request, text)
            else:
                self._apply(session, effect, params, request)

    def answered(self, connection: object, value: object) -> None:
        """Note the first value that the last statement returned: whether a lock that was tried was got."""
        session = self._sessions.get(connection)
        if session is not None and session.trying is not None:
            lock, session.trying = session.trying, None
            if value is True:
                self._put(session, lock)

    def set(self, connection: object, setting: str, value: str, name: str) -> None:
        """Note that the current request sets something on a session that is no SQL session."""
        if not self._switch.is_on:
            return
        session = self._session(connection, name)
        if session is not None:
            self._set(session, setting, value, CURRENT.get())

    def _apply(self, session: _Session, effect: Effect, params: Sequence[object] | None, request: RequestContext | None) -> None:
        act, left = effect.act, session.left
        name = _text(params, effect.name).lower() if isinstance(effect.name, int) else effect.name
        if act in ("set", "local"):
            value = _text(params, effect.value)
            if act == "local" or (effect.local is not None and _text(params, effect.local).lower() in _TRUE):
                session.local.add(name)
                self._learn(name, value, request)
            else:
                self._set(session, name, value, request)
        elif act == "reset":
            left.pop(name, None)
        elif act in ("temp", "temp_if_new", "empty_temp"):
            # One that is there already keeps its rows; one that is emptied is from then on who emptied it's.
            if (name in left) == (act == "empty_temp") or act == "temp":
                self._put(session, _Left("temporary table", name, name, request, session.in_transaction))
        elif act in ("lock", "try_lock"):
            key = f"{effect.value} {_text(params, 0) if '$' in str(effect.value) else ''}".strip()
            lock = _Left("advisory lock", f"advisory lock {key}", key, request, in_transaction=False)
            if act == "lock":
                self._put(session, lock)
            else:
                session.trying = lock
        elif act == "begin":
            session.in_transaction = True
        elif act in ("commit", "rollback"):
            self._end_transaction(session, is_kept=act == "commit")
        elif act == "drop_temp":
            self._clear(session, "temporary table", name)
        elif act in ("unlock", "unlock_all"):
            # Which one of several is let go would need the values compared: all count as let go.
            self._clear(session, "advisory lock", "*")
        elif act == "reset_all":
            self._clear(session, "setting", "*", but=("role", "session authorization"))
        elif act == "discard_all":
            left.clear()
            session.local.clear()

    def _set(self, session: _Session, name: str, value: str, request: RequestContext | None) -> None:
        left = _Left("setting", name, value, request, session.in_transaction)
        left.is_setup = session.judged is None or session.judged is request
        self._put(session, left)
        self._learn(name, value, request)

    def _learn(self, name: str, value: str, request: RequestContext | None) -> None:
        principal = request.principal if request is not None else None
        if principal is not None and self._owned.learn(name, value, principal.id):
            self._judge_suspects(name)

    def _put(self, session: _Session, left: _Left) -> None:
        before = session.left.get(left.name)
        if before is None and len(session.left) >= LEFT_LIMIT:
            return
        if left.in_transaction:
            left.before = before.before if before is not None and before.in_transaction else before
        session.left[left.name] = left

    @staticmethod
    def _clear(session: _Session, kind: str, name: str, but: tuple[str, ...] = ()) -> None:
        for key, left in list(session.left.items()):
            if left.kind == kind and name in ("*", left.name) and key not in but:
                session.left.pop(key, None)

    @staticmethod
    def _end_transaction(session: _Session, is_kept: bool) -> None:
        session.in_transaction = False
        session.local.clear()
        for key, left in list(session.left.items()):
            if not left.in_transaction:
                continue
            if is_kept:
                left.in_transaction, left.before = False, None
            elif left.before is not None:
                session.left[key] = left.before
            else:
                session.left.pop(key, None)

    # --- judgement --------------------------------------------------------------------------------------------------

    def _judge(self, session: _Session, request: RequestContext, text: str) -> None:
        """Look at what a request finds in a session that it has not used since somebody else did."""
        if request.finished or request.principal is None:
            return
        is_harmed = is_masked = False
        for left in list(session.left.values()):
            owner = left.request
            if owner is None or owner is request or not differ(owner, request):
                continue
            if left.name in session.local:
                is_masked = True
            elif left.kind == "setting":
                is_of_rights = left.name in RIGHTS and not left.is_setup
                if is_of_rights or self._owned.belongs(left.name, left.value, _id(owner), _id(request)):
                    is_harmed = True
                    self._accuse(session, left, request, stacks.capture(4))
                else:
                    self._suspect(session, left, request)
            elif left.kind == "advisory lock" or left.name in text.lower():
                is_harmed = True
                self._accuse(session, left, request, stacks.capture(4))
            else:
                is_masked = True
        if not is_masked:
            session.judged = request
        if not is_harmed:
            self._reporter.checked(names.DIRTY_HANDOVER)

    def _suspect(self, session: _Session, left: _Left, request: RequestContext) -> None:
        waiting = self._suspects.get(left.name)
        if waiting is None:
            if len(self._suspects) >= SUSPECTED_LIMIT:
                return
            waiting = self._suspects[left.name] = deque(maxlen=SUSPECTS_LIMIT)
        if not waiting or waiting[-1][2] is not request:
            waiting.append((session, left, request, stacks.capture(5)))

    def _judge_suspects(self, name: str) -> None:
        for session, left, taker, stack in self._suspects.pop(name, ()):
            owner = left.request
            if owner is not None and self._owned.belongs(name, left.value, _id(owner), _id(taker)):
                self._accuse(session, left, taker, stack)

    def _accuse(self, session: _Session, left: _Left, taker: RequestContext, stack: RawStack) -> None:
        if left.request is not None:
            what = f"{left.kind} {left.name}" if left.kind == "setting" else f"{left.kind} ({left.name})"
            # Values may be tenants' names: evidence carries what was left, never its value.
            self._report(session.name, session.serial, what, {left.kind: left.name}, left.request, left.stack, taker, stack)

    def _report(
        self, name: str, serial: int, what: str, state: dict[str, str],
        owner: RequestContext, owner_stack: RawStack, taker: RequestContext, taker_stack: RawStack, grade: str = "reachable",
    ) -> None:  # fmt: skip
        self._reporter.report(
            Violation(
                kind=names.DIRTY_HANDOVER,
                grade=grade,
                summary=f"a connection of {name} came to another principal with state of its previous user: {what}",
                resource=Resource("db_connection", name, {"serial": serial, "state": state}),
                victim=side_of(owner, owner_stack),
                offender=side_of(taker, taker_stack),
                arm=taker.arm,
            ),
            taker,
            owner,
        )

    def _session(self, connection: object, name: str) -> _Session | None:
        session = self._sessions.get(connection)
        if session is None:
            session = _Session(name, next(self._serial))
            if not self._sessions.put(connection, session):
                self._reporter.skipped(names.DIRTY_HANDOVER)
                return None
        return session

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let a synthetic request leave its setting to the next one."""
        connection = _Planted()
        victim = lab.request()
        session = self._session(connection, "planted")
        if session is not None:
            # Not through `statement`: planted values teach nothing about the host's settings.
            session.left["planted.owner"] = lab.inside(victim, _Left, "setting", "planted.owner", _id(victim), victim, False)
        lab.inside(lab.request(of_offender=True), self.statement, connection, "SELECT * FROM planted")
        self._sessions.drop(connection)


class _Planted:
    """Stands for a connection in a planted fault."""

    __slots__ = ("__weakref__",)


def _id(request: RequestContext) -> str:
    return request.principal.id if request.principal is not None else ""


def _text(params: Sequence[object] | None, place: str | int) -> str:
    """Return a text of a statement, or the parameter that stands for it; plain built-in values only."""
    if isinstance(place, str):
        return place
    if type(params) not in (tuple, list) or params is None or not 0 <= place < len(params):
        return ""
    value = params[place]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    return str(value) if type(value) in (str, int, bool) or type(value).__module__ == "uuid" else ""
