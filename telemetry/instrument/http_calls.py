"""Outgoing HTTP calls: what the integrations of all HTTP clients have in common.

A client's integration says when a call is sent, when the head of its answer is there and when its body was read whole;
here that becomes words to the detector of foreign credentials and to provenance. Calls are remembered until their answer
is read or gone, by weak reference, so that nothing is written onto the client's objects.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import weakref
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.credential_facts import Call, is_over
from isolation_monitor.telemetry.detectors.credentials import credentials_of
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch, replace

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.detectors.credentials import Credential, Headers

Target = tuple[str, str, Callable[["HttpCalls"], Callable[[Any], Any]]]
"""(class in the module, its method, what makes the replacement)."""
DEFAULTS_LIMIT: Final = 500
OPEN_LIMIT: Final = 10_000
"""Answers that wait to be read; of more, the bodies are not looked at."""


class HttpCalls:
    """Nothing here raises into the client."""

    def __init__(self, detection: Detection) -> None:
        self._detector = detection.foreign_credential
        self._stores = detection.stores
        self._reporter = detection.kit.reporter
        self.defaults: dict[int, tuple[weakref.ref[Any], int]] = {}
        """The default headers of the clients that have sent something, and the numbers they go by."""
        self._accessed: dict[int, tuple[RequestContext, list[Credential]]] = {}
        """Which request asked last for default headers, by their number, and what they held then."""
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[weakref.ref[Any], Call]] = {}

    def sent(self, method: str, host: str, url: str, headers: Headers, body: object) -> Call | None:
        """A call is about to be sent, with these headers."""
        call = self._detector.outgoing(method, host, url, headers, body)
        try:
            request = CURRENT.get()
            if request is None or is_over(request):
                return None
            if type(body) in (bytes, str) and body:
                self._stores.written("http", host, url, body, request)
            # Where the detector is off, answers are still of use to provenance.
            return call or Call(request, method, host, url, headers, body)
        except Exception as error:
            self.failed(error)
            return call

    def watch(self, defaults: Any) -> None:
        """Tell these default headers of a client from those of single calls, so that writes into them are noticed."""
        key = id(defaults)
        known = self.defaults.get(key)
        if (known is not None and known[0]() is defaults) or len(self.defaults) >= DEFAULTS_LIMIT:
            return
        table, accessed, number, detector = self.defaults, self._accessed, next(self._numbers), self._detector

        def forget(_: object) -> None:
            table.pop(key, None)
            accessed.pop(number, None)
            detector.forget(number)

        table[key] = (weakref.ref(defaults, forget), number)

    def wrote(self, written: Any, headers: Headers) -> None:
        """Headers were written into an object that is among `defaults`; asked first, for most are of single calls."""
        try:
            known = self.defaults.get(id(written))
            if known is not None and known[0]() is written:
                self._detector.wrote(known[1], headers)
        except Exception as error:
            self.failed(error)

    def accessed(self, defaults: Any) -> None:
        """A client gave its default headers out, of a type whose writes cannot be hooked: who asked may write into them now."""
        try:
            self.watch(defaults)
            self.settle(defaults)
            request = CURRENT.get()
            known = self.defaults.get(id(defaults))
            if request is not None and known is not None:
                self._accessed[known[1]] = (request, credentials_of(defaults.items(), ""))
        except Exception as error:
            self.failed(error)

    def settle(self, defaults: Any) -> None:
        """See what was written since the headers were given out: whoever asks next, or sends, comes after the write."""
        known = self.defaults.get(id(defaults))
        accessed = self._accessed.pop(known[1], None) if known is not None else None
        if known is not None and accessed is not None:
            request, before = accessed
            written = [one for one in credentials_of(defaults.items(), "") if one not in before]
            if written:
                self._detector.wrote(known[1], written, request)

    def remember(self, call: Call, response: Any) -> None:
        """Tie the answer to its call, until it is read or gone."""
        try:
            if len(self._open) < OPEN_LIMIT:
                key, table = id(response), self._open

                def forget(_: object) -> None:
                    table.pop(key, None)

                table[key] = (weakref.ref(response, forget), call)
        except Exception as error:
            self.failed(error)

    def answered(self, response: Any, set_cookies: Iterable[str]) -> None:
        """The head of a remembered answer is there; its body may have been read already, may follow, or may never be read."""
        try:
            known = self._open.get(id(response))
            if known is not None and known[0]() is response:
                self._detector.answered(known[1], list(set_cookies))
        except Exception as error:
            self.failed(error)

    def read(self, response: Any, body: object) -> None:
        """The client gives the whole body: looked at once for each answer."""
        try:
            known = self._open.pop(id(response), None)
            if known is None or known[0]() is not response:
                return
            call = known[1]
            if body and type(body) is bytes:
                self._stores.read("http", call.host, call.url, body, call.request)
            self._detector.read(call, body)
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count an error of an integration's own."""
        self._reporter.check_failed(names.FOREIGN_CREDENTIAL, "http_client", error)


def hook(
    library: str, module: Any, lowest: tuple[int, int], highest: tuple[int, int], targets: Iterable[Target], detection: Detection
) -> Installed:
    """Replace the methods of `targets` in a library whose version is within `lowest` and `highest`, or leave all as they are."""
    version = _version_of(library)
    found = [(getattr(module, owner, None), attribute, make, f"{owner}.{attribute}") for owner, attribute, make in targets]
    is_known = lowest <= _numbers(version) <= highest and all(
        owner is not None and attribute in vars(owner) for owner, attribute, _, _ in found
    )
    note = "" if is_known else f"version {version} is not known (tested from {lowest[0]}.{lowest[1]} on): its calls are not seen"
    undo: list[Callable[[], None]] = []
    if is_known:
        calls = HttpCalls(detection)
        undo = [replace(owner, attribute, make(calls)) for owner, attribute, make, _ in found]

    def take_off() -> None:
        for one in reversed(undo):
            one()

    return Installed([Patch(library, version, target, True, is_known, note) for _, _, _, target in found], take_off)


def header_writes(calls: HttpCalls) -> Callable[[Any], Any]:
    """Make the replacement of a headers type's `__setitem__`: writes into a client's default headers are noticed."""
    defaults = calls.defaults

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def set_header(self: Any, key: Any, value: Any) -> None:
            original(self, key, value)
            if id(self) in defaults:
                calls.wrote(self, ((key, value),))

        return set_header

    return make


def loaded(library: str) -> Any:
    """Return a library that the host has imported; waits where another thread is still at it."""
    return importlib.import_module(library)


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _numbers(version: str) -> tuple[int, int]:
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)
