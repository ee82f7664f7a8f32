"""What forgetting a subject does to a record, in plain values.

Evidence has two sides, and the other one's right to it stays. So a violation that has another known user on its other side loses the
subject's side only: what that says of code (route, transport, endpoint, stack) stays, what it says of the subject goes. Without
another user it goes as a whole, as do the subject's runs. Wherever else the subject's hash or the ids of his request, run and
connection stand, the word `forgotten` takes their place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.affected import FORGOTTEN

Json = dict[str, Any]  # Any: whatever JSON the sender put there

PRINCIPAL: Final = re.compile(r"[0-9a-f]{16}")
"""A hash as telemetry makes it, and nothing else: a word would be replaced wherever it stands, for good."""
_OF_CODE: Final = ("route", "transport", "endpoint", "stack")
_IDS: Final = ("request_id", "run_id", "connection_id", "trace_id", "span_id")
_SIDES: Final = ("victim", "offender")


@dataclass(frozen=True, slots=True)
class Forgetting:
    """One request to forget, of whom is not said: `subject` is a hash of the hash. `removed` and `changed` count records."""

    id: str
    subject: str
    actor: str
    started_at: datetime
    finished_at: datetime | None
    removed: int
    changed: int


def subject_of(principal: str) -> str:
    """Return what the list of forgettings keeps of a principal: enough to find his again, for who knows the hash."""
    return hashlib.sha256(b"forgotten subject\0" + principal.encode()).hexdigest()[:32]


def violation_without(principal: str, row: Mapping[str, Any]) -> Json | None:
    """Return the changed columns of a violation, empty where the subject is not in it; None when all of it has to go."""
    of_subject = [name for name in _SIDES if _is_of(row[name], principal)]
    if of_subject and not any(_names_another(row[name], principal) for name in _SIDES):
        return None
    # A short id could be part of any word: it is replaced where it stands alone, the hash also within a text.
    ids = {str(value) for name in of_subject for field in _IDS if (value := row[name].get(field))}
    changed: Json = {}
    for name in ("summary", "resource", "victim", "offender", "detail", "extra"):
        new = _side_without(row[name], principal, ids) if name in of_subject else _without(row[name], principal, ids)
        if new != row[name]:
            changed[name] = new
    return changed


def ids_of(principal: str, row: Mapping[str, Any]) -> set[str]:
    """Return the ids of the subject in a violation: the hash, and those of the sides that are the subject's."""
    sides = [row[name] for name in _SIDES if _is_of(row[name], principal)]
    return {principal} | {value for side in sides for name in _IDS if isinstance(value := side.get(name), str)}


def columns_without(principal: str, row: Mapping[str, Any], columns: tuple[str, ...]) -> Json:
    """Return the changed ones of these columns."""
    return {name: new for name in columns if (new := _without(row[name], principal, set())) != row[name]}


def _is_of(side: object, principal: str) -> bool:
    return isinstance(side, dict) and side.get("principal") == principal


def _names_another(side: object, principal: str) -> bool:
    return isinstance(side, dict) and side.get("principal") not in (None, principal)


def _side_without(side: Json, principal: str, ids: set[str]) -> Json:
    of_code = {name: _without(side[name], principal, ids) for name in _OF_CODE if name in side}
    return {"principal": None, FORGOTTEN: True} | of_code


def _without(value: Any, principal: str, ids: set[str]) -> Any:  # Any: JSON
    if isinstance(value, str):
        return FORGOTTEN if value in ids else value.replace(principal, FORGOTTEN)
    if isinstance(value, list):
        return [_without(one, principal, ids) for one in value]
    if isinstance(value, dict):
        # A name is replaced only where it is the hash: an id of a request may be a word that readers look for.
        return {FORGOTTEN if name == principal else name: _without(one, principal, ids) for name, one in value.items()}
    return value
