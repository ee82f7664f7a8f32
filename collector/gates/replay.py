"""Replay: judge a stored decision again, from its own inputs. The verdict must be the same, byte for byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from isolation_monitor.collector.gates.domain import GatePlan, Inputs, judge

Json = dict[str, Any]  # Any: JSON

SCHEMA: Final = "gate-decision/1"


class NotADecision(ValueError):
    """What was given is no stored decision, or was changed since; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A decision beside its replay, both as canonical JSON."""

    decision_id: str
    verdict: str
    stored: str
    replayed: str

    @property
    def same(self) -> bool:
        return self.stored == self.replayed


def replay(decision: Json) -> Replay:
    """Judge a decision (`gate-decision/1`) again.

    Raises:
        NotADecision: it is none, or its inputs or configuration are not those that its hashes name.
    """
    if not isinstance(decision, dict) or decision.get("schema") != SCHEMA:
        raise NotADecision(f"this is no decision of a gate: its schema is not {SCHEMA}")
    for part in ("config", "inputs"):
        if sha256(decision.get(part)) != decision.get(f"{part}_sha256"):
            raise NotADecision(f"{part} is not what was stored: its hash differs from {part}_sha256")
    try:
        judged = judge(GatePlan.from_json(decision["config"]), Inputs.from_json(decision["inputs"]))
        again = judged.as_json()
        stored = {name: decision["answer"][name] for name in again}
        return Replay(str(decision["decision_id"]), judged.verdict, canonical(stored), canonical(again))
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise NotADecision(f"the decision is incomplete ({type(error).__name__}: {error})") from None


def canonical(value: object) -> str:
    """Return JSON of which there is one form only: sorted, compact, finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def sha256(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
