"""Who is asking: signed tokens, and the user of the current request.

A token is `base64url(claims).base64url(HMAC-SHA256)`; the claims name the user and when the token ends. Logging in asks
for a name only: this example has no passwords. Put your identity provider in its place and keep the rest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from chat.store import User

current_user: ContextVar[User | None] = ContextVar("chat_current_user", default=None)
"""The user of the request that runs here, for log lines. Set at each request's entry; never read to decide anything."""

_TOKEN_IN_QUERY: Final = re.compile(r"(token=)[^&\s\"]+")


class NotSignedInError(Exception):
    """There is no token, or it is not ours, or it has ended."""


class Tokens:
    """Signs tokens and finds the user behind one."""

    def __init__(self, secret: str, lifetime_s: float) -> None:
        self._key = secret.encode()
        self._lifetime_s = lifetime_s

    def issue(self, user: User) -> str:
        claims = json.dumps({"sub": user.id, "name": user.name, "exp": int(time.time() + self._lifetime_s)}, separators=(",", ":"))
        body = _encode(claims.encode())
        return f"{body}.{_encode(self._sign(body))}"

    def user_of(self, token: str | None) -> User:
        """Return the user that the token names.

        Raises:
            NotSignedInError: the token is missing, forged, damaged or over.
        """
        if not token:
            raise NotSignedInError("no token: send `Authorization: Bearer <token>`")
        body, _, signature = token.partition(".")
        try:
            if not hmac.compare_digest(_decode(signature), self._sign(body)):
                raise NotSignedInError("this token was not signed here")
            claims = json.loads(_decode(body))
        except (ValueError, binascii.Error):
            raise NotSignedInError("this is no token") from None
        if claims["exp"] < time.time():
            raise NotSignedInError("this token has ended: log in again")
        return User(claims["sub"], claims["name"])

    async def user_of_request(self, scope: MutableMapping[str, Any]) -> User:
        """Return the user of a request and note him for log lines. Always from the request's own token.

        Raises:
            NotSignedInError: as `user_of`.
        """
        user = self.user_of(token_of(scope))
        current_user.set(user)
        return user

    def _sign(self, body: str) -> bytes:
        return hmac.new(self._key, body.encode(), hashlib.sha256).digest()


def token_of(scope: Mapping[str, Any]) -> str | None:
    """Return the token of an ASGI scope: the Authorization header, or `?token=` of a WebSocket (browsers send no headers there)."""
    for name, value in scope.get("headers", ()):
        if name == b"authorization":
            scheme, _, token = str(value, "latin-1").partition(" ")
            return str(token).strip() if scheme.lower() == "bearer" else None
    if scope.get("type") == "websocket":
        query = parse_qs(str(scope.get("query_string", b""), "latin-1"))
        return query["token"][0] if "token" in query else None
    return None


def load_secret(secret: str | None, file: Path) -> str:
    """Return the signing key: the one set, else the one in `file`, made at the first start and then shared by all workers."""
    if secret:
        return secret
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".chat-secret-", delete=False) as draft:
            draft.write(secrets.token_hex(32))
        try:
            # A link appears whole or not at all, and only for the first of several workers.
            os.link(draft.name, file)
        except FileExistsError:
            pass
        finally:
            Path(draft.name).unlink()
    return file.read_text().strip()


class HideTokens(logging.Filter):
    """Keeps tokens out of the access log, where a WebSocket's whole address would be written."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_TOKEN_IN_QUERY.sub(r"\1...", a) if isinstance(a, str) else a for a in record.args)
        return True


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
