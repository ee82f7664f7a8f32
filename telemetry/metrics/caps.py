"""Caps: how many values a label may learn, so that no client can grow the number of series."""

from __future__ import annotations


def admit(value: str, known: set[str], cap: int) -> bool:
    """Whether `value` is, or with this call becomes, one of at most `cap` known values."""
    if value in known:
        return True
    if len(known) >= cap:
        return False
    known.add(value)
    return True
