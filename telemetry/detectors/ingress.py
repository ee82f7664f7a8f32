"""Ingress: what a request says when it comes in, by which later answers are judged.

Three things are taken from path, query, body and frames: the tokens (opaque values, `tokens.py`), which the sender
therefore knows; the addresses (room, thread, document: what the request is about), by which two principals who both name
one share it; and all short values, by which a sender names a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Set
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from isolation_monitor.telemetry.tokens import tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Scope

VALUES_LIMIT: Final = 256
"""Values kept of one request or connection; a request that says more is taken at its first ones."""
TOKENS_KEPT: Final = 2_000
PATH_LENGTH: Final = 500
"""Characters of a path in which numbers are looked for: it is done anew for each part of an answer."""
NUMBER_LENGTH: Final = 19
"""Digits of an id that is a number, at most: those of 64 bits."""

_PAIR: Final = re.compile(r'"([A-Za-z_][\w.-]{0,40})"\s*:\s*(?:"([^"\\]{1,64})"|(-?\d{1,19})(?![\d.eE]))')
_ADDRESS_WORDS: Final = frozenset(
    [
        "room",
        "channel",
        "thread",
        "conversation",
        "session",
        "group",
        "topic",
        "chat",
        "dialog",
        "to",
        "recipient",
        "recipients",
        "target",
        "document",
        "doc",
        "file",
        "folder",
        "project",
        "workspace",
        "team",
        "org",
        "organization",
        "organisation",
        "tenant",
        "account",
        "board",
        "space",
        "meeting",
        "call",
        "order",
        "ticket",
        "item",
        "post",
        "article",
        "page",
        "resource",
        "key",
        "slug",
        "path",
        "uri",
        "url",
        "token",
        "code",
    ]
)
_COMPONENT_WORDS: Final = frozenset(
    [
        "agent",
        "model",
        "bot",
        "assistant",
        "tool",
        "version",
        "lang",
        "language",
        "locale",
        "type",
        "kind",
        "action",
        "provider",
        "graph",
        "flow",
        "chain",
        "workflow",
        "pipeline",
        "function",
        "service",
        "format",
        "role",
        "mode",
        "status",
        "state",
        "page",
        "size",
        "limit",
        "offset",
        "sort",
        "order_by",
        "v",
        "year",
        "quarter",
        "month",
        "week",
        "day",
        "date",
        "period",
        "section",
        "tab",
        "view",
        "panel",
        "widget",
        "metric",
        "currency",
        "unit",
        "theme",
        "layout",
    ]
)
"""Names of parameters that choose a part of the service rather than somebody's data: naming the same one shares nothing."""


_ROOM_WORDS: Final = frozenset(["room", "channel", "group", "team", "meeting", "lobby"])
"""Names of parameters that name a place where people meet: what one says there is for all who come. Chats and threads are often
counted for each user by himself, so that all have a first one."""
_RECEIVER_WORDS: Final = frozenset(["to", "recipient", "receiver", "addressee", "invitee", "guest", "mention", "friend", "assignee"])
"""Names of parameters that name somebody to whom a message is sent."""

_NONE: Final[Set[str]] = frozenset()


class Ingress:
    """What one request, or one connection so far, has said.

    Most requests say little, and the index of owners remembers ten thousands of them: sets are made when something is put in.
    """

    __slots__ = ("addresses", "path", "receivers", "rooms", "tokens", "values")

    def __init__(self) -> None:
        self.tokens = self.addresses = self.values = self.rooms = self.receivers = _NONE
        self.path = ""

    def add_path(self, scope: Scope) -> list[str]:
        """Take the path, and the query; return the new tokens."""
        self.path = text = str(scope.get("path", ""))
        query = scope.get("query_string", b"")
        if query:
            text = f"{text} {query.decode('latin-1')}"
            for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=False)[:50]:
                self._add_pair(name, value)
        return self._add_tokens(text)

    def add_routed(self, scope: Scope) -> None:
        """Take what a router has found in the path; without one that says so, the numbers."""
        parameters = scope.get("path_params")
        if parameters:
            self.add_parameters(parameters, scope["path"])
        elif parameters is None:
            self.add_numbers(scope["path"])

    def add_parameters(self, parameters: Any, path: str = "") -> None:
        """Take the path parameters, once a router has found them: each is an address, whatever it looks like.

        Those that choose a part of the service are none, by their own name or by the word before them in the path.
        """
        if type(parameters) is not dict:
            return
        segments = path.split("/")
        for name, value in parameters.items():
            if type(value) in (str, int) and not _is_component(str(name)):
                text = str(value)
                at = segments.index(text) if text in segments else 0
                if at and _is_component(segments[at - 1].rstrip("s")):
                    continue
                self._add_address(text)
                if _is_room(str(name)) or (at and _is_room(segments[at - 1].rstrip("s"))):
                    self.rooms = _with(self.rooms, (text,))

    def add_numbers(self, path: str) -> None:
        """Take the numbers in a path as addresses, where no router tells what is a parameter: `/orders/12` is about an order."""
        before = ""
        for segment in path[:PATH_LENGTH].split("/"):
            if segment.isdigit() and len(segment) <= NUMBER_LENGTH and not _is_component(before.rstrip("s")):
                self._add_address(segment)
            before = segment

    def add_text(self, text: str, words: list[str] | None = None) -> list[str]:
        """Take a body or frame; return the new tokens. `words` as for `tokens_of`."""
        for name, quoted, number in _PAIR.findall(text):
            if len(self.values) >= VALUES_LIMIT:
                break
            self._add_pair(name, quoted or number)
        return self._add_tokens(text, words)

    def add_form(self, text: str) -> list[str]:
        """Take a body of `application/x-www-form-urlencoded`; return the new tokens."""
        pairs = parse_qsl(text, keep_blank_values=False, max_num_fields=200)
        for name, value in pairs:
            self._add_pair(name, value)
        return self._add_tokens(" ".join(value for _, value in pairs))

    def take(self, other: Ingress) -> None:
        """Add what a message said to what its connection has said."""
        if len(self.tokens) < TOKENS_KEPT:
            self.add_tokens(other.tokens)
        if len(self.values) < VALUES_LIMIT:
            if other.values:
                self.values = _with(self.values, other.values)
            if other.addresses:
                self.addresses = _with(self.addresses, other.addresses)
            if other.rooms:
                self.rooms = _with(self.rooms, other.rooms)

    def add_tokens(self, tokens: Collection[str]) -> None:
        """Add opaque values that the sender therefore knows."""
        if tokens:
            self.tokens = _with(self.tokens, tokens)

    def _add_pair(self, name: str, value: str) -> None:
        if len(value) > 64 or len(self.values) >= VALUES_LIMIT:
            return
        self.values = _with(self.values, (value,))
        is_address, is_room, is_receiver = _kinds_of(name)
        if is_address:
            self.addresses = _with(self.addresses, (value,))
        if is_room:
            self.rooms = _with(self.rooms, (value,))
        if is_receiver:
            self.receivers = _with(self.receivers, (value,))

    def _add_address(self, value: str) -> None:
        self.addresses, self.values = _with(self.addresses, (value,)), _with(self.values, (value,))

    def _add_tokens(self, text: str, words: list[str] | None = None) -> list[str]:
        new = [token for token in tokens_of(text, words) if token not in self.tokens]
        if len(self.tokens) < TOKENS_KEPT:
            self.add_tokens(new)
        return new


def _with(known: Set[str], more: Iterable[str]) -> Set[str]:
    if type(known) is not set:
        return set(more)
    known.update(more)
    return known


NOTHING: Final = Ingress()
"""The ingress of a request that nobody read."""


@lru_cache(2_000)
def _kinds_of(name: str) -> tuple[bool, bool, bool]:
    """Return whether a parameter of this name is an address, a room, or somebody who is to get a message: few names come often."""
    return _is_address(name), _is_room(name), _bare(name) in _RECEIVER_WORDS


def _is_address(name: str) -> bool:
    lowered = name.lower()
    if _is_component(lowered):
        return False
    return lowered in _ADDRESS_WORDS or lowered == "id" or lowered.endswith(("_id", "-id")) or name.endswith(("Id", "ID"))


def _is_component(name: str) -> bool:
    return _bare(name) in _COMPONENT_WORDS


def _is_room(name: str) -> bool:
    return _bare(name) in _ROOM_WORDS


def _bare(name: str) -> str:
    return name.lower().removesuffix("id").rstrip("_-").removesuffix("_name").removesuffix("name").rstrip("_-")
