"""Wrong socket: an event of one principal's run that is sent on another principal's connection.

Sees: frames that carry the id of a run known in this process, or that are a run's event and name another principal in a
declared identity field. The connection's principal was bound at its handshake.
Cannot see: frames without a run id and without identity fields; runs of other processes unless the frame names its owner.
Room messages and broadcasts are no run's events and are not judged here.
Cost: one dictionary look-up per frame that is read. Precision: 1 (a run has one owner).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.violations import Reporter, Resource, Violation, request_id, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import Connection, RequestContext
    from isolation_monitor.telemetry.delivery.run import Run


def belongs_elsewhere(run: Run, connection: Connection) -> bool:
    """True when the run's owner and the connection's principal are both known and differ."""
    owner, receiver = run.owner, connection.principal
    return owner is not None and receiver is not None and owner.id != receiver.id


def report(reporter: Reporter, run: Run, event: str, connection: Connection, sender: RequestContext) -> None:
    """Report the frame: the victim owns the run, the offender is the connection that received its event."""
    reporter.report(
        Violation(
            kind=names.WRONG_SOCKET,
            grade="crossed",
            summary=f"{event} of one principal's run was sent on another principal's connection",
            resource=Resource("websocket", sender.route, {"event": event, "connection_id": request_id(connection.serial)}),
            victim=side_of(run.request, run.stack, principal=run.owner, run_id=run.id),
            offender=side_of(sender, stacks.capture(4), principal=connection.principal),
            arm=sender.arm,
        ),
        sender,
        run.request,
    )
