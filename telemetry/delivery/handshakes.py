"""Bad handshake: a WebSocket that was let in for nobody, or for somebody else than it says.

Sees, when the application accepts a connection: that the principal it finds now differs from the one that the handshake
carried; that a declared identity field in the path or query (`/ws/{user_id}`, `?user_id=`) names somebody else; that a
connection id (setting `connection_id_field`) is another user's, still open or lately closed. And a connection that stays
without a principal though nearly all others of its endpoint have one: judged after ten seconds, or when it closes, so that
a user who signs in by his first message counts as accepted.
Cannot see: who should have been there where no principal extractor is declared; endpoints that were declared public, or
that a third of their users visit without signing in, owe nobody a principal.
Every handshake is counted by its outcome, and every close by who closed and by its code, whether something is wrong or not.
Cost: about 2 us a handshake. Precision: near 1 for a principal that disagrees; 0.9 for one that is missing.
Grades: `hygiene`; what then reaches another user's socket is `wrong_socket`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import Connection, RequestContext, clock
from isolation_monitor.telemetry.detectors.access_rules import in_scope
from isolation_monitor.telemetry.violations import Resource, Violation, request_id, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.foreign_identity import IdentityFields
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principal, Scope

ANSWER_AFTER_S: Final = 10.0
"""A handshake that the application has not answered by then has timed out: browsers and proxies give up about as soon."""
NAMED_AFTER_S: Final = 10.0
"""By then a user who signs in by a message has done so."""
SERVER_FAULT_CODES: Final = frozenset(range(1011, 1015))
"""Close codes by which a server says that it is at fault: internal error, restart, overload, a bad gateway behind it."""
ENDPOINTS_LIMIT: Final = 1_000
IDS_LIMIT: Final = 10_000
NAMED_AT_LEAST: Final = 3
NAMED_PER_UNNAMED: Final = 2
"""An endpoint owes every connection a principal when it had so many with one, and this many times as many as without."""

_REASONS: Final = {
    1000: "normal", 1001: "going_away", 1005: "no_status", 1006: "abnormal", 1008: "policy", 1011: "error",
    1012: "restart", 1013: "restart", 1014: "restart",
    **dict.fromkeys((1002, 1003, 1007, 1009, 1010, 1015), "protocol"),
}  # fmt: skip


class Handshakes:
    """Follows each connection from its handshake to its close."""

    def __init__(self, ledger: Ledger, principal_of: Callable[[Scope], Principal | None], id_field: str) -> None:
        self.connections: set[Connection] = set()
        self.identity: Callable[[], IdentityFields | None] = lambda: None
        self.is_public: Callable[[Scope], bool] = lambda scope: False
        self.id_field = id_field
        self._ledger = ledger
        self._principal_of = principal_of
        registry = ledger.registry
        self._outcomes = {one: registry.counter(names.WEBSOCKET_CONNECTIONS, outcome=one) for one in names.HANDSHAKE_OUTCOMES}
        self._visits: dict[int, tuple[Any, list[int]]] = {}
        """By identity of the endpoint, which is kept: connections with a principal, and without."""
        self._ids: OrderedDict[str, tuple[Principal, Connection]] = OrderedDict()

    # --- the course of a connection -----------------------------------------------------------------------------------

    def accepted(self, connection: Connection, scope: Scope, request: RequestContext | None) -> None:
        """The application lets the connection in. Whose it is is asked once more: a router and a session have run by now."""
        try:
            if connection.outcome is not None:
                # It has timed out already.
                connection.is_accepted = True
                return
            connection.is_accepted = True
            if connection.principal is None:
                return
            now = self._principal_of(scope) or connection.principal
            self._visits_of(connection)[0] += 1
            if now.id != connection.principal.id and not (now.is_credential or connection.principal.is_credential):
                self._disagrees(connection, request, now, "the principal that the application finds now is another")
                return
            identity = self.identity()
            for field, value in in_scope(scope, dict.fromkeys(identity.fields)) if identity is not None else ():
                if value != now.id and not now.is_credential:
                    self._disagrees(connection, request, None, f"the address names another in {field}")
                    return
            if self.id_field and self._takes_over(connection, scope, request, now):
                return
            self._count(connection, "accepted")
            self._ledger.checked(names.BAD_HANDSHAKE)
        except Exception as error:
            self._ledger.check_failed(names.BAD_HANDSHAKE, "middleware", error)

    def named(self, connection: Connection) -> None:
        """A message has told whose the connection is."""
        if connection.outcome is None and connection.is_accepted:
            self._visits_of(connection)[0] += 1
            self._count(connection, "accepted")
            self._ledger.checked(names.BAD_HANDSHAKE)

    def closed(self, connection: Connection, by: str, code: object) -> None:
        """The first close counts: `by` is `client`, `server`, or `nobody` when the handler ended without one."""
        try:
            if connection.closed_by is None:
                connection.closed_by = by
                self._closed(connection, by, code if type(code) is int else 1005)
        except Exception as error:
            self._ledger.internal_error("middleware", error)

    def ended(self, connection: Connection, error: BaseException | None) -> None:
        """The handler is over; what is not known of the handshake by now is decided."""
        if connection.is_accepted:
            self.closed(connection, "nobody", 1006)
        try:
            if connection.is_accepted and connection.outcome is None:
                self._judge_unnamed(connection)
            elif connection.outcome is None:
                gone = error is not None and not isinstance(error, Exception)
                self._count(connection, "timed_out" if gone else "error")
        except Exception as failure:
            self._ledger.check_failed(names.BAD_HANDSHAKE, "middleware", failure)

    def tick(self, _: float) -> None:
        """Once a second: handshakes that nobody answers, connections that nobody has signed in on, and who is idle or dead."""
        states = dict.fromkeys(names.CONNECTION_STATES, 0)
        now = clock()
        for connection in list(self.connections):
            if connection.outcome is None:
                if not connection.is_accepted and now - connection.opened_at >= ANSWER_AFTER_S:
                    self._count(connection, "timed_out")
                elif connection.is_accepted and now - connection.opened_at >= NAMED_AFTER_S:
                    self._judge_unnamed(connection)
            states[connection.state(now)] += 1
        for state, number in states.items():
            self._ledger.registry.gauge(names.WEBSOCKET_STATE, state=state).set(float(number))

    def has_open(self, principal: Principal) -> bool:
        """Return whether a user has a connection to this process that is open."""
        return any(one.principal is principal and not one.closed for one in list(self.connections))

    def _closed(self, connection: Connection, by: str, code: int) -> None:
        if connection.outcome is None and not connection.is_accepted:
            self._count(connection, "timed_out" if by == "client" else "error" if code in SERVER_FAULT_CODES else "refused")
        if not connection.is_accepted:
            return
        if connection.outcome is None and by == "server" and not connection.heard_at and _refuses(code):
            # Accepted only to tell why: a browser cannot read the reason of a refused handshake.
            self._count(connection, "refused")
        self._ledger.registry.counter(names.WEBSOCKET_CLOSES, by=by, reason=reason_of(code)).inc()

    # --- judgement ----------------------------------------------------------------------------------------------------

    def _takes_over(self, connection: Connection, scope: Scope, request: RequestContext | None, principal: Principal) -> bool:
        """Note the id that the connection goes by; return whether it is, or was, another user's."""
        value = next((value for _, value in in_scope(scope, {self.id_field: None})), None)
        if value is None:
            return False
        owner, earlier = self._ids.get(value, (principal, None))
        if earlier is not None and (owner is not principal or not earlier.closed):
            by = "same_user" if owner is principal else "another_user"
            self._ledger.registry.counter(names.WEBSOCKET_ID_REUSE, by=by).inc()
        if owner is not principal:
            state = "closed" if earlier is None or earlier.closed else "open"
            self._disagrees(connection, request, owner, f"its connection id is another user's, whose connection is {state}")
        self._ids[value] = (principal, connection)
        self._ids.move_to_end(value)
        if len(self._ids) > IDS_LIMIT:
            self._ids.popitem(last=False)
        return owner is not principal

    def _judge_unnamed(self, connection: Connection) -> None:
        visits = self._visits_of(connection)
        if connection.principal is not None or self._principal_of(connection.scope) is not None:
            visits[0] += 1
            self._count(connection, "accepted")
            return
        named, unnamed = visits
        visits[1] += 1
        if self.is_public(connection.scope) or named < NAMED_AT_LEAST or named <= NAMED_PER_UNNAMED * unnamed:
            self._count(connection, "accepted")
            return
        self._count(connection, "no_principal")
        self._report(connection, None, None, "nobody is signed in on it")

    def _disagrees(self, connection: Connection, request: RequestContext | None, other: Principal | None, what: str) -> None:
        self._count(connection, "principal_disagrees")
        self._report(connection, request, other, what)

    def _report(self, connection: Connection, request: RequestContext | None, other: Principal | None, what: str) -> None:
        seen = request or RequestContext(connection.principal, connection.scope, connection, None)
        self._ledger.report(
            Violation(
                kind=names.BAD_HANDSHAKE,
                grade="hygiene",
                summary=f"{seen.route} let a connection in: {what}",
                resource=Resource("websocket", seen.route, {"what": what, "connection_id": request_id(connection.serial)}),
                victim=side_of(None, principal=other) if other is not None else None,
                offender=side_of(seen, stacks.capture(4) if request is not None else ()),
                arm=seen.arm,
                synthetic=connection.principal is not None and connection.principal.is_synthetic,
            )
        )

    def plant(self, lab: Lab) -> None:
        """Let a connection of the offender in whose connection id was the victim's."""
        connection = Connection(lab.offender, lab.request().scope or {})
        connection.outcome = "planted"
        self._disagrees(connection, lab.request(of_offender=True), lab.victim, "its connection id is another user's")

    def _count(self, connection: Connection, outcome: str) -> None:
        if connection.outcome is None:
            connection.outcome = outcome
            self._outcomes[outcome].inc()

    def _visits_of(self, connection: Connection) -> list[int]:
        endpoint = connection.scope.get("endpoint")
        known = self._visits.get(id(endpoint))
        if known is None:
            if len(self._visits) >= ENDPOINTS_LIMIT:
                self._visits.pop(next(iter(self._visits)))
            known = self._visits[id(endpoint)] = (endpoint, [0, 0])
        return known[1]


def reason_of(code: int) -> str:
    """Return one of `names.CLOSE_REASONS` for a close code (RFC 6455, section 7.4)."""
    return "application" if 3000 <= code <= 4999 else _REASONS.get(code, names.OTHER)


def _refuses(code: int) -> bool:
    return code == 1008 or 3000 <= code <= 4999
