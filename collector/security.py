"""Bearer tokens and what each may do.

Scopes: `send` (records), `alerts` (Alertmanager's webhook), `read` (everything that is read, and the collector's own
metrics), `operate` (rollouts are changed), `gates` (the verdicts of gates and nothing else: for rollout tools, whose
tokens stand in manifests). Watching a rollout may be started with `read`, `operate` or `send`. Health and runbooks are
open: a probe has no token, and a runbook holds no data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request

from isolation_monitor.collector.problems import Forbidden, Unauthenticated
from isolation_monitor.collector.settings import Scope


class TokenGuard:
    """Knows the live tokens by their hashes only."""

    def __init__(self, tokens: dict[Scope, tuple[str, ...]]) -> None:
        self._scopes_by_digest: dict[bytes, set[Scope]] = {}
        for scope, values in tokens.items():
            for value in values:
                self._scopes_by_digest.setdefault(_digest(value), set()).add(scope)

    def scopes(self, token: str) -> set[Scope]:
        """Return what `token` may do; empty for an unknown one. Takes the same time for every token."""
        presented, found = _digest(token), set[Scope]()
        for digest, scopes in self._scopes_by_digest.items():
            if hmac.compare_digest(digest, presented):
                found |= scopes
        return found


def requires(*allowed: Scope, password: bool = False) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets requests pass whose token has one of the `allowed` scopes.

    `password` also takes the token as the password of Basic authentication, whoever the user: Flagger's webhooks can
    send no header of their own, only `http://USER:TOKEN@HOST/`.

    Raises (from the dependency):
        Unauthenticated: no token, or one that is not known.
        Forbidden: a known token of another scope.
    """

    # A coroutine although it never waits: a plain function would cost a thread hop on every request.
    async def check(request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        guard: TokenGuard = request.app.state.guard
        if password and scheme.lower() == "basic":
            scheme, token = "bearer", _password(token)
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("no token: send 'Authorization: Bearer <token>'", headers={"WWW-Authenticate": "Bearer"})
        scopes = guard.scopes(token.strip())
        if not scopes:
            raise Unauthenticated("this token is not known here", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if not scopes.intersection(allowed):
            raise Forbidden(f"this token may {' and '.join(sorted(scopes))}; needed here: {' or '.join(allowed)}")

    return check


def _password(credentials: str) -> str:
    """Return the password of Basic credentials; empty when they are none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
