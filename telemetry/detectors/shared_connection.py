"""Shared connection: one connection or session that requests of two principals use at the same time.

Sees: what its clients' integrations tell. `used` and `idle` enclose one use: a statement, a transaction, a session with
work pending. A request of another principal that uses the object before the first use is over stands inside the first
one's transaction, or in its way. `sent` and `received` count commands and replies: a reply belongs to the
oldest command that has none, so a reply that a request of another principal reads is data in the wrong hands, whatever
made the two lose step (a cancelled or timed-out read, an error half-way, two tasks on one connection). Of sqlite3, aiosqlite
and psycopg2, on whose connections requests may take turns: a rollback that undoes another principal's write, a refused
write that another's commit has made permanent, a write inside another's transaction, and rows that another fetches of
a shared cursor (`shared_transactions.py`).
Cannot see: clients without an integration; SQLite connections that were open before the monitor came; a client that
numbers its replies and sorts them out itself (it must not be counted); a use that ended without the client saying so is
told by `idle` or the object's death only; what worker tasks of nobody do on one connection for the requests that queued it.
Cost: one table entry and one stack (about 3 us) per use or command; a table look-up for each further statement of it.
Precision: near 1. Uses of one principal, of unknown principals and of finished requests (a worker that lives in the
context of whoever started it) accuse nobody.
Grades: `reachable` for two at a time, `crossed` for a reply or rows that another principal read.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.stacks import RawStack

STREAM_KEY: Final = "_isolation_monitor_stream"
"""In the `__dict__` of an `asyncio.StreamReader`: what is known of its exchanges; None where a driver's integration counts them."""
UNREAD_LIMIT: Final = 10_000
"""Commands of one connection whose replies are outstanding; a connection with more is no longer counted."""


class _Use:
    """One use that is not over. `accused` is the request that was reported last, so that each is reported once."""

    __slots__ = ("accused", "name", "owner", "serial", "stack")

    def __init__(self, owner: RequestContext, name: str, serial: int, stack: RawStack) -> None:
        self.owner = owner
        self.name = name
        self.serial = serial
        self.stack = stack
        self.accused: RequestContext | None = None


class Sent:
    """Commands sent together whose replies are not all read. `left` counts those; `note` is the integration's own."""

    __slots__ = ("left", "note", "request", "stack")

    def __init__(self, request: RequestContext | None, left: int, stack: RawStack, note: object) -> None:
        self.request = request
        self.left = left
        self.stack = stack
        self.note = note


class _Line:
    """The commands of one connection that wait for replies, oldest first."""

    __slots__ = ("accused", "is_counted", "name", "serial", "unread")

    def __init__(self, name: str, serial: int) -> None:
        self.name = name
        self.serial = serial
        self.unread: deque[Sent] = deque()
        self.is_counted = True
        self.accused: RequestContext | None = None


class SharedConnection:
    """Knows who uses which connection now, and whose replies are still on their way."""

    def __init__(self, kit: Kit) -> None:
        self._switch = kit.switches[names.SHARED_CONNECTION]
        self._reporter = kit.reporter
        self._uses: ByIdentity[_Use] = ByIdentity()
        self._lines: ByIdentity[_Line] = ByIdentity()
        self._serial = itertools.count(1)

    # --- uses -------------------------------------------------------------------------------------------------------

    def used(self, connection: object, name: str, *, exclusive: bool = True) -> None:
        """Note that the current request begins, or goes on, to use a connection or session.

        Args:
            name: what evidence calls it: the pool or the server, never with a password.
            exclusive: False for one that serves several at a time by design, which is then not looked at.
        """
        request = CURRENT.get()
        if not self._switch.is_on or not exclusive or request is None:
            return
        use = self._uses.get(connection)
        if use is None:
            self._begin(connection, name, request)
            return
        owner = use.owner
        if owner is request:
            return
        if not differ(owner, request) or request.finished:
            if owner.finished or owner.principal is None:
                self._begin(connection, name, request)
            return
        if use.accused is request:
            return
        self._accuse(use, name, request)

    def refused(self, connection: object, name: str) -> None:
        """Note that the client refused the current request because the connection is in use: proof that two wanted it at once."""
        request, use = CURRENT.get(), self._uses.get(connection)
        if not self._switch.is_on or use is None or request is None or use.accused is request or request.finished:
            return
        if differ(use.owner, request):
            self._accuse(use, name, request)

    def _accuse(self, use: _Use, name: str, request: RequestContext) -> None:
        use.accused, owner = request, use.owner
        self._reporter.report(
            Violation(
                kind=names.SHARED_CONNECTION,
                grade="reachable",
                summary=f"a connection of {name} was used by a request of another principal while the first one's use was not over",
                resource=Resource("db_connection", use.name, {"serial": use.serial, "owner_finished": owner.finished}),
                victim=side_of(owner, use.stack),
                offender=side_of(request, stacks.capture(4)),
                arm=request.arm,
            ),
            request,
            owner,
        )

    def idle(self, connection: object) -> None:
        """Note that the use is over: returned, or its transaction ended. A request of another principal does not end it so."""
        use = self._uses.get(connection)
        if use is None:
            return
        request = CURRENT.get()
        if request is not None and request is not use.owner and not request.finished and differ(use.owner, request):
            # Whoever came between does not end the first one's use by finishing a statement of its own.
            return
        self._uses.drop(connection)
        if use.accused is None:
            self._reporter.checked(names.SHARED_CONNECTION)

    def closed(self, connection: object) -> None:
        """Note that the connection or session was closed, rolled back or given back, by whomsoever."""
        use = self._uses.drop(connection)
        if use is not None and use.accused is None:
            self._reporter.checked(names.SHARED_CONNECTION)

    def _begin(self, connection: object, name: str, request: RequestContext) -> None:
        if not self._uses.put(connection, _Use(request, name, next(self._serial), stacks.capture(4))):
            self._reporter.skipped(names.SHARED_CONNECTION)

    # --- commands and replies ---------------------------------------------------------------------------------------

    def sent(self, connection: object, name: str = "", count: int = 1, note: object = None, stack: RawStack | None = None) -> Sent | None:
        """Note that `count` commands are sent, each owed one reply. Returns the entry, to be taken back by `unsent`.

        Args:
            note: the integration's own, found again with the reply.
            stack: who sends, where it was taken already.
        """
        line = self._lines.get(connection)
        if line is None:
            line = _Line(name, next(self._serial))
            if not self._lines.put(connection, line):
                self._reporter.skipped(names.SHARED_CONNECTION)
                return None
        if not line.is_counted:
            return None
        if len(line.unread) >= UNREAD_LIMIT:
            self.uncounted(connection)
            return None
        request = CURRENT.get()
        if stack is None:
            stack = stacks.capture(3) if request is not None and self._switch.is_on else ()
        entry = Sent(request, count, stack, note)
        line.unread.append(entry)
        return entry

    def still_sent(self, connection: object, entry: Sent) -> None:
        """Put an entry back that a reconnection in the middle of its sending has cleared away."""
        line = self._lines.get(connection)
        if line is not None and line.is_counted and entry.left and not any(known is entry for known in line.unread):
            line.unread.append(entry)

    def unsent(self, connection: object, entry: Sent) -> None:
        """Take back commands that did not leave."""
        line = self._lines.get(connection)
        if line is not None:
            try:
                line.unread.remove(entry)
            except ValueError:
                return

    def received(self, connection: object) -> Sent | None:
        """Note that one reply was read by the current request; return the entry of the command it belongs to."""
        line = self._lines.get(connection)
        if line is None or not line.unread:
            return None
        entry = line.unread[0]
        entry.left -= 1
        if entry.left <= 0:
            line.unread.popleft()
        request, sender = CURRENT.get(), entry.request
        if sender is None or request is None or not self._switch.is_on:
            return entry
        if request is sender or not differ(sender, request):
            self._reporter.checked(names.SHARED_CONNECTION)
            return entry
        if line.accused is request or request.finished:
            return entry
        line.accused = request
        self._reporter.report(
            Violation(
                kind=names.SHARED_CONNECTION,
                grade="crossed",
                summary=f"a reply on a connection of {line.name} was read by a request of another principal than the one that asked",
                resource=Resource("db_connection", line.name, {"serial": line.serial, "still_unread": self.unread(connection)}),
                victim=side_of(sender, entry.stack),
                offender=side_of(request, stacks.capture(3)),
                arm=request.arm,
            ),
            request,
            sender,
        )
        return entry

    def unread(self, connection: object) -> int:
        """Return how many replies are owed to commands of this connection."""
        line = self._lines.get(connection)
        return sum(entry.left for entry in line.unread) if line is not None else 0

    def oldest_unread(self, connection: object) -> Sent | None:
        """Return the oldest command without a reply."""
        line = self._lines.get(connection)
        return line.unread[0] if line is not None and line.unread else None

    def reconnected(self, connection: object) -> None:
        """Note that the connection begins anew: nothing is owed on it."""
        line = self._lines.get(connection)
        if line is not None:
            line.unread.clear()
            line.is_counted = True

    def uncounted(self, connection: object) -> None:
        """Count no longer until the next `reconnected`: messages come on this connection without being asked for."""
        line = self._lines.get(connection)
        if line is not None:
            line.unread.clear()
            line.is_counted = False

    # --- told as a whole --------------------------------------------------------------------------------------------

    def between(
        self, name: str, summary: str, victim: RequestContext, victim_stack: RawStack,
        offender: RequestContext, offender_stack: RawStack, *, is_crossed: bool,
    ) -> None:  # fmt: skip
        """Note that two requests were on one connection at a time, where the integration itself knows both."""
        if not self._switch.is_on or not differ(victim, offender):
            return
        self._reporter.report(
            Violation(
                kind=names.SHARED_CONNECTION,
                grade="crossed" if is_crossed else "reachable",
                summary=summary,
                resource=Resource("db_connection", name, {"owner_finished": victim.finished}),
                victim=side_of(victim, victim_stack),
                offender=side_of(offender, offender_stack),
                arm=offender.arm,
            ),
            offender,
            victim,
        )

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let two synthetic requests use one object at a time."""
        connection = _Planted()
        lab.inside(lab.request(), self.used, connection, "planted")
        lab.inside(lab.request(of_offender=True), self.used, connection, "planted")
        self._uses.drop(connection)


class _Planted:
    """Stands for a connection in a planted fault."""

    __slots__ = ("__weakref__",)


def differ(one: RequestContext, other: RequestContext) -> bool:
    """Return whether two requests run for two principals, both known."""
    mine, yours = one.principal, other.principal
    return mine is not yours and mine is not None and yours is not None and mine.id != yours.id
