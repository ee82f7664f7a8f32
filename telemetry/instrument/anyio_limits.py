"""anyio's capacity limiters: who holds their places. The largest is the limit of worker threads, of which Starlette and
FastAPI take one for everything that is not `async`: one user's slow requests can take them all.

Supported: anyio 4, whose limiter keeps its borrowers in a set and lets all acquiring and releasing go through two methods.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.starvation import NOBODY, Holder, Holding, Starvation, clock, near
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.detection import Detection

BACKEND: Final = "anyio._backends._asyncio"
METHODS: Final = ("acquire_on_behalf_of", "release_on_behalf_of")


class _Places(Holding):
    """The places of one limiter, by borrower: the holders that the detector asks for are its values."""

    __slots__ = ("by_borrower",)

    def __init__(self) -> None:
        super().__init__("capacity_limiter", "anyio.CapacityLimiter")
        self.by_borrower: dict[int, Holder] = {}
        """By identity: a borrower is held by its limiter while it is listed here."""

    def take(self, borrower: object, holder: Holder) -> None:
        self.by_borrower[id(borrower)] = holder
        self.came(holder)

    def give_back(self, borrower: object) -> None:
        holder = self.by_borrower.pop(id(borrower), None)
        if holder is not None:
            self.holders.remove(holder)
            holder.gave_back()


def install(detection: Detection) -> Installed:
    """Patch the limiter's class."""
    version = importlib.metadata.version("anyio")
    limiter = getattr(importlib.import_module(BACKEND), "CapacityLimiter", None)
    target = "CapacityLimiter"
    if version.split(".")[0] != "4" or limiter is None or not all(method in vars(limiter) for method in METHODS):
        return Installed([Patch("anyio", version, target, True, False, "supported is anyio 4")], lambda: None)
    starvation = detection.starvation
    places: weakref.WeakKeyDictionary[Any, _Places] = weakref.WeakKeyDictionary()
    undo = [
        patches.replace(limiter, "acquire_on_behalf_of", lambda original: _acquire(original, starvation, places)),
        patches.replace(limiter, "release_on_behalf_of", lambda original: _release(original, starvation, places)),
    ]

    def take_off() -> None:
        for one in reversed(undo):
            one()

    return Installed([Patch("anyio", version, f"{target}.{method}", True, True) for method in METHODS], take_off)


def _acquire(original: Callable[..., Any], starvation: Starvation, places: weakref.WeakKeyDictionary[Any, _Places]) -> Callable[..., Any]:
    async def acquire_on_behalf_of(self: Any, borrower: object) -> Any:
        if not starvation.switch.is_on:
            return await original(self, borrower)
        known = places.get(self)
        if known is not None and known.holders and len(self._borrowers) >= self._total_tokens:
            result = await starvation.waiting(known, near(sys._getframe(1)), original, self, borrower)
        else:
            result = await original(self, borrower)
        try:
            if known is None:
                known = places.setdefault(self, _Places())
            request = CURRENT.get()
            known.take(borrower, NOBODY if request is None or request.finished else Holder(request, near(sys._getframe(1)), clock()))
        except Exception as error:
            starvation.failed(error)
        return result

    return acquire_on_behalf_of


def _release(original: Callable[..., Any], starvation: Starvation, places: weakref.WeakKeyDictionary[Any, _Places]) -> Callable[..., Any]:
    def release_on_behalf_of(self: Any, borrower: object) -> Any:
        try:
            known = places.get(self)
            if known is not None:
                known.give_back(borrower)
        except Exception as error:
            starvation.failed(error)
        return original(self, borrower)

    return release_on_behalf_of
