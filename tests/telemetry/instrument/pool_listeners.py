"""What listens to the checkouts of one engine's pool, less what listens to all pools of the process."""

from __future__ import annotations

from typing import Any

from isolation_monitor.telemetry.instrument import sqlalchemy_pools_seen


def listeners_of(pool: Any) -> list[Any]:
    return [one for one in pool.dispatch.checkout if getattr(one, "__module__", "") != sqlalchemy_pools_seen.__name__]
