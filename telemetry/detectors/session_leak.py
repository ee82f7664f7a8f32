"""PLACEHOLDER until the database helper's file lands here; overwrite me."""

from typing import Any


class SessionLeaks:
    def __init__(self, *a: Any) -> None: ...
    def request_ended(self, request: Any) -> None: ...
    def blocks(self, request: Any) -> bool:
        return False
