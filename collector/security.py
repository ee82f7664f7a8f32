"""Who may do what: bearer tokens, their scopes, the services they are bound to, and how fast they may go.

Scopes: `ingest` (records), `alerts` (Alertmanager's webhook), `read` (everything that is read, and the collector's own
metrics), `operate` (rollouts are changed), `gates` (the verdicts of gates and nothing else: for rollout tools, whose
tokens stand in manifests). Watching a rollout may be started with `read`, `operate` or `ingest`. Health and runbooks are
open: a probe has no token, and a runbook holds no data.

A key may be bound to services: it sends records of these alone, and sees and changes what is theirs. A route that does
not tell services apart refuses such keys, and that is the default: a new route leaks nothing because somebody forgot.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Query, Request

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.keyring import KeyRing
from isolation_monitor.collector.keys import Key, Scope
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.problems import Forbidden, Invalid, Problem, TooManyRequests, Unauthenticated, Unavailable
from isolation_monitor.collector.rates import Allowance, Allowances, Limit, meter_of

_BEARER: Final = {"WWW-Authenticate": "Bearer"}
_INVALID: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


@dataclass(frozen=True, slots=True)
class Guard:
    """Knows the keys, how fast each may go, and counts what it refuses."""

    keys: KeyRing
    allowances: Allowances
    metrics: CollectorMetrics
    clock: Clock

    def key_of(self, token: str, *allowed: Scope) -> Key:
        """Return the live key of a token that has one of the `allowed` scopes.

        Raises:
            Unauthenticated: there is none, or it has expired.
            Forbidden: it has none of them.
        """
        key = self.keys.find(token)
        if key is None:
            raise self.refused("unknown_token", Unauthenticated("this token is not known here", headers=_INVALID))
        if not key.is_live(self.clock()):
            raise self.refused("expired_token", Unauthenticated(f"the key {key.id} has expired: make a new one", headers=_INVALID))
        if not key.scopes.intersection(allowed):
            told = f"this token may {' and '.join(sorted(key.scopes))}; needed here: {' or '.join(allowed)}"
            raise self.refused("scope", Forbidden(told))
        return key

    def opens(self, digest: bytes, scope: Scope) -> bool:
        """Say whether the key with this digest (`keys.digest_of`) has `scope` now, for all services."""
        key = self.keys.find_digest(digest)
        return key is not None and key.is_live(self.clock()) and scope in key.scopes and key.services is None

    def refused(self, reason: str, problem: Problem) -> Problem:
        """Count a refusal and return it."""
        self.metrics.request_refused(reason)
        return problem


@dataclass(frozen=True, slots=True)
class Access:
    """What the key of this request opens."""

    key: Key
    guard: Guard
    allowance: Allowance
    retry_by_503: bool = False

    @property
    def services(self) -> frozenset[str] | None:
        """Return the services that the key is bound to; None: all."""
        return self.key.services

    def allows(self, service: str) -> bool:
        return self.key.services is None or service in self.key.services

    def check(self, service: str) -> None:
        """Raises Forbidden when the key is not for `service`."""
        if not self.allows(service):
            raise self.guard.refused("service", Forbidden(f"this token is bound to {_named(self.key)}: it is not for {service[:100]!r}"))

    def only(self, service: str | None) -> str | None:
        """Return the service that a list is narrowed to: the one asked for, or the key's own; None: all of them.

        Raises:
            Forbidden: the key is not for the service asked for.
            Invalid: the key is bound to several, and none was named.
        """
        if service is not None:
            self.check(service)
            return service
        if self.key.services is None:
            return None
        if len(self.key.services) > 1:
            raise Invalid(f"this token is bound to {_named(self.key)}: name one of them with ?service=")
        return next(iter(self.key.services))

    def admit(self, records: Mapping[str, int]) -> None:
        """Let records in, so many of each service, and count them against what the key may send: all of them, or none.

        Raises:
            Forbidden: the key is not for one of these services.
            TooManyRequests: too many records for now.
        """
        for service in records:
            self.check(service)
        # Once for all: the first service's debt would refuse the second, however often the sender comes back.
        self.within("records")
        self.allowance.records.take(sum(records.values()))
        for service, number in records.items():
            self.guard.metrics.service_sent(self.key.id, service, number)

    def within(self, *limits: Limit) -> None:
        """Raises TooManyRequests, or Unavailable where only that is tried again, when one of `limits` is used up."""
        refusal = self.allowance.refusal(*limits)
        if refusal is None:
            return
        limit, wait_s = refusal
        detail = f"too many {limit} with this token: try again in {wait_s} s"
        kind = Unavailable if self.retry_by_503 else TooManyRequests
        raise self.guard.refused(limit, kind(detail, retry_after_s=wait_s))


def requires(
    *allowed: Scope, password: bool = False, per_service: bool = False, retry_by_503: bool = False, lent: bool = True
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets requests pass whose token has one of the `allowed` scopes.

    `password` also takes the token as the password of Basic authentication, whoever the user: Flagger's webhooks can
    send no header of their own, only `http://USER:TOKEN@HOST/`. `per_service` says that the route itself keeps to the
    services of `Access`; without it keys that are bound to services are refused. `retry_by_503` is for callers that take
    a 429 for final. `lent` False wants a scope that somebody gave: what a token of the settings opens because no other does
    is not enough to destroy anything.

    Raises (from the dependency):
        Unauthenticated: no token, or one that is not known.
        Forbidden: a known token of another scope, or one that is bound to services where the route tells none apart.
        TooManyRequests, Unavailable: the key is faster than it may be.
    """

    # A coroutine although it never waits: a plain function would cost a thread hop on every request.
    async def check(request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        guard: Guard = request.app.state.guard
        if password and scheme.lower() == "basic":
            scheme, token = "bearer", _password(token)
        if scheme.lower() != "bearer" or not token.strip():
            raise guard.refused("no_token", Unauthenticated("no token: send 'Authorization: Bearer <token>'", headers=_BEARER))
        key = guard.key_of(token.strip(), *allowed)
        if not lent and key.lent.issuperset(key.scopes.intersection(allowed)):
            told = f"this token may {' and '.join(allowed)} only because no token was made for that: 'isomon token new' makes one"
            raise guard.refused("scope", Forbidden(told))
        if key.services is not None and not per_service:
            raise guard.refused("service", Forbidden(f"this token is bound to {_named(key)}; what is here belongs to all services"))
        access = Access(key, guard, guard.allowances.of(key), retry_by_503)
        access.within("requests", "bytes")
        access.allowance.requests.take(1)
        meter_of(request.scope).charge(access.allowance.bytes)
        request.state.access = access

    check.per_service = per_service  # type: ignore[attr-defined]  # for the test that goes through all routes
    return check


async def access_of(request: Request) -> Access:
    """Return what the request may do, on a route that `requires` a scope."""
    access: Access = request.state.access
    return access


AccessDep = Annotated[Access, Depends(access_of)]


async def _allowed_service(access: AccessDep, service: Annotated[str | None, Query(max_length=100)] = None) -> str | None:
    return access.only(service)


AllowedService = Annotated[str | None, Depends(_allowed_service)]
"""The query parameter `service`, held to the services of the key: that of a key with one where none was named."""


def _named(key: Key) -> str:
    names = sorted(key.services or ())
    return f"the {'service' if len(names) == 1 else 'services'} {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"


def _password(credentials: str) -> str:
    """Return the password of Basic credentials; empty when they are none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
