"""What an application says of its runs and queues: the methods `run`, `events` and `queue` of the monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.automaton import EventNames
    from isolation_monitor.telemetry.delivery.run import Run
    from isolation_monitor.telemetry.monitor import IsolationMonitor


def begin_run(
    monitor: IsolationMonitor, run_id: str, *, owner: str | None = None, agent: str | None = None, conversation: str | None = None
) -> Run:
    """Begin one agent run, as a `with` or `async with` block.

    Args:
        run_id: the run's id, as its frames carry it.
        owner: the user's id, by default the request's principal.
        agent: the agent's name, and `conversation` the id of the thread, for the run's span in traces; leave the service with them.
    """
    monitor.frames.reads = True
    return monitor.runs.start(run_id, monitor.principals.named(owner) if owner is not None else None, agent, conversation)


def declare_events(monitor: IsolationMonitor, events: EventNames) -> None:
    """Declare the names of the service's run events."""
    monitor.runs.configure(events)


def declare_queue(monitor: IsolationMonitor, name: str, queue: object) -> None:
    """Watch how many items wait in a queue. One that a task empties into a WebSocket is found without this.

    Args:
        name: name in metrics; many queues, one of each user, may share it. At most 8 names are told apart.
        queue: an `asyncio` or `queue` queue or a `deque`, held weakly; or a function without arguments that returns its
            length, kept as long as the monitor and called once a second on a thread of the monitor's.

    Raises:
        SettingsError: it is none of these.
    """
    monitor.queue_depths.declare(name, queue)
