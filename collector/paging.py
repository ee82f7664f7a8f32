"""Cursors and moments in query strings, shared by every list."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator

from isolation_monitor.collector.clock import parse_time
from isolation_monitor.collector.problems import Invalid


def _moment(value: object) -> object:
    # A plus sign that was not escaped arrives as a blank.
    return parse_time(value.replace(" ", "+")) if isinstance(value, str) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""RFC 3339 with a time zone, as a query parameter."""


def make_cursor(time: datetime, row_id: str) -> str:
    """Return the cursor that continues after the row with this time and id. Opaque to readers."""
    return base64.urlsafe_b64encode(f"{time.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def read_cursor(text: str | None) -> tuple[datetime, str] | None:
    """Return time and id of the row that a cursor stands for; None for the first page.

    Raises:
        Invalid: not a cursor that this collector gave.
    """
    if not text:
        return None
    try:
        time, _, row_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("|")
        if "\0" in row_id:
            raise ValueError
        return parse_time(time), row_id
    except (ValueError, binascii.Error):
        raise Invalid("cursor is not one of ours: pass next_cursor of the page before, unchanged") from None
