"""requests: each call that an adapter sends, redirects and the steps of authentication included; urllib3 below is not hooked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from isolation_monitor.telemetry.instrument.http_calls import HttpCalls, header_writes, hook, loaded

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.credential_facts import Call
    from isolation_monitor.telemetry.instrument.integrations import Installed


def install(detection: Detection) -> Installed:
    """Hook the adapter, where the headers are final, and the one place where an answer's body is read whole."""
    requests = loaded("requests")
    targets = (
        ("Session", "send", _session_send),
        ("HTTPAdapter", "send", _send),
        ("CaseInsensitiveDict", "__setitem__", header_writes),
        ("Response", "content", _content),
    )
    return hook("requests", _Classes(requests), (2, 28), (2, 999), targets, detection)


class _Classes:
    """The classes hooked, which live in several modules."""

    def __init__(self, requests: Any) -> None:
        self.HTTPAdapter = requests.adapters.HTTPAdapter
        self.Response = requests.Response
        self.Session = requests.Session
        self.CaseInsensitiveDict = requests.structures.CaseInsensitiveDict


def _send(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _sent(calls, request)
            response = original(self, request, *args, **kwargs)
            if call is not None:
                _answered(calls, call, response)
            return response

        return send

    return make


def _session_send(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                calls.watch(self.headers)
            except Exception as error:
                calls.failed(error)
            return original(self, *args, **kwargs)

        return send

    return make


def _content(calls: HttpCalls) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def content(self: Any) -> Any:
            body = original.fget(self)
            calls.read(self, body)
            return body

        return property(content, original.fset, original.fdel, original.__doc__)

    return make


def _sent(calls: HttpCalls, request: Any) -> Call | None:
    try:
        url = request.url or ""
        return calls.sent(request.method or "", urlsplit(url).netloc.rpartition("@")[2], url, request.headers.items(), request.body)
    except Exception as error:
        calls.failed(error)
        return None


def _answered(calls: HttpCalls, call: Call, response: Any) -> None:
    try:
        headers: Any = getattr(response.raw, "headers", None)
        set_cookies = headers.getlist("Set-Cookie") if hasattr(headers, "getlist") else ()
        calls.remember(call, response)
        calls.answered(response, set_cookies)
    except Exception as error:
        calls.failed(error)
