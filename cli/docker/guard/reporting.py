"""Tells the collector of the guard's actions. What it does not take waits beside the journal and goes with the next command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from isolation_monitor.cli.collector_client import CollectorClient, NoAnswer, UsageError
from isolation_monitor.cli.docker.guard.action import Action
from isolation_monitor.cli.docker.guard.journal import Journal, JournalError

PATH: Final = "/v1/container-actions"
_AT_ONCE: Final = 500


def report(client: CollectorClient, journal: Journal, actions: Sequence[Action]) -> str | None:
    """Send `actions`, and before them what an earlier command could not send; return what went wrong as a sentence.

    Never raises: a container was stopped whether or not somebody was told. Sending one again changes nothing there.
    """
    waiting = [*journal.unsent(), *(action.as_json() for action in actions)]
    problem = None
    sent: list[str] = []
    try:
        while waiting:
            client.request("POST", PATH, {"actions": waiting[:_AT_ONCE]})
            sent += [str(one["id"]) for one in waiting[:_AT_ONCE]]
            waiting = waiting[_AT_ONCE:]
    except (UsageError, NoAnswer) as error:
        problem = f"the collector was not told ({error}); {len(waiting)} actions wait beside the journal for the next command"
    try:
        journal.keep_unsent(waiting, sent)
    except JournalError as error:
        problem = problem or str(error)
    return problem
