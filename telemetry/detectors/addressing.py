"""Addressing: whether what a request names (a path's or a query's words, ids of rooms, documents and users) is its user's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.ingress import NOTHING
from isolation_monitor.telemetry.recent import forget_oldest

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.ingress import Ingress
    from isolation_monitor.telemetry.detectors.ownership import Ownership
    from isolation_monitor.telemetry.principals import Principal

WRITERS_LIMIT: Final = 10_000


class Addressing:
    """Remembers who wrote where. Called on the event loop."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._writers: dict[str, str] = {}
        """Who first wrote to an address that is no token; `""` for several."""

    def wrote(self, addresses: Iterable[str], principal: Principal) -> None:
        """Note that a principal has sent something there."""
        for address in addresses:
            if self._writers.setdefault(address, principal.id) != principal.id:
                self._writers[address] = ""
        forget_oldest(self._writers, WRITERS_LIMIT, 0.2)

    def is_only_own(self, request: RequestContext, principal: Principal) -> bool:
        """Return whether a request names nothing that could be another's: then the principal alone decides what it gets."""
        said: Ingress = request.ingress or NOTHING
        # Asked for each frame: a generator in `all` takes twice as long.
        for address in said.addresses:  # noqa: SIM110
            if not self.is_own(address, principal):
                return False
        return True

    def is_own(self, address: str, principal: Principal) -> bool:
        """Return whether an address is the principal's: its id, its token, or where nobody else has written."""
        if address == principal.id:
            return True
        entry = self._ownership.entries.get(address)
        if entry is not None:
            return not entry.is_public and entry.owner is not None and entry.owner.id == principal.id
        return self._writers.get(address) == principal.id
