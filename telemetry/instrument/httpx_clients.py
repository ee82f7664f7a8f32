"""What httpx and httpx2 have in common: each single call a client sends, redirects and the steps of authentication included.

Hooked where the headers are final: after authentication and cookies, before the transport.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.instrument.http_calls import HttpCalls, header_writes, hook, loaded

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.credential_facts import Call
    from isolation_monitor.telemetry.instrument.integrations import Installed

SUPPORTED: Final = {"httpx": ((0, 24), (0, 28)), "httpx2": ((2, 0), (2, 999))}
_SEND: Final = "_send_single_request"


def install_library(library: str, detection: Detection) -> Installed:
    """Hook one of the two, which share their shape."""
    lowest, highest = SUPPORTED[library]
    targets = (
        ("Client", _SEND, _sync_send),
        ("AsyncClient", _SEND, _async_send),
        ("Headers", "__setitem__", header_writes),
        ("Headers", "update", _update_headers),
        ("Response", "read", _sync_read),
        ("Response", "aread", _async_read),
    )
    return hook(library, loaded(library), lowest, highest, targets, detection)


def _sync_send(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def send_single_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _sent(calls, self, request)
            response = original(self, request, *args, **kwargs)
            if call is not None:
                _answered(calls, call, response)
            return response

        return send_single_request

    return make


def _async_send(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def send_single_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _sent(calls, self, request)
            response = await original(self, request, *args, **kwargs)
            if call is not None:
                _answered(calls, call, response)
            return response

        return send_single_request

    return make


def _sync_read(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def read(self: Any) -> Any:
            body = original(self)
            calls.read(self, body)
            return body

        return read

    return make


def _async_read(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        async def aread(self: Any) -> Any:
            body = await original(self)
            calls.read(self, body)
            return body

        return aread

    return make


def _update_headers(calls: HttpCalls) -> Callable[[Any], Any]:
    defaults = calls.defaults

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def update(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if id(self) in defaults:
                calls.wrote(self, self.raw)

        return update

    return make


def _sent(calls: HttpCalls, client: Any, request: Any) -> Call | None:
    try:
        defaults = vars(client).get("_headers")
        if defaults is not None:
            calls.watch(defaults)
        url = request.url
        # `_content` is there when the body is no stream; it is never read here.
        return calls.sent(request.method, url.netloc.decode("ascii"), str(url), request.headers.raw, vars(request).get("_content"))
    except Exception as error:
        calls.failed(error)
        return None


def _answered(calls: HttpCalls, call: Call, response: Any) -> None:
    try:
        calls.remember(call, response)
        calls.answered(response, [value.decode("latin-1") for name, value in response.headers.raw if name.lower() == b"set-cookie"])
    except Exception as error:
        calls.failed(error)
