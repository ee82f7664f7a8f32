"""Broadcasts: a suspicious frame or line of a stream waits until it is known to whom the same content went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.authors import names_in
from isolation_monitor.telemetry.detectors.echoes import Echoes
from isolation_monitor.telemetry.detectors.suspicion import echo_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.detectors.authors import Authors
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.suspicion import Suspicion

WAIT_S: Final = 0.3
"""How long a suspicious frame waits for the same content to go to others, and so prove to be a broadcast."""
WAITING_LIMIT: Final = 1_000
MANY: Final = 3
"""What goes to so many is meant for all of them."""


class Broadcasts:
    """Judges after `WAIT_S` whether a content went to its owner as well, or to many; hands on what neither explains."""

    def __init__(self, kit: Kit, is_none: Callable[[Suspicion], None], authors: Authors) -> None:
        self._reporter = kit.reporter
        self._housekeeper = kit.housekeeper
        self._is_none = is_none
        self._authors = authors
        self._waiting: dict[tuple[str, str], Suspicion] = {}
        """By content and id of the owner."""
        self._echoes = Echoes()

    def heard(self, key: str) -> None:
        """Note that a content, by its key, goes to its owner now."""
        self._echoes.heard(key)

    def wait(self, suspicion: Suspicion, text: str) -> None:
        """Put the judgement of a frame off; another frame with the same content joins it."""
        key = (echo_key(suspicion.token, suspicion.entry, text), suspicion.owner.id)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.goes_to(suspicion)
            return
        if len(self._waiting) >= WAITING_LIMIT:
            self._reporter.skipped(names.FOREIGN_CONTENT)
            return
        self._waiting[key] = suspicion
        suspicion.signed = names_in(text, suspicion.token)
        suspicion.goes_to(suspicion)
        self._housekeeper.after(WAIT_S, lambda: self._settle(key))

    def _settle(self, key: tuple[str, str]) -> None:
        suspicion = self._waiting.pop(key, None)
        if suspicion is None:
            return
        # Sent to the writer as well, or to many: a broadcast of what a user said, on purpose.
        echoed = self._echoes.explain(key[0], suspicion.sockets)
        if len(suspicion.receivers) < MANY and not suspicion.entry.is_public and not echoed:
            self._is_none(suspicion)
            return
        if len(suspicion.receivers) >= MANY:
            for name in suspicion.signed:
                self._authors.is_known_as(name, suspicion.owner.id)
        if suspicion.entry.how == "answers":
            # A name, a picture: everybody's own, and shown to all.
            suspicion.entry.is_public = True
