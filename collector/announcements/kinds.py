"""Kinds of violations as labels of alerts: a sender that makes kinds up makes no alert, and no page, for each of them."""

from __future__ import annotations

from typing import Final

from isolation_monitor.telemetry.names import KIND_GRADES, OTHER

OF_SERVICE: Final = 20
"""Kinds of one service that this version does not know, as a newer telemetry's; each beyond is `other`."""
OF_ALL: Final = 500


class Kinds:
    """What each service was heard of, by this process."""

    def __init__(self) -> None:
        self._unknown: dict[str, set[str]] = {}
        self._number = 0

    def label(self, service: str, kind: str) -> str:
        """Return the kind that is told: itself, or `other`. One service that invents kinds fills its own share and no other's."""
        if kind in KIND_GRADES or kind in self._unknown.get(service, ()):
            return kind
        if self._number >= OF_ALL or len(self._unknown.get(service, ())) >= OF_SERVICE:
            return OTHER
        self._unknown.setdefault(service, set()).add(kind)
        self._number += 1
        return kind
