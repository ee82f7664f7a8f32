"""The journal of a validation: one JSON object a line, on the disk before anything else happens, so that a restart goes on from it.

Its first line says what is validated; every other one is something that was seen. The time that counts is added up from these: what
nobody saw is no part of it.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.collector.clock import rfc3339, utc_now

SCHEMA: Final = "validation-journal/1"

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class Plan:
    """What a validation is; one that goes on must be the same. Durations in seconds; `drill_every_s` None: no drills."""

    service: str
    for_s: float
    look_every_s: float
    drill_every_s: float | None
    load: str | None
    min_exposed_requests: int
    min_owed_events: int


class Journal:
    """An open journal.

    `run` names this validation, and the rollout by which the collector watches it. `entries` are what was seen so far,
    oldest first; `observed_s` are the seconds during which the service was in sight.
    """

    def __init__(self, path: Path, plan: Plan, header: Json, entries: list[Json]) -> None:
        self.path = path
        self.plan = plan
        self.run = str(header["run"])
        self.started_at = str(header["started_at"])
        self.entries: list[Json] = []
        self.observed_s = 0.0
        for entry in entries:
            self._keep(entry)

    def add(self, kind: str, **content: Any) -> Json:  # Any: JSON
        """Write down something that was seen; it is on the disk when this returns."""
        entry = {"kind": kind, "at": _now(), **content}
        _append(self.path, entry)
        self._keep(entry)
        return entry

    def _keep(self, entry: Json) -> None:
        self.entries.append(entry)
        if entry["kind"] == "gate":
            self.observed_s += entry["counted_s"]


def open_journal(path: Path, plan: Plan) -> tuple[Journal, bool]:
    """Return the journal at `path`, and whether it goes on from before; a new one where there is none.

    Raises:
        UsageError: the file holds something else, or another plan.
    """
    if not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"schema": SCHEMA, "run": f"validation-{secrets.token_hex(4)}", "started_at": _now(), "plan": asdict(plan)}
        _append(path, header)
        return Journal(path, plan, header, []), False
    text = path.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:
        # The line that a kill cut off was never acted upon.
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    lines: list[Json] = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UsageError(f"{path}, line {number}: {line[:60]!r} is no JSON; give another --journal") from None
    if not lines or lines[0].get("schema") != SCHEMA:
        raise UsageError(f"{path} is no journal of a validation ({SCHEMA}); give another --journal")
    before = lines[0]["plan"]
    if changed := sorted(name for name, value in asdict(plan).items() if before.get(name) != value):
        said = ", ".join(f"{name} was {before.get(name)!r} and is {asdict(plan)[name]!r}" for name in changed)
        raise UsageError(f"{path} belongs to another validation ({said}): say the same again to go on, or give another --journal")
    return Journal(path, plan, lines[0], lines[1:]), True


def _append(path: Path, entry: Json) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _now() -> str:
    return rfc3339(utc_now())
