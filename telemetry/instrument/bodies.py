"""Bodies: reads what a request brings and what its answer carries, for the detectors that look at content.

One `Reading` per request. Messages are handed on unchanged and at once; only in `block` mode is an answer held back until
it was judged. Bounded: a body above the limit is not read, and said to be not evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors import foreign_identity, inherited_context
from isolation_monitor.telemetry.tokens import decoded, legible

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.delivery.streamed import Sent, Streamed
    from isolation_monitor.telemetry.monitor import IsolationMonitor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_STREAMS: Final = (b"text/event-stream", b"application/x-ndjson", b"application/jsonl")
_TEXTUAL: Final = (
    b"json", b"text/", b"xml", b"javascript", b"x-ndjson", b"graphql", b"yaml", b"toml", b"csv", b"rfc822", b"multipart/", b"jwt", b"pem",
    b"x-www-form-urlencoded",
)  # fmt: skip
_STRUCTURED: Final = (b"msgpack", b"protobuf", b"proto", b"cbor", b"grpc", b"bson", b"avro", b"thrift")
"""Binary formats that carry texts as they are, between lengths and tags."""
_MULTIPART: Final = b"multipart/"
"""Text between parts that may be anything."""
_BYTES: Final = b"octet-stream"
"""Anything at all: known values are recognised in it, and nothing is learned from it."""
BYTES_JUDGED: Final = 16_384
"""Of an answer that does not say that it is text, so many bytes are judged, and the rest counted as skipped."""
_FORM: Final = b"application/x-www-form-urlencoded"
_FILES: Final = ("http.response.pathsend", "http.response.zerocopysend")
"""By these the server sends a file itself: its content does not pass here."""
_TAIL: Final = 200
"""Characters of a stream that are looked at again with what comes next, so that no value is cut in two."""
_PLAIN_HEADERS: Final = frozenset(
    {
        b"content-type", b"content-length", b"content-encoding", b"date", b"server", b"vary", b"cache-control", b"connection",
        b"transfer-encoding", b"keep-alive", b"expires", b"last-modified", b"etag", b"age", b"allow", b"accept-ranges", b"pragma",
        b"strict-transport-security", b"x-content-type-options", b"x-frame-options", b"content-language", b"traceparent",
        b"x-request-id", b"x-process-time", b"access-control-allow-origin", b"access-control-allow-credentials",
    }
)  # fmt: skip
"""Headers that carry nobody's data, or a new value with each answer."""
WITHHELD: Final = json.dumps(
    {
        "type": "about:blank",
        "title": "Answer withheld",
        "status": 500,
        "detail": "This answer carried data of another user and was not sent. The service's operators have been told.",
    }
).encode()


class _Kind(NamedTuple):
    """What a content type says of a body."""

    is_stream: bool
    is_bytes: bool
    is_read: bool
    is_text: bool
    """Nothing but text: whatever else it holds is no value between the lengths and tags of a format."""


KINDS_LIMIT: Final = 200
_KINDS: Final[dict[bytes, _Kind]] = {}
"""By content type: a service has few. Those with a boundary of their own in each answer are found out anew once it is full."""


def _kind_of(value: bytes) -> _Kind:
    kind = _KINDS.get(value)
    if kind is None:
        is_bytes, is_structured = _BYTES in value, any(one in value for one in _STRUCTURED)
        is_textual = any(one in value for one in _TEXTUAL)
        is_text = is_textual and not (is_bytes or is_structured or _MULTIPART in value)
        kind = _Kind(value.startswith(_STREAMS), is_bytes, is_bytes or is_textual or is_structured, is_text)
        if len(_KINDS) < KINDS_LIMIT:
            _KINDS[value] = kind
    return kind


class Reading:
    """Reads one HTTP exchange. `receive` and `send` take the place of the server's own."""

    __slots__ = (
        "_body", "_content", "_encoding", "_held", "_is_bytes", "_is_read", "_is_stream", "_is_text", "_monitor", "_parts", "_receive",
        "_request", "_said_early", "_scope", "_send", "_size", "_streamed", "_tail", "_taken",
    )  # fmt: skip

    def __init__(self, monitor: IsolationMonitor, request: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        self._monitor = monitor
        self._request = request
        self._scope = scope
        self._receive = receive
        self._send = send
        self._content = monitor.detection.foreign_content
        self._taken = 0
        self._body: list[bytes] = []
        self._is_read = False
        self._is_bytes = False
        self._is_stream = False
        self._is_text = False
        self._streamed: Streamed | None = None
        """Told which events of runs leave, where the answer is a stream."""
        self._said_early: tuple[str, bool] | None = None
        """The body of a request of which nobody knows yet whose it is, and whether it is a form."""
        self._encoding = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = ""
        self._held: list[Message] | None = [] if monitor.detection.may_block else None
        """Messages held back in block mode; None when nothing is held."""

    # --- coming in ----------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        message = await self._receive()
        try:
            if message["type"] == "http.request":
                self._take(message)
            elif message["type"] == "http.disconnect":
                self._left()
        except Exception as error:
            self._monitor.ledger.check_failed(names.FOREIGN_CONTENT, "middleware", error)
        return message

    def _take(self, message: Message) -> None:
        body = message.get("body", b"")
        if body and self._taken <= self._monitor.settings.body_limit_bytes:
            self._taken += len(body)
            self._body.append(bytes(body))
        if message.get("more_body", False) or not self._body:
            return
        if self._taken > self._monitor.settings.body_limit_bytes:
            self._monitor.ledger.skipped(names.FOREIGN_CONTENT)
        else:
            text = legible(b"".join(self._body))
            is_form = any(name == b"content-type" and value.startswith(_FORM) for name, value in self._scope["headers"])
            if self._request.principal is None:
                self._said_early = text, is_form
            self._content.came_in(self._request, text, is_form=is_form)
            if (access := self._monitor.detection.access_rules).rules:
                access.came_in(self._request, self._scope, text, is_form=is_form)
        self._body.clear()

    def _name_late(self) -> None:
        """Ask again whose the request is: authentication inside the application has run by the time it answers."""
        request, monitor = self._request, self._monitor
        principal = monitor.principal_of(self._scope)
        if principal is None:
            return
        monitor.ledger.exposure.named(principal, request.serial)
        request.principal = principal
        self._content.entered(request, self._scope)
        if self._said_early is not None:
            text, is_form = self._said_early
            self._content.came_in(request, text, is_form=is_form)

    def _left(self) -> None:
        """The client has left, or has the whole answer."""
        if self._streamed is not None and not self._request.responded:
            self._streamed.is_gone = True

    # --- going out ----------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        is_foreign = False
        try:
            is_foreign = self._look(message)
        except Exception as error:
            self._request.unverifiable = True
            self._monitor.ledger.check_failed(names.FOREIGN_CONTENT, "middleware", error)
        if self._held is not None:
            return self._send_judged(message, is_foreign)
        if self._streamed is not None and message["type"] == "http.response.body":
            return self._send_streamed(message, self._streamed)
        return self._send(message)

    async def _send_streamed(self, message: Message, streamed: Streamed) -> None:
        """Send a part of a stream, and count the events in it once the server took it from a client that is still there."""
        events: Sent = []
        is_last = not message.get("more_body", False)
        try:
            events = streamed.look(message.get("body", b""))
        except Exception as error:
            self._monitor.ledger.internal_error("run", error)
        await self._send(message)
        try:
            streamed.is_gone = streamed.is_gone or is_disconnected(self._send)
            streamed.sent(events, is_last=is_last)
        except Exception as error:
            self._monitor.ledger.internal_error("run", error)

    def _look(self, message: Message) -> bool:
        """Judge one message of the answer; return True when it carries what is another's."""
        request = self._request
        kind = message["type"]
        if kind == "http.response.start":
            request.status = message["status"]
            if request.principal is None:
                self._name_late()
            if request.pending is not None:
                inherited_context.settle(request, self._monitor.ledger)
            if request.is_watched:
                self._monitor.detection.answering(request)
            return self._start(message)
        if kind in _FILES:
            request.responded = True
            if self._is_read:
                self._monitor.ledger.skipped(names.FOREIGN_CONTENT)
            return False
        if kind != "http.response.body":
            return False
        more = message.get("more_body", False)
        if not more:
            request.responded = True
        if not self._is_read:
            return False
        body = message.get("body", b"")
        if self._is_stream and not self._encoding:
            return bool(body) and self._judge_part(bytes(body))
        self._size += len(body)
        if self._size > self._monitor.settings.body_limit_bytes:
            self._is_read = False
            self._parts.clear()
            self._monitor.ledger.skipped(names.FOREIGN_CONTENT)
            if self._monitor.identity is not None:
                self._monitor.ledger.skipped(names.FOREIGN_IDENTITY)
                request.unverifiable = True
            return False
        if more:
            self._parts.append(bytes(body))
            return False
        return self._judge(b"".join((*self._parts, body)) if self._parts else body)

    def _start(self, message: Message) -> bool:
        is_foreign = False
        if 200 <= self._request.status < 300:
            self._content.answered(self._request, self._scope)
            if (access := self._monitor.detection.access_rules).rules:
                is_foreign = access.answering(self._request, self._scope)
        elif self._request.status >= 400:
            self._content.refused(self._request, self._scope)
        values = []
        # Without a type it may be anything.
        self._is_read = self._is_bytes = True
        for name, value in message.get("headers", ()):
            # In lower case, as ASGI has it; some frameworks send them as they are written.
            name = name.lower()
            if name == b"content-type":
                self._is_stream, self._is_bytes, self._is_read, self._is_text = _kind_of(bytes(value))
                if self._is_stream and self._held is None and self._monitor.frames.reads:
                    self._request.stream = self._streamed = self._monitor.frames.streamed(value)
            elif name == b"content-encoding":
                self._encoding = value
            elif name not in _PLAIN_HEADERS:
                values.append(value)
                if name == b"set-cookie" and self._monitor.extractor is None:
                    self._monitor.principals.renewed(self._scope["headers"], value)
        if not values:
            return is_foreign
        text = b" ".join(values).decode("latin-1")
        return self._monitor.detection.leaving(self._request, text, "a header", scope=self._scope, learns=False) or is_foreign

    def _judge(self, body: bytes) -> bool:
        plain = foreign_identity.inflated(body, self._encoding)
        request, monitor = self._request, self._monitor
        if plain is None:
            monitor.ledger.skipped(names.FOREIGN_CONTENT)
            if monitor.identity is not None:
                monitor.ledger.skipped(names.FOREIGN_IDENTITY)
            return False
        is_foreign = self._judge_identity(plain)
        if plain:
            learns = 200 <= request.status < 300 and not self._is_bytes
            if self._is_bytes and len(plain) > BYTES_JUDGED:
                monitor.ledger.skipped(names.FOREIGN_CONTENT)
                plain = plain[:BYTES_JUDGED]
            text = decoded(plain) if self._is_text else legible(plain)
            is_foreign = self._monitor.detection.leaving(request, text, "the answer", scope=self._scope, learns=learns) or is_foreign
        return is_foreign

    def _judge_part(self, body: bytes) -> bool:
        is_foreign = self._judge_identity(body)
        text = self._tail + body.decode("utf-8", "replace")
        # Where a chunk ends is no one's intention, unless it ends with a line.
        is_whole = body.endswith(b"\n")
        self._tail = "" if is_whole else text[-_TAIL:]
        learns = is_whole and 200 <= self._request.status < 300
        return self._monitor.detection.leaving(self._request, text, "the stream", scope=self._scope, learns=learns) or is_foreign

    def _judge_identity(self, plain: bytes) -> bool:
        monitor, request = self._monitor, self._request
        identity, principal = monitor.identity, request.principal
        if identity is None:
            return False
        if principal is None or principal.is_credential:
            monitor.ledger.skipped(names.FOREIGN_IDENTITY)
            return False
        if (public := self._content.public).endpoints and public.serves(self._scope):
            # Whoever wrote there is named to everybody.
            monitor.ledger.skipped(names.FOREIGN_IDENTITY)
            return False
        found = identity.foreign_in_bytes(plain, principal.id)
        if found is None:
            passes = monitor.ledger.passes[names.FOREIGN_IDENTITY]
            passes.values[passes.index] += 1.0
            return False
        foreign_identity.report(monitor.ledger, monitor.principals, request, found, "the answer")
        return True

    # --- block mode ---------------------------------------------------------------------------------------------------

    async def _send_judged(self, message: Message, is_foreign: bool) -> None:
        """Hold an answer until its last part was judged; withhold it when a part was foreign and nothing has left yet."""
        held = self._held
        if held is None:
            await self._send(message)
            return
        held.append(message)
        if is_foreign and self._monitor.detection.refuses(self._request):
            self._held = []
            self._is_read = False
            await self._send(
                {
                    "type": "http.response.start",
                    "status": 500,
                    "headers": [(b"content-type", b"application/problem+json"), (b"content-length", str(len(WITHHELD)).encode())],
                }
            )
            await self._send({"type": "http.response.body", "body": WITHHELD, "more_body": False})
            self._send = _swallow
            self._held = None
            return
        is_body = message["type"] == "http.response.body"
        is_last = is_body and not message.get("more_body", False)
        if is_last or self._is_stream or (is_body and not self._is_read) or message["type"] in _FILES:
            # A stream leaves part by part, each once it was judged: what has left cannot be called back.
            self._held = [] if self._is_stream and not is_last else None
            for one in held:
                await self._send(one)


def is_disconnected(send: object) -> bool:
    """Return whether a server's `send` belongs to a connection that is gone, where it says so: uvicorn swallows what is sent then."""
    owner = send.__self__ if type(send) is MethodType else None
    return owner is not None and type(owner).__module__.startswith("uvicorn.") and vars(owner).get("disconnected") is True


async def _swallow(_message: Message) -> None:
    """Take what is left of an answer that was withheld."""
