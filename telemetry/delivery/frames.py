"""Frames on their way out: which run and event they belong to, whom they name, and whether their socket is the right one.

A frame is searched by regular expressions, never parsed: 500 bytes cost a few microseconds. Frames are read only when
runs or identity fields are declared.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, Connection
from isolation_monitor.telemetry.delivery.run import Run
from isolation_monitor.telemetry.delivery.socketio import event_of
from isolation_monitor.telemetry.delivery.streamed import Streamed
from isolation_monitor.telemetry.detectors import foreign_identity, wrong_socket
from isolation_monitor.telemetry.detectors.own_work import OwnWork
from isolation_monitor.telemetry.tokens import legible

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.delivery.run import Runs
    from isolation_monitor.telemetry.detectors.foreign_identity import IdentityFields
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principals

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Content(Protocol):
    """Judges what a text carries; `detectors/foreign_content.py`."""

    def made(self, value: object, by: RequestContext) -> None: ...

    def is_for_all(self, scope: Any) -> bool: ...

    def leaving(self, request: RequestContext, text: str, where: str, *, scope: Any = None, learns: bool = True) -> bool: ...


class Frames:
    """Judges outgoing WebSocket frames. `reads` is False while there is nothing to look for."""

    plants_on_loop = True

    def __init__(self, ledger: Ledger, principals: Principals, runs: Runs, run_id_field: str, event_field: str, limit: int) -> None:
        self.reads = False
        self.identity: IdentityFields | None = None
        self._ledger = ledger
        self._principals = principals
        self._runs = runs
        self._own_work = OwnWork(principals.known)
        self._limit = limit
        self._fields = (run_id_field, event_field)
        self._run_id = re.compile(rf'"{re.escape(run_id_field)}"\s*:\s*"([^"\\]*)"')
        self.content: Content | None = None
        self._event = re.compile(rf'"{re.escape(event_field)}"\s*:\s*"([^"\\]*)"')

    def send(self, message: Message, send: Send, connection: Connection, request: RequestContext | None) -> Awaitable[None]:
        """Judge a frame and hand it on; the awaitable is the inner one, or one that counts the event once it was sent."""
        try:
            run, event = self._judge(message, connection, request)
        except Exception as error:
            if request is not None:
                request.unverifiable = True
            self._ledger.check_failed(names.WRONG_SOCKET, "middleware", error)
            return send(message)
        if run is None:
            return send(message)
        return self._send_event(message, send, run, event, connection)

    def streamed(self, content_type: bytes) -> Streamed:
        """Return what watches a streaming answer for events of runs."""
        return Streamed(self._runs, self.names_in, content_type)

    def names_in(self, text: str) -> tuple[str, str]:
        """Return the run id and the event that a text names; each empty where it names none."""
        run_id = self._run_id.search(text)
        return run_id[1] if run_id else "", self._event_in(text)

    def plant(self, lab: Lab) -> None:
        """Send an event of the victim's run on a connection of the offender: the fault that `wrong_socket` sees."""
        run = Run(self._runs, f"planted-{lab.name}", lab.victim, lab.request())
        request = lab.request(of_offender=True)
        run_id_field, event_field = self._fields
        self._runs.known[run.id] = run
        try:
            self._judge(
                {"text": f'{{"{run_id_field}": "{run.id}", "{event_field}": "planted"}}'},
                Connection(lab.offender, request.scope or {}),
                request,
            )
        finally:
            self._runs.known.pop(run.id, None)

    async def _send_event(self, message: Message, send: Send, run: Run, event: str, connection: Connection) -> None:
        await send(message)
        # Only here is it sent: an exception of the server's send means that the event did not leave.
        try:
            self._runs.sent(run, event, connection)
        except Exception as error:
            self._ledger.internal_error("run", error)

    def _judge(self, message: Message, connection: Connection, request: RequestContext | None) -> tuple[Run | None, str]:
        ledger = self._ledger
        text = message.get("text")
        if text is None:
            body = message.get("bytes")
            text = legible(body) if isinstance(body, bytes) and len(body) <= self._limit else ""
        if not text or len(text) > self._limit:
            ledger.skipped(names.FOREIGN_IDENTITY)
            return None, ""
        run: Run | None = None
        event = ""
        if match := self._run_id.search(text):
            run = self._runs.known.get(match[1])
            event = self._event_in(text)
            if run is None and event in self._runs.events.all:
                self._runs.routes.unknown(event, connection, request)
        if run is not None:
            if wrong_socket.belongs_elsewhere(run, connection):
                if run.owner is None or not run.owner.is_synthetic:
                    self._runs.strayed(run)
                if request is not None:
                    wrong_socket.report(ledger, run, event, connection, request)
                # An event on a stranger's socket is no delivery.
                return None, event
            passes = ledger.passes[names.WRONG_SOCKET]
            passes.values[passes.index] += 1.0
            if run.connection is not connection:
                run.connection = connection
            if run.request is not None:
                connection.sending = run.request
        self._judge_identity(text, run, event, connection, request)
        if self.content is not None and request is not None:
            sender = CURRENT.get()
            if sender is not None and sender is not request and self._own_work.is_of(sender):
                self.content.made(text, sender)
            self.content.leaving(request, text, f"the frame {event}".strip(), scope=connection.scope)
        return run, event

    def _event_in(self, text: str) -> str:
        if event := event_of(text):
            return event
        found = self._event.search(text)
        return found[1] if found else ""

    def _judge_identity(self, text: str, run: Run | None, event: str, connection: Connection, request: RequestContext | None) -> None:
        identity, principal = self.identity, connection.principal
        if identity is None or request is None:
            return
        if principal is None or principal.is_credential:
            self._ledger.skipped(names.FOREIGN_IDENTITY)
            return
        named = identity.foreign_in_text(text, principal.id)
        if named is None:
            passes = self._ledger.passes[names.FOREIGN_IDENTITY]
            passes.values[passes.index] += 1.0
            return
        # A run's event that names a stranger and belongs to no run of this connection came to the wrong socket;
        # in a frame of the connection's own run, the content is wrong.
        strayed = run is None and event in self._runs.events.all
        if not strayed and self.content is not None and self.content.is_for_all(connection.scope):
            # Whoever wrote there is named to everybody.
            self._ledger.skipped(names.FOREIGN_IDENTITY)
            return
        foreign_identity.report(
            self._ledger,
            self._principals,
            request,
            named,
            f"the frame {event}".strip(),
            kind=names.WRONG_SOCKET if strayed else names.FOREIGN_IDENTITY,
            stack=stacks.capture(4),
            run_id=run.id if run else None,
        )
