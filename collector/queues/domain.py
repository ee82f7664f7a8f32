"""Queues in plain values: what each worker said last, put together by user and by service."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one user in one worker."""

    principal: str
    events: int
    bytes: int
    oldest: datetime
    connections: int


@dataclass(frozen=True, slots=True)
class Statement:
    """What one worker said last: the numbers of all who wait there, and the deepest queues."""

    service: str
    instance: str
    received_at: datetime
    users: int
    events: int
    bytes: int
    deepest: tuple[Waiting, ...]


@dataclass(slots=True)
class UserQueue:
    """What waits for one user in all workers of a service. `oldest` is when the oldest event was emitted."""

    service: str
    principal: str
    oldest: datetime
    events: int = 0
    bytes: int = 0
    connections: int = 0
    instances: list[str] = field(default_factory=list)
    is_lower_bound: bool = False
    """A worker that names only its deepest queues may hold more for him."""


@dataclass(slots=True)
class ServiceQueues:
    """What waits in all workers of one service. `users` counts one who waits in two workers twice."""

    service: str
    told_at: datetime
    workers: int = 0
    users: int = 0
    events: int = 0
    bytes: int = 0


def deepest(statements: Iterable[Statement], limit: int) -> list[UserQueue]:
    """Return at most `limit` users, whoever has most events waiting first; then by bytes, then who waits longest."""
    found: dict[tuple[str, str], UserQueue] = {}
    partial: dict[str, set[str]] = {}
    for statement in statements:
        if statement.users > len(statement.deepest):
            partial.setdefault(statement.service, set()).add(statement.instance)
        for one in statement.deepest:
            queue = found.setdefault((statement.service, one.principal), UserQueue(statement.service, one.principal, one.oldest))
            queue.events += one.events
            queue.bytes += one.bytes
            queue.oldest = min(queue.oldest, one.oldest)
            queue.connections += one.connections
            queue.instances.append(statement.instance)
    first = heapq.nsmallest(
        limit, found.values(), key=lambda queue: (-queue.events, -queue.bytes, queue.oldest, queue.service, queue.principal)
    )
    for queue in first:
        queue.is_lower_bound = not partial.get(queue.service, set()) <= set(queue.instances)
    return first


def by_service(statements: Iterable[Statement]) -> list[ServiceQueues]:
    """Return the numbers of each service in which anybody waits, the one with most events first."""
    found: dict[str, ServiceQueues] = {}
    for statement in statements:
        if statement.users:
            one = found.setdefault(statement.service, ServiceQueues(statement.service, statement.received_at))
            one.told_at = max(one.told_at, statement.received_at)
            one.workers += 1
            one.users += statement.users
            one.events += statement.events
            one.bytes += statement.bytes
    return sorted(found.values(), key=lambda one: (-one.events, one.service))
