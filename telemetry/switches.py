"""Switches: each detector can be off, watch (`monitor`) or refuse (`block`), on every chance or on a share of them.

The setting `detectors` lists what differs from the shipped state: `shared_state=off`, `foreign_content=block`,
`shared_state=monitor@0.05` (one chance in twenty). A chance that is left out counts as skipped, never as passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError

DetectorMode = Literal["off", "monitor", "block"]
MODES: Final = ("off", "monitor", "block")

BLOCKING: Final = (
    names.FOREIGN_IDENTITY,
    names.FOREIGN_CONTENT,
    names.CANARY,
    names.WRONG_SOCKET,
    names.UNSCOPED_ACCESS,
    names.CACHE_OWNER,
)
"""Detectors that look before the harm is done, so that they can refuse."""
SHIPPED_SHARES: Final[dict[str, float]] = {}
"""Detectors that look at a share of their chances as shipped; all others look at every one."""


class Switch:
    """One detector's switch. Detectors keep theirs and ask `is_on` (and `sampled` where they sample)."""

    __slots__ = ("_due", "detector", "is_on", "mode", "share")

    def __init__(self, detector: str) -> None:
        self.detector = detector
        self.mode: DetectorMode = "monitor"
        self.is_on = True
        """False when the detector is off or the whole monitor is; read at every chance, so a plain attribute."""
        self.share = SHIPPED_SHARES.get(detector, 1.0)
        self._due = 0.0

    @property
    def blocks(self) -> bool:
        return self.is_on and self.mode == "block"

    def sampled(self) -> bool:
        """Return whether this chance is one to look at: evenly spread, no randomness, `share` of all calls."""
        self._due += self.share
        if self._due >= 1.0:
            self._due -= 1.0
            return True
        return False


class Switches:
    """All detectors' switches, by detector."""

    def __init__(self, settings: Iterable[str] = ()) -> None:
        """Set what `settings` says (see the module).

        Raises:
            SettingsError: a detector or mode is unknown, a share is not within (0, 1], or `block` where nothing can be refused.
        """
        self._by_detector = {detector: Switch(detector) for detector in names.DETECTORS}
        for item in settings:
            self._set(item)

    def __getitem__(self, detector: str) -> Switch:
        return self._by_detector[detector]

    def __iter__(self) -> Iterator[Switch]:
        return iter(self._by_detector.values())

    def kill(self, is_off: bool) -> None:
        """Throw all switches with the monitor's own; each remembers its mode."""
        for switch in self._by_detector.values():
            switch.is_on = not is_off and switch.mode != "off"

    def _set(self, item: str) -> None:
        detector, equals, rest = item.partition("=")
        mode, at, share = rest.partition("@")
        if detector not in self._by_detector:
            raise SettingsError(f"detectors={item!r} names no detector: known are {', '.join(names.DETECTORS)}")
        if not equals or mode not in MODES:
            raise SettingsError(f"detectors={item!r} has no known mode: write {detector}=off, {detector}=monitor or {detector}=block")
        if mode == "block" and detector not in BLOCKING:
            raise SettingsError(f"detectors={item!r}: {detector} sees only what has happened; these can block: {', '.join(BLOCKING)}")
        switch = self._by_detector[detector]
        switch.mode = mode  # type: ignore[assignment]  # one of MODES
        switch.is_on = mode != "off"
        if at:
            try:
                switch.share = float(share)
            except ValueError:
                switch.share = -1.0
            if not 0 < switch.share <= 1:
                raise SettingsError(f"detectors={item!r} has no share within (0, 1]: write one chance in twenty as {detector}={mode}@0.05")
