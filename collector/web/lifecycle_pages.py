"""What the pages of starts and ends show: all of them, and one. Reads only, through the service of the feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from isolation_monitor.collector.lifecycle.domain import KINDS, STARTUP, LifecycleQuery, LifecycleRecord, Part
from isolation_monitor.collector.lifecycle.service import LifecycleService
from isolation_monitor.collector.paging import make_cursor, read_cursor
from isolation_monitor.collector.problems import Invalid
from isolation_monitor.collector.web.rendering import words

Values = dict[str, Any]  # Any: what a template shows
Params = Mapping[str, str]

_PAGE_SIZE: Final = 50
_HANGS: Final = 6
"""Phases that hang whose stacks stand on the page of all; the rest are counted."""
_LONGEST: Final = 200
_WORDS: Final = {
    "hanging": "phases that hang",
    "failed": "start-ups that failed",
    "startup": "start-ups",
    "left": "clean-ups that left something",
    "cleanup": "clean-ups",
}
LOOKS: Final = {
    "ready": "good",
    "clean": "good",
    "done": "good",
    "hanging": "bad",
    "failed": "bad",
    "left": "bad",
    "timed_out": "bad",
    "forced": "warn",
    "not_run": "warn",
    "running": "live",
}
"""How a state or an outcome is coloured; others are grey."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase or step with the share that it took of the longest one, 0-100."""

    part: Part
    share: float


class LifecyclePages:
    """Returns the values of each page by the parameters of its address.

    Every method raises StoreUnavailable where the store is away, Invalid for parameters that cannot be used, and NotFound where the one
    thing that was asked for does not exist.
    """

    def __init__(self, service: LifecycleService) -> None:
        self._service = service

    async def lifecycle(self, params: Params) -> Values:
        """What hangs now, and every start and end, page by page."""
        chosen = {name: _given(params, name) for name in ("service", "kind", "cursor")}
        if chosen["kind"] not in ("", *KINDS):
            raise Invalid(f"kind is one of {', '.join(KINDS)}, or empty")
        service = chosen["service"] or None
        query = LifecycleQuery(service, chosen["kind"] or None, limit=_PAGE_SIZE + 1, after=read_cursor(chosen["cursor"]))
        found = await self._service.find(query)
        page = found[:_PAGE_SIZE]
        hangs = await self._service.hanging(service)
        return {
            "chosen": chosen,
            "filters": {name: value for name, value in chosen.items() if value and name != "cursor"},
            "kinds": _WORDS,
            "hangs": hangs[:_HANGS],
            "more_hangs": max(0, len(hangs) - _HANGS),
            "lifecycle_records": page,
            "following": make_cursor(page[-1].time, page[-1].id) if len(found) > _PAGE_SIZE else None,
            "looks": LOOKS,
        }

    async def record(self, params: Params) -> Values:
        """One start-up or clean-up, and the others of its process."""
        story = await self._service.tell(_given(params, "id"))
        return {"story": story, "title": titled(story.record), "bars": bars(story.record.parts), "looks": LOOKS}


def titled(record: LifecycleRecord) -> str:
    """Return in a few words what a record tells."""
    if record.type != STARTUP:
        return {"clean": "Clean-up left nothing", "left": "Clean-up left something behind"}.get(record.state, "Clean-up by force")
    if record.state == "hanging":
        return f"Start-up phase {record.phase or 'without a name'} hangs"
    return {"ready": "Start-up done", "failed": "Start-up failed"}.get(record.state, f"Start-up {words(record.state)}")


def bars(parts: Sequence[Part]) -> list[Bar]:
    """Return phases or steps in their order with the share of the longest one that each took."""
    longest = max((one.duration_s or 0.0 for one in parts), default=0.0) or 1.0
    return [Bar(one, round(100 * (one.duration_s or 0.0) / longest, 1)) for one in parts]


def _given(params: Params, name: str) -> str:
    value = params.get(name, "").strip()
    if len(value) > _LONGEST + 100 * (name == "cursor"):
        raise Invalid(f"{name} has {len(value)} characters, at most {_LONGEST} are taken")
    return value
