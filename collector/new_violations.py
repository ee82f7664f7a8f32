"""What the store took of violations that break isolation, on its way from the records to whoever pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

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

    @property
    def key(self) -> Key:
        """Return what they have in common."""
        return self.service, self.kind

    def with_more(self, more: NewViolations) -> NewViolations:
        """Return both together, later ones of the same key added to these."""
        return replace(self, count=self.count + more.count, first=min(self.first, more.first), last=max(self.last, more.last))
