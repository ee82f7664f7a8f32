"""What a gate's verdict means to a command: its exit code, its colour, the gravest reason, and which answers are none."""

from __future__ import annotations

from typing import Any, Final

from isolation_monitor.cli.collector_client import NotACollector

SCHEMA: Final = "gate/v1"
EXIT_CODES: Final = {"pass": 0, "fail": 10, "inconclusive": 20, "error": 30}
COLOURS: Final = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "magenta"}

Json = dict[str, Any]  # Any: JSON


class NotAGate(NotACollector):
    """As its class says; it must never read as a verdict."""

    def __init__(self) -> None:
        super().__init__("a collector's gate")


def judged(answer: Json) -> Json:
    """Return the answer of a gate with a verdict that is known here.

    Raises:
        NotAGate: it is none.
    """
    if answer.get("schema") != SCHEMA or answer.get("verdict") not in EXIT_CODES:
        raise NotAGate
    return answer


def gravest_reason(answer: Json) -> str:
    """Return the gravest reason as a sentence; empty when there is none."""
    reasons = answer.get("reasons") or [{}]
    return str(reasons[0].get("detail", ""))
