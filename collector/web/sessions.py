"""Who is signed in to the pages: a random secret in a cookie, its hash in the store, an end, and the token that it stands for.

A session is worth what its token is worth now: a token that is taken away, or loses its scope, ends it. Replicas share the
store, so whoever is signed in at one is signed in at all. Nothing here is the token itself.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.keys import digest_of
from isolation_monitor.collector.problems import Forbidden, Problem, TooManyRequests
from isolation_monitor.collector.rates import Bucket
from isolation_monitor.collector.security import Guard
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.models import WebSessionRow

SCOPE: Final = "read"
"""What a token must be allowed to open the pages."""
_SECRET_BYTES: Final = 32
_FAILURES_PER_S: Final = 1.0
_FAILURES_AT_ONCE: Final = 20
"""All who sign in to this process share these: there is nobody yet to count them for."""
_LONGEST_SECRET: Final = 200


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `id` is the hash of the cookie's secret."""

    id: str
    token_digest: bytes
    expires_at: datetime


class SessionService:
    def __init__(
        self, database: Database, guard: Guard, clock: Clock, lifetime_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._guard = guard
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._monotonic = monotonic
        self._failures = Bucket(_FAILURES_PER_S, _FAILURES_AT_ONCE / _FAILURES_PER_S, monotonic())

    async def open(self, token: str) -> str:
        """Return the secret of a new session, for the cookie.

        Raises:
            Unauthenticated: the token is not known, or has expired.
            Forbidden: it may not read, or is bound to services: pages show all of them.
            TooManyRequests: others failed too often a moment ago; the token was not even looked at.
        """
        if wait_s := self._failures.wait_s(self._monotonic()):
            problem = TooManyRequests("too many tokens were refused a moment ago: try again", retry_after_s=math.ceil(wait_s))
            raise self._guard.refused("requests", problem)
        try:
            if self._guard.key_of(token, SCOPE).services is not None:
                raise self._guard.refused("service", Forbidden("this token is bound to services, and pages show all of them"))
        except Problem:
            self._failures.take(1)
            raise
        digest = digest_of(token)
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock()
        session = Session(_hashed(secret), digest, now + timedelta(seconds=self._lifetime_s))
        async with self._database.writing() as connection:
            await _SessionRepository(connection).add(session, now)
        return secret

    async def of(self, secret: str | None) -> Session | None:
        """Return the session of a cookie; None where there is none, it is over, or its token may not read any more."""
        if not secret or len(secret) > _LONGEST_SECRET:
            return None
        async with self._database.reading() as connection:
            found = await _SessionRepository(connection).get(_hashed(secret))
        return found if found is not None and self.holds(found) else None

    def holds(self, session: Session) -> bool:
        """Say whether a session is neither over nor without its token; what another replica signed out it does not know."""
        return self._clock() < session.expires_at and self._guard.opens(session.token_digest, SCOPE)

    async def is_open(self, session: Session) -> bool:
        """Say whether somebody is still signed in, asking the store."""
        async with self._database.reading() as connection:
            return await _SessionRepository(connection).get(session.id) is not None and self.holds(session)

    async def close(self, secret: str) -> None:
        """Sign out. What was signed out already stays so."""
        async with self._database.writing() as connection:
            await _SessionRepository(connection).remove(_hashed(secret))


class _SessionRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, session: Session, now: datetime) -> None:
        """Insert a session, and forget those that are over."""
        await self._connection.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
        await self._connection.execute(
            WebSessionRow.__table__.insert(),  # type: ignore[attr-defined]  # declared as FromClause, is a Table
            {"id": session.id, "token_digest": session.token_digest.hex(), "created_at": now, "expires_at": session.expires_at},
        )

    async def get(self, session_id: str) -> Session | None:
        row = (await self._connection.execute(select(WebSessionRow.__table__).where(WebSessionRow.id == session_id))).one_or_none()
        return None if row is None else Session(row.id, bytes.fromhex(row.token_digest), row.expires_at)

    async def remove(self, session_id: str) -> None:
        await self._connection.execute(delete(WebSessionRow).where(WebSessionRow.id == session_id))


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
