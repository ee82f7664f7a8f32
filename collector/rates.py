"""How fast each key may go: requests, records and bytes of bodies a second, as token buckets of one process.

A bucket may go into debt: what arrives is let in while there is anything left, and its true size is taken off when it is
known. So a limit needs no announced length, one large batch is never refused for ever, and over time the average holds.
Replicas count for themselves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolation_monitor.collector.keys import Key, Rates

Limit = Literal["requests", "records", "bytes"]
LIMITS: Final[tuple[Limit, ...]] = ("requests", "records", "bytes")
_METER: Final = "isolation_monitor.meter"


class Bucket:
    """`rate` a second on average, `rate * burst_s` at once, and one at least. `rate` 0 is no limit."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, burst_s: float, now_s: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * burst_s)
        self._left = self._most
        self._at = now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long until something is let in again; 0 when it is now."""
        if not self._rate:
            return 0.0
        self._left = min(self._most, self._left + (now_s - self._at) * self._rate)
        self._at = now_s
        return 0.0 if self._left >= 1 else (1 - self._left) / self._rate

    def take(self, amount: float) -> None:
        if self._rate:
            self._left -= amount


@dataclass(slots=True)
class Allowance:
    """The buckets of one key."""

    requests: Bucket
    records: Bucket
    bytes: Bucket
    monotonic: Callable[[], float]

    def refusal(self, *limits: Limit) -> tuple[Limit, int] | None:
        """Return the first of `limits` that is used up and after how many whole seconds to ask again; None: go on."""
        now_s = self.monotonic()
        for limit in limits:
            bucket: Bucket = getattr(self, limit)
            if wait_s := bucket.wait_s(now_s):
                return limit, max(1, math.ceil(wait_s))
        return None


class Allowances:
    """The allowance of each key, made when it is first used."""

    def __init__(self, default: Rates, burst_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`default` is for keys that say nothing of their own; `burst_s` seconds' worth may come at once."""
        self._default = default
        self._burst_s = burst_s
        self._monotonic = monotonic
        self._by_key: dict[str, tuple[Rates, Allowance]] = {}

    def of(self, key: Key) -> Allowance:
        known = self._by_key.get(key.id)
        if known is None or known[0] != key.rates:
            now_s = self._monotonic()
            requests, records, size = (Bucket(self._rate(key.rates, limit), self._burst_s, now_s) for limit in LIMITS)
            known = self._by_key[key.id] = (key.rates, Allowance(requests, records, size, self._monotonic))
        return known[1]

    def _rate(self, rates: Rates, limit: Limit) -> float:
        own: float | None = getattr(rates, f"{limit}_per_s")
        default: float | None = getattr(self._default, f"{limit}_per_s")
        return (default or 0.0) if own is None else own


class Meter:
    """Counts the bytes of one request's body, and takes them off a bucket once it is known whose they are."""

    __slots__ = ("_bucket", "_bytes")

    def __init__(self) -> None:
        self._bytes = 0
        self._bucket: Bucket | None = None

    def add(self, number: int) -> None:
        if self._bucket is None:
            self._bytes += number
        else:
            self._bucket.take(number)

    def charge(self, bucket: Bucket) -> None:
        if self._bucket is None:
            self._bucket = bucket
            bucket.take(self._bytes)


class MeterBodies:
    """Middleware: gives each request a meter that counts its body as it arrives, whoever reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meter = scope[_METER] = Meter()

        async def metered() -> Message:
            message = await receive()
            if body := message.get("body"):
                meter.add(len(body))
            return message

        await self._app(scope, metered, send)


def meter_of(scope: Scope) -> Meter:
    """Return the meter of a request; one that counts nothing where the middleware is not there."""
    found: Meter = scope.get(_METER) or Meter()
    return found
