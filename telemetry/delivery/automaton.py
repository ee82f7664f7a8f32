"""The order of a run's events: one start, tools in pairs, one end. Plain Python, no clock.

`started (thinking | tool_executing(id) … tool_completed(id))* (completed | error | cancelled)`. Parallel tools may
interleave; they are matched by call id where given, else counted. A run without tools owes no tool events.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError

EVENTS_LIMIT = 12
"""Names of events that metrics tell apart."""


@dataclass(frozen=True, slots=True)
class EventNames:
    """Which event names play which part; the defaults are `names.RUN_EVENTS`."""

    started: str = "agent_started"
    tool_started: str = "tool_executing"
    tool_ended: str = "tool_completed"
    completed: str = "agent_completed"
    failed: str = "agent_error"
    cancelled: str = "agent_cancelled"
    others: tuple[str, ...] = ("agent_thinking",)

    def __post_init__(self) -> None:
        """Raises `SettingsError` where a part has no name, two parts have one, or there are more names than metrics can tell apart."""
        if not all(self.all) or len(set(self.all)) < len(self.all):
            raise SettingsError(f"the run events {', '.join(self.all)} are empty or twice: give each part a name of its own")
        if len(self.all) > EVENTS_LIMIT:
            raise SettingsError(f"{len(self.all)} run events are more than {EVENTS_LIMIT}: leave out those that a run need not have")

    @classmethod
    def parse(cls, parts: Iterable[str]) -> EventNames:
        """Return the names of `part=name` texts, `others=a|b`; a part that is not named keeps its default.

        >>> EventNames.parse(["started=RUN_STARTED", "completed=RUN_FINISHED", "others=STEP|TEXT"]).completed
        'RUN_FINISHED'

        Raises:
            SettingsError: a text is no `part=name`, or names no part.
        """
        known = [field.name for field in fields(cls)]
        named: dict[str, str | tuple[str, ...]] = {}
        for text in parts:
            part, equals, name = text.partition("=")
            if not equals or part.strip() not in known:
                raise SettingsError(f"run_events has {text!r}: write part=name, where part is one of {', '.join(known)}")
            named[part.strip()] = tuple(one.strip() for one in name.split("|") if one.strip()) if part.strip() == "others" else name.strip()
        return cls(**named)  # type: ignore[arg-type]  # `others` alone is a tuple

    @property
    def all(self) -> tuple[str, ...]:
        return (self.started, *self.others, self.tool_started, self.tool_ended, self.completed, self.failed, self.cancelled)


@functools.lru_cache(maxsize=16)
def _owed(events: EventNames) -> frozenset[str]:
    """The events that have a place in the order."""
    return frozenset(events.all) - frozenset(events.others)


class RunOrder:
    """Feeds on event names as the application emits them; `anomalies` counts what is wrong so far."""

    __slots__ = ("_events", "_open_tools", "_owed", "_started", "anomalies", "ended")

    def __init__(self, events: EventNames) -> None:
        self._events = events
        self._owed = _owed(events)
        self._started = False
        self.ended: str | None = None
        self._open_tools: Counter[str] = Counter()
        self.anomalies: Counter[str] = Counter()

    def feed(self, event: str, call_id: str = "") -> str | None:
        """Take one event; return the anomaly that it is, or None."""
        if self._started and self.ended is None and event not in self._owed:
            # Most events: what may come anywhere between start and end.
            return None
        anomaly = self._judge(event, call_id)
        if anomaly is not None:
            self.anomalies[anomaly] += 1
        return anomaly

    def _judge(self, event: str, call_id: str) -> str | None:
        events = self._events
        if self.ended is not None:
            return "duplicate" if event == self.ended else "after_end"
        if event == events.started:
            if self._started:
                return "duplicate"
            self._started = True
            return None
        late_start = not self._started
        # One anomaly per defect: the events after a missing start are not each out of order.
        self._started = True
        if event == events.tool_started:
            self._open_tools[call_id] += 1
        elif event == events.tool_ended:
            if self._open_tools[call_id] <= 0:
                return "out_of_order"
            self._open_tools[call_id] -= 1
        elif event in (events.completed, events.failed, events.cancelled):
            self.ended = event
        return "out_of_order" if late_start else None

    def close(self) -> list[str]:
        """Return the names of the events that the run still owed when it ended, and count them as missing."""
        missing = []
        if not self._started and self.ended is None:
            missing.append(self._events.started)
        if self.ended in (None, self._events.completed):
            missing += [self._events.tool_ended] * self.tools_open
        if self.ended is None:
            missing.append(self._events.completed)
        if missing:
            self.anomalies["missing"] += len(missing)
        return missing

    @property
    def is_disordered(self) -> bool:
        """Whether an event came before one that had to come first, or after the end."""
        return self.anomalies["out_of_order"] + self.anomalies["after_end"] > 0

    @property
    def is_doubled(self) -> bool:
        """Whether a start or an end came twice."""
        return self.anomalies["duplicate"] > 0

    @property
    def tools_open(self) -> int:
        """How many tools have started and not ended."""
        return sum(n for n in self._open_tools.values() if n > 0)

    @property
    def outcome(self) -> str:
        """One of `names.RUN_OUTCOMES` less `abandoned`, as the events alone tell it."""
        if self.ended is None or self.anomalies["missing"]:
            return names.RUN_OUTCOMES[1]
        return {self._events.completed: "complete", self._events.failed: "failed", self._events.cancelled: "cancelled"}[self.ended]
