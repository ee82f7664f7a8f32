"""Whom a violation touched, as columns: only the ids, so that nobody unpacks thousands of whole sides to count them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement

from isolation_monitor.collector.affected import Affected
from isolation_monitor.collector.storage.models import ViolationRow


def touching(of: Any = ViolationRow) -> list[ColumnElement[Any]]:  # Any: violations, or columns of them by name; values of five columns
    """Return the columns that `add_touched` takes."""
    sides = (of.victim, of.offender)
    return [*(side["principal"].as_string() for side in sides), *(side["run_id"].as_string() for side in sides), of.extra["affected"]]


def add_touched(affected: Affected, ids: Sequence[Any]) -> None:  # Any: as above
    """Count one violation by the values of `touching()`."""
    affected.add_ids(ids[:2], ids[2:4], ids[4])
