"""aiohttp's client: each call as it is written to the connection, redirects included; cookies of the jar are in by then."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry.instrument.http_calls import HttpCalls, hook, loaded

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.credential_facts import Call
    from isolation_monitor.telemetry.instrument.integrations import Installed


def install(detection: Detection) -> Installed:
    """Hook the client; aiohttp's server is an application's own business."""
    targets = (
        ("ClientSession", "headers", _headers),
        ("ClientRequest", "send", _send),
        ("ClientResponse", "start", _start),
        ("ClientResponse", "read", _read),
    )
    return hook("aiohttp", loaded("aiohttp"), (3, 8), (3, 999), targets, detection)


def _headers(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def headers(self: Any) -> Any:
            defaults = original.fget(self)
            calls.accessed(defaults)
            return defaults

        return property(headers, original.fset, original.fdel, original.__doc__)

    return make


def _send(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = _sent(calls, self)
            response = await original(self, *args, **kwargs)
            if call is not None:
                calls.remember(call, response)
            return response

        return send

    return make


def _start(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def start(self: Any, *args: Any, **kwargs: Any) -> Any:
            started = await original(self, *args, **kwargs)
            try:
                calls.answered(self, self.headers.getall("Set-Cookie", ()))
            except Exception as error:
                calls.failed(error)
            return started

        return start

    return make


def _read(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def read(self: Any) -> Any:
            body = await original(self)
            calls.read(self, body)
            return body

        return read

    return make


def _sent(calls: HttpCalls, request: Any) -> Call | None:
    try:
        session = vars(request).get("_session")
        if session is not None:
            calls.settle(vars(session).get("_default_headers"))
        url = request.url
        return calls.sent(request.method, url.raw_authority, str(url), request.headers.items(), _body_of(request))
    except Exception as error:
        calls.failed(error)
        return None


def _body_of(request: Any) -> object:
    """Return the body when it is plain bytes or a payload made of bytes; never a file or stream."""
    fields = vars(request)
    body: Any = fields.get("_body", fields.get("body"))
    if type(body) is bytes:
        return body
    value: Any = getattr(body, "__dict__", {}).get("_value")
    return bytes(value) if type(value) in (bytes, bytearray) else None
