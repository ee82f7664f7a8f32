"""Every query on probes: the last result of each, and the results that were different."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.probes.domain import CHANGES_KEPT, Result, State
from isolation_monitor.collector.storage.database import insert_into
from isolation_monitor.collector.storage.models import ProbeChangeRow, ProbeStateRow


async def states(connection: AsyncConnection) -> dict[str, State]:
    """Return the state of every probe that was ever checked and not forgotten, by name."""
    found = {}
    for row in await connection.execute(select(ProbeStateRow.__table__)):
        last = _result(row.at, row.result)
        found[row.probe] = State(row.probe, row.service, last, row.since, row.failures, last.certificate_expires_at)
    return found


async def changes(connection: AsyncConnection, probe: str, limit: int) -> list[Result]:
    """Return the last results of a probe that differed from the one before, newest first."""
    row = ProbeChangeRow
    query = select(row.at, row.result).where(row.probe == probe).order_by(row.at.desc(), row.id.desc()).limit(limit)
    return [_result(found.at, found.result) for found in await connection.execute(query)]


async def keep(connection: AsyncConnection, state: State, *, is_change: bool) -> None:
    """Store a probe's state; where it is a change also that, and let go of the oldest ones."""
    last = state.last
    values = {"service": state.service, "since": state.since, "failures": state.failures, "at": last.at, "result": _json(last)}
    statement = insert_into(connection, ProbeStateRow).values(probe=state.probe, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["probe"], set_=values))
    if not is_change:
        return
    row = ProbeChangeRow
    await connection.execute(insert_into(connection, row).values(id=uuid.uuid4().hex, probe=state.probe, at=last.at, result=_json(last)))
    kept = select(row.id).where(row.probe == state.probe).order_by(row.at.desc(), row.id.desc()).limit(CHANGES_KEPT)
    await connection.execute(delete(row).where(row.probe == state.probe, row.id.not_in(kept)))


async def forget_all_but(connection: AsyncConnection, probes: Collection[str]) -> None:
    """Forget probes that the operator's file names no more."""
    names: Sequence[str] = sorted(probes)
    for row in (ProbeStateRow, ProbeChangeRow):
        await connection.execute(delete(row).where(row.probe.not_in(names)))


def _json(result: Result) -> dict[str, Any]:  # Any: JSON
    expires = result.certificate_expires_at
    return {
        "duration_s": result.duration_s,
        "reason": result.reason,
        "detail": result.detail,
        "status_code": result.status_code,
        "certificate_expires_at": None if expires is None else rfc3339(expires),
        "redirects": result.redirects,
        "phases_s": result.phases_s,
    }


def _result(at: datetime, value: dict[str, Any]) -> Result:  # Any: JSON, written by `_json`
    expires = value["certificate_expires_at"]
    return Result(at, **(value | {"certificate_expires_at": None if expires is None else datetime.fromisoformat(expires)}))
