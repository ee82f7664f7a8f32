"""Header writes: who writes which credential into the default headers of a client that several requests share.

A client that fetches a token for all writes it now and then, and never the same one again for one user. A client whose
header is written for each request shows another picture: each user has a value, and writes that one again and again.
Two users seen so, with different values, prove whose the values are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.principals import Principal

HOLDERS_LIMIT: Final = 500
WRITERS_LIMIT: Final = 200
"""Principals remembered of one header of one client; of more, the proof has long been found."""
TIMES: Final = 2
"""Requests of one principal that must have written the same value."""


class _Writer:
    __slots__ = ("key", "request", "times")

    def __init__(self, key: int, request: RequestContext) -> None:
        self.key = key
        self.request = request
        self.times = 1


class HeaderWrites:
    """By client's headers and header: the latest value of each principal, and in how many requests in a row he wrote it."""

    def __init__(self) -> None:
        self._writers: OrderedDict[tuple[int, str], OrderedDict[str, _Writer]] = OrderedDict()

    def wrote(
        self, holder: int, name: str, key: int, principal: Principal, request: RequestContext
    ) -> tuple[bool, list[tuple[int, RequestContext]]]:
        """Note a write; return whether another principal wrote this value too, and the values that are proven to be their writers'."""
        writers = self._writers.get((holder, name))
        if writers is None:
            writers = self._writers[holder, name] = OrderedDict()
            if len(self._writers) > HOLDERS_LIMIT:
                self._writers.popitem(last=False)
        is_common = any(writer.key == key for id, writer in writers.items() if id != principal.id)
        own = writers.get(principal.id)
        if own is None or own.key != key:
            writers[principal.id] = _Writer(key, request)
            if len(writers) > WRITERS_LIMIT:
                writers.popitem(last=False)
        elif own.request is not request:
            own.request = request
            own.times += 1
        steady = [(writer.key, writer.request) for writer in writers.values() if writer.times >= TIMES]
        return is_common, steady if len({key for key, _ in steady}) > 1 else []

    def forget(self, holder: int) -> None:
        """The headers are gone; their number may come again as another's."""
        # A copy first: this runs whenever the collector of garbage does.
        for key in list(self._writers):
            if key[0] == holder:
                self._writers.pop(key, None)
