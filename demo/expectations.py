"""What each fault must lead to: which violation, which alert, which answer of the gate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from isolation_monitor.telemetry import names


@dataclass(frozen=True, slots=True)
class Expectation:
    """One fault of the chat service and what must be seen of it.

    `alert_labels` tell the fault's own alert from others of the same name. `rollback` says that the gate must fail;
    otherwise it must answer as before. `grades` are the grades that the evidence may have in the end.
    """

    fault: str
    kind: str
    alert: str
    rollback: bool
    grades: tuple[str, ...]
    alert_labels: dict[str, str] = field(default_factory=dict)
    sides: int = 0
    """How many of victim and offender the evidence must name at least."""

    @property
    def lowers_score(self) -> bool:
        return "hygiene" not in self.grades


CROSSING = ("reachable", "crossed")

# Those that lower the score come first: it recovers over a minute, while the others run.
EXPECTATIONS: Final = (
    Expectation("shared-agent", names.INSTANCE_REUSE, "IsolationViolation", True, CROSSING, {"kind": names.INSTANCE_REUSE}, sides=2),
    Expectation("wrong-socket", names.WRONG_SOCKET, "WebSocketIsolationViolation", True, ("crossed",), sides=2),
    Expectation(
        "inherited-context", names.INHERITED_CONTEXT, "IsolationViolation", True, CROSSING, {"kind": names.INHERITED_CONTEXT}, sides=2
    ),
    Expectation("session-leak", names.SESSION_LEAK, "SessionLeak", True, ("hygiene",), sides=1),
    Expectation("slow-factory", names.SLOW_CREATION, "InstanceCreationSlow", False, ("hygiene",)),
    # Each lost agent_completed is one of five owed events: delivery falls below 95 % and the gate must fail.
    Expectation("lost-event", names.INCOMPLETE_RUN, "RunIncomplete", True, ("hygiene",)),
)
