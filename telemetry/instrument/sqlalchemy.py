"""PLACEHOLDER until the database helper's file lands here; overwrite me."""

from typing import Any


def instrument_engine(*a: Any, **k: Any) -> Any:
    raise NotImplementedError
