"""A module of an application, with one field that every request writes over."""

from __future__ import annotations

import hashlib

SLOT: dict[str, str] = {"value": ""}


def value_of(user: str) -> str:
    """Return a value that is the user's own and that nothing but this function knows."""
    return hashlib.sha256(user.encode()).hexdigest()[:24]
