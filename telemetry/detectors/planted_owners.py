"""The owners of a planted fault's values: the knowledge that `shared_state.py` proves itself with, apart from the users'."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isolation_monitor.telemetry.principals import Principal


class PlantedOwners:
    """Knows whose the planted values are, and nothing else."""

    def __init__(self, owners: dict[str, Principal]) -> None:
        self._owners = owners

    def owner_of(self, token: str) -> Principal | None:
        return self._owners.get(token)

    def proves_identity(self, token: str) -> bool:
        return False

    def is_credential(self, token: str) -> bool:
        return False

    def was_said(self, token: str) -> bool:
        return False

    def was_said_to_all(self, token: str) -> bool:
        return False

    def private_to(self, token: str) -> Principal | None:
        return None

    def is_usual(self, token: str) -> bool:
        return False
