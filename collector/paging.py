"""Cursors and moments in query strings, shared by every list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BeforeValidator

from isolation_monitor.collector.clock import parse_time
from isolation_monitor.collector.problems import Invalid


def _moment(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        # A plus sign that was not escaped arrives as a blank.
        moment = parse_time(value.replace(" ", "+"))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(("has no", "is beyond")) else "is not RFC 3339, such as 2026-01-01T12:00:00Z") from None
    # Ranges are rounded to hours and days: beyond the last one there is no calendar.
    if not 2 <= moment.year <= 9998:
        raise ValueError("is beyond the calendar")
    return moment


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""RFC 3339 with a time zone, as a query parameter."""


def chosen_fields(text: str | None, known: Sequence[str]) -> Sequence[str] | None:
    """Return the names that `fields=a,b` asks for, of those that are `known`; None for all.

    Raises:
        Invalid: a name that is not known.
    """
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise Invalid(f"fields has {', '.join(repr(name[:50]) for name in unknown[:3]) or 'no name'}: choose among {', '.join(known)}")
    return names


def only(item: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:  # Any: JSON
    """Return the chosen fields of an answer's item."""
    return item if fields is None else {name: item[name] for name in fields}


def following(request: Request, last: str | None, *, has_more: bool) -> dict[str, str | None]:
    """Return how an answer names what comes after it.

    `last_cursor` stands for the last row of this page, for who goes on later; `next_cursor` is the same where there is more now, and
    `next` the path to it with all that was asked; both are null on the last page.
    """
    if last is None or not has_more:
        return {"next_cursor": None, "next": None, "last_cursor": last}
    asked = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {"next_cursor": last, "next": f"{request.url.path}?{urlencode([*asked, ('cursor', last)])}", "last_cursor": last}


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
