"""A case: one bug as it occurs in the field, its fixed twin, and a driver that proves the harm without the monitor.

The truth comes from the driver's own knowledge: it knows which private values belong to whom, because they derive from
the case's seed (the service has them too, as its "database") or because it posted them itself.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor
    from tests.leaks.service import Service

Variant = Literal["buggy", "fixed"]
Shape = Literal["hex", "base32", "uuid", "account", "token"]
IdStyle = Literal["hex", "int", "uuid"]


def shaped(raw: bytes, shape: Shape) -> str:
    """Return 32 random-looking bytes in the dress of a private value: opaque, at least 50 bits, no user's name in it."""
    if shape == "hex":
        return raw[:12].hex()
    if shape == "base32":
        return base64.b32encode(raw[:15]).decode()
    if shape == "uuid":
        return str(uuid.UUID(bytes=raw[:16], version=4))
    if shape == "account":
        digits = str(int.from_bytes(raw[:10])).rjust(20, "7")[:16]
        return " ".join(digits[i : i + 4] for i in range(0, 16, 4))
    return base64.urlsafe_b64encode(raw[:18]).decode()


def mint(shape: Shape = "hex") -> str:
    """Return a fresh private value, for what a user posts."""
    return shaped(secrets.token_bytes(32), shape)


@dataclass(frozen=True)
class User:
    """One user: `id` is what the principal extractor returns; `token` is the opaque bearer token; `number` counts from 0."""

    number: int
    id: str
    token: str
    seed: str

    def value(self, label: str = "private", shape: Shape = "hex") -> str:
        """Return this user's private value of that label: the same in the service and in the driver."""
        return shaped(hashlib.sha256(f"{self.seed}/value/{label}/{self.number}".encode()).digest(), shape)


class Users:
    """The users of a case, the same in the service's process and in the driver's."""

    def __init__(self, seed: str, count: int = 8, ids: IdStyle = "hex") -> None:
        self._all = [self._make(seed, number, ids) for number in range(count)]
        self.by_token = {user.token: user for user in self._all}
        self.by_id = {user.id: user for user in self._all}

    def __iter__(self) -> Iterator[User]:
        return iter(self._all)

    def __getitem__(self, number: int) -> User:
        return self._all[number]

    def __len__(self) -> int:
        return len(self._all)

    @staticmethod
    def _make(seed: str, number: int, ids: IdStyle) -> User:
        raw = hashlib.sha256(f"{seed}/user/{number}".encode()).digest()
        id = {"hex": "u-" + raw[:5].hex(), "int": str(10_000 + int.from_bytes(raw[:4]) % 90_000), "uuid": shaped(raw, "uuid")}[ids]
        token = base64.urlsafe_b64encode(hashlib.sha256(b"token" + raw).digest()[:24]).decode()
        return User(number, id, token, seed)

    def of_scope(self, scope: Mapping[str, Any]) -> User | None:
        """Return the user of an ASGI scope: by `Authorization: Bearer`, else by the query's `token`."""
        for name, value in scope.get("headers", ()):
            if name == b"authorization":
                return self.by_token.get(value.decode("latin-1").removeprefix("Bearer "))
        for part in scope.get("query_string", b"").decode("latin-1").split("&"):
            if part.startswith("token="):
                return self.by_token.get(part[6:])
        return None

    def of(self, connection: Any) -> User:
        """Return the user of a Starlette request or WebSocket.

        Raises:
            HTTPException: it carries no known token.
        """
        user = self.of_scope(connection.scope)
        if user is None:
            from starlette.exceptions import HTTPException

            raise HTTPException(401)
        return user


@dataclass
class Built:
    """What `build` may return instead of an application alone: the SQLAlchemy engine for the second line, and parts to annotate."""

    app: Any
    engine: Any = None
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One bug and its fixed twin.

    Attributes:
        name: unique, in words joined by hyphens.
        family: http, state, context, task, wire, clean...
        summary: one sentence on the bug as a user of the service meets it.
        users: whom the principal extractor knows.
        build: makes the application of a variant; it may return `Built`. It runs in the service's process.
        drive: drives the service as concurrent users; returns the proofs of harm, each a sentence; nothing for the fixed twin.
        expects: the grade that must be reported: `crossed|reachable` (either), or `hygiene`, or any for cascades.
        annotate: the few declarations a user would add, for what two lines cannot see: `annotate(monitor, built)`.
        limit: why it cannot be detected at all, when so; it then counts as a miss, but does not fail the tests.
        needs: modules that must be importable, else the case is skipped.
        server: further arguments of `uvicorn.Config`, such as `{"loop": "asyncio", "http": "h11"}`.
        parts: a context manager entered by the harness around the run (a redis-server); it gives environment variables,
            which the service finds in `os.environ` and the driver in `service.environment`.
        settle_s: how long the monitor is given after the last request before the violations are read.
    """

    name: str
    family: str
    summary: str
    users: Users
    build: Callable[[Variant], Any]
    drive: Callable[[Service], Awaitable[list[str]]]
    expects: Literal["crossed|reachable", "hygiene", "crossed|reachable|hygiene"] = "crossed|reachable"
    annotate: Callable[[IsolationMonitor, Built], None] | None = None
    limit: str | None = None
    needs: tuple[str, ...] = ()
    server: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[], AbstractContextManager[Mapping[str, str]]] | None = None
    settle_s: float = 1.2

    @property
    def is_clean(self) -> bool:
        """A clean service has one variant only: `fixed`, full of legitimate sharing."""
        return self.family == "clean"

    @property
    def declarations(self) -> Callable[[IsolationMonitor, Built], None] | None:
        """What the owner of the service would add: the case's own, else the commonest."""
        return self.annotate or (None if self.is_clean else store_is_private)

    @property
    def variants(self) -> tuple[Variant, ...]:
        return ("fixed",) if self.is_clean else ("buggy", "fixed")


def no_parts() -> AbstractContextManager[Mapping[str, str]]:
    return contextlib.nullcontext({})


def store_is_private(monitor: IsolationMonitor, built: Built) -> None:
    """The commonest annotation, one line: `@monitor.private(by=…)` on the function that reads users' private values from the store.

    In the collection that function is `User.value`.
    """
    User.value = monitor.private(by=lambda user, *_, **__: user.id)(User.value)  # type: ignore[method-assign] - as the decorator in the store's code
