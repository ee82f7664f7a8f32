"""Patches of foreign libraries, as `isomon doctor` lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Patch:
    """One change to a foreign library's object. `target` names it; `active` is False once it was taken off again."""

    library: str
    version: str
    target: str
    reversible: bool
    active: bool
    note: str = ""
