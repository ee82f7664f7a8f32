"""The live keys of one collector: those of its settings and of its file, read again when a file changes.

A file that has become unreadable changes nothing: the keys known before hold, the log says so once a minute, the metric
`isolation_collector_key_reloads_total` counts it, and `isolation_collector_keys_stale` is 1 until it can be read. A key ends
by its entry being removed, not by a broken file.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from isolation_monitor.collector.keys import Key, digest_of

logger = logging.getLogger("isolation_monitor.collector")

LOOK_EVERY_S: Final = 1.0
_SAY_AGAIN_S: Final = 60.0


class KeyRing:
    def __init__(
        self,
        load: Callable[[], Sequence[Key]],
        files: Sequence[Path] = (),
        told: Callable[[bool], None] = lambda _ok: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` returns all live keys, `files` is what it reads; `told` hears of each reload whether it worked."""
        self._load = load
        self._files = tuple(files)
        self._told = told
        self._monotonic = monotonic
        self._seen = self._signature()
        self._keys = tuple(load())
        self._looked_s = monotonic()
        self._complained_s = float("-inf")
        self._is_stale = False

    def find(self, token: str) -> Key | None:
        """Return the key of a token. Takes the same time whichever it is, known or not."""
        return self.find_digest(digest_of(token))

    def find_digest(self, presented: bytes) -> Key | None:
        """As `find`, for what is kept of a token."""
        self._refresh()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key
        return found

    def __len__(self) -> int:
        return len(self._keys)

    def _refresh(self) -> None:
        now = self._monotonic()
        if not self._files or now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        # Before reading: a change in between is then seen at the next look.
        signature = self._signature()
        # A file that is as it was before it broke is read, too: only so is it known that the keys are its own again.
        if signature == self._seen and not self._is_stale:
            return
        try:
            self._keys = tuple(self._load())
        except Exception as error:
            self._is_stale = True
            self._told(False)
            if now - self._complained_s >= _SAY_AGAIN_S:
                self._complained_s = now
                logger.error("the keys were not read again, those from before hold: %s", error)
            return
        self._seen, self._is_stale = signature, False
        self._told(True)
        logger.info("the keys were read again: %d are live", len(self._keys))

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(path) for path in self._files)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
