"""What the store took of violations that break isolation, on its way from the records to whoever pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class NewViolations:
    """Violations of one service and kind, `crossed` or `reachable`. `example_id` is one of them; times are those of the harm."""

    service: str
    kind: str
    count: int
    example_id: str
    first: datetime
    last: datetime
    due_ids: tuple[str, ...] = ()
    """Rows of `violation_pages_due` that are there until these violations were told."""

    @property
    def key(self) -> Key:
        """Return what they have in common."""
        return self.service, self.kind

    def with_more(self, more: NewViolations) -> NewViolations:
        """Return both together, later ones of the same key added to these."""
        first, last = min(self.first, more.first), max(self.last, more.last)
        # Not by replace(): each record of a storm comes by here, and it takes three times as long.
        return NewViolations(
            self.service, self.kind, self.count + more.count, self.example_id, first, last, self.due_ids + more.due_ids
        )  # fmt: skip


def joined(found: Iterable[NewViolations]) -> list[NewViolations]:
    """Return those of one key together, in the order in which the keys came."""
    by_key: dict[Key, NewViolations] = {}
    for one in found:
        by_key[one.key] = by_key[one.key].with_more(one) if one.key in by_key else one
    return list(by_key.values())


class Pages(Protocol):
    """Whoever pages for violations. Both calls neither wait nor fail: they stand in the path of records."""

    def noted(self, violated: Sequence[NewViolations]) -> list[NewViolations]:
        """Return what is about to be stored as it will be told, with an id in `due_ids` where a row must remind of it until then."""

    def give(self, violated: Sequence[NewViolations]) -> None:
        """Take what was stored, and its rows with it."""
